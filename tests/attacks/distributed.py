"""Attacks by distributed checkpoints, their safetensors shards, and OLMo's encoded names.

torch itself writes the checkpoints; then something in them is changed.
"""

from __future__ import annotations

import base64
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.attacks.registry import attack
from tests.attacks.torch_files import Payload
from tests.writers import header_entry, write_raw


def changed(folder: Path, change: Callable[[Any], None]) -> Path:
    """A checkpoint of two tensors by torch, with a change of its metadata."""
    import torch
    import torch.distributed.checkpoint as dcp

    path = folder / "a"
    tensors = {"v": torch.arange(300.0), "w": torch.arange(300.0)}
    with warnings.catch_warnings():
        # that there is one process, and that its tensors are saved
        warnings.simplefilter("ignore")
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(path), no_dist=True)
    metadata = pickle.loads((path / ".metadata").read_bytes())
    change(metadata)
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    return path


def places(metadata: Any) -> list[Any]:
    """Where the items are, in their order in the file."""
    return sorted(metadata.storage_data.values(), key=lambda place: place.offset)


@attack("of __0_0.distcp", "'w'", "'v'")
def items_that_overlap(folder: Path) -> Path:
    """Has an item that begins in another: a thousand of them would be a thousand files of one."""

    def change(metadata: Any) -> None:
        first, second = places(metadata)
        second.length += second.offset - (first.offset + 10)
        second.offset = first.offset + 10

    return changed(folder, change)


@attack("of __0_0.distcp")
def items_that_are_one(folder: Path) -> Path:
    """Has two tensors in one item."""

    def change(metadata: Any) -> None:
        first, second = places(metadata)
        second.offset, second.length = first.offset, first.length

    return changed(folder, change)


@attack("__0_0.distcp")
def item_beyond_the_file(folder: Path) -> Path:
    """Has an item that begins in its file and ends behind it."""

    def change(metadata: Any) -> None:
        places(metadata)[1].length += 1

    return changed(folder, change)


@attack(".metadata", "all is\\nwell", "neither imported nor run")
def metadata_of_a_class_with_a_line_break(folder: Path) -> Path:
    """Wants its own line in the message, by the name of a class."""
    (folder / "a").mkdir()
    texts = (pickle.dumps(text, 4)[11:-2] for text in ("os", "all is\nwell"))
    (folder / "a" / ".metadata").write_bytes(b"\x80\x04" + b"".join(texts) + b"\x93.")
    return folder / "a"


@attack("..", "beside .metadata")
def item_in_another_directory(folder: Path) -> Path:
    """Reads a file elsewhere."""

    def change(metadata: Any) -> None:
        places(metadata)[0].relative_path = "../outside.distcp"

    return changed(folder, change)


@attack("'w'")
def boxes_that_overlap(folder: Path) -> Path:
    """Has a tensor of two boxes which both have its first half."""
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    def change(metadata: Any) -> None:
        chunks = metadata.state_dict_metadata["w"].chunks
        chunks.append(ChunkStorageMetadata(offsets=chunks[0].offsets, sizes=(150,)))
        place = metadata.storage_data[MetadataIndex("w", (0,))]
        metadata.storage_data[MetadataIndex("w", (150,))] = place

    return changed(folder, change)


# Safetensors that ranks wrote.


def shard(folder: Path, rank: int, header: object, data: int, info: object) -> None:
    """One rank's file, with ``info`` as its DCP_SHARDING_INFO."""
    text = info if isinstance(info, str) else json.dumps(info)
    assert isinstance(header, dict)
    metadata = {"__metadata__": {"DCP_SHARDING_INFO": text}}
    (folder / "a").mkdir(exist_ok=True)
    name = f"shard-{rank:05}-model-00001-of-00001.safetensors"
    write_raw(folder / "a" / name, json.dumps({**metadata, **header}).encode(), bytes(data))


def halves(folder: Path, second: object, entry: object | None = None) -> Path:
    """Two ranks with half a vector each; what the second says of its place is ``second``."""
    shard(folder, 1, {"w": header_entry("F32", [2], 0, 8)}, 8, {"w": {"saved_offsets": [0]}})
    piece = {"w": header_entry("F32", [2], 0, 8)} if entry is None else entry
    shard(folder, 2, piece, 8, second)
    return folder / "a"


@attack('"w"')
def shards_with_a_hole_between(folder: Path) -> Path:
    """Has a piece that begins behind the end of the one before."""
    return halves(folder, {"w": {"saved_offsets": [3]}})


@attack('"w"')
def shards_that_overlap(folder: Path) -> Path:
    """Has a piece that begins in the one before."""
    return halves(folder, {"w": {"saved_offsets": [1]}})


@attack('"w"')
def shards_of_a_tensor_without_end(folder: Path) -> Path:
    """Has a piece at an offset of nearly 2**62, so that the whole would be as large."""
    return halves(folder, {"w": {"saved_offsets": [2**62 - 3]}})


@attack("'w'", "saved_offsets")
def shards_at_no_place(folder: Path) -> Path:
    """Has a negative offset."""
    return halves(folder, {"w": {"saved_offsets": [-2]}})


@attack("shard-00002", "'w'", "saved_offsets")
def shards_of_other_tensors(folder: Path) -> Path:
    """Says where a tensor is that it does not have, and not where its own is."""
    return halves(folder, {"v": {"saved_offsets": [2]}})


@attack("shard-00002", "JSON")
def shards_whose_places_are_no_json(folder: Path) -> Path:
    """Nests its text until a parser gives up."""
    return halves(folder, "[" * 100_000)


@attack("'w'", "dtypes or ranks")
def shards_of_two_dtypes(folder: Path) -> Path:
    """Has half a tensor of floats and half of integers."""
    integers = {"w": header_entry("I32", [2], 0, 8)}
    return halves(folder, {"w": {"saved_offsets": [2]}}, integers)


@attack("shard-00002", "'w'")
def shards_of_two_ranks(folder: Path) -> Path:
    """Has a vector and a matrix for one tensor."""
    matrix = {"w": header_entry("F32", [1, 2], 0, 8)}
    return halves(folder, {"w": {"saved_offsets": [1]}}, matrix)


@attack("shard 00001 is missing")
def shards_that_begin_at_two(folder: Path) -> Path:
    """Lacks the first file."""
    shard(folder, 2, {"w": header_entry("F32", [2], 0, 8)}, 8, {"w": {"saved_offsets": [0]}})
    return folder / "a"


# OLMo's encoded names.


def named(folder: Path, *names: str | bytes) -> Path:
    """Safetensors whose names are these pickles in base64, or these texts."""
    texts = [
        base64.urlsafe_b64encode(name).decode() if isinstance(name, bytes) else name
        for name in names
    ]
    entries = {text: header_entry("F32", [2], 8 * at, 8 * at + 8) for at, text in enumerate(texts)}
    return write_raw(
        folder / "bad.safetensors", json.dumps(entries).encode(), bytes(8 * len(texts))
    )


GOOD_NAME = pickle.dumps((("w",), False), 4)


@attack("bad.safetensors", "system", "neither imported nor run")
def olmo_name_that_calls_the_system(folder: Path) -> Path:
    """Has a name that calls a command."""
    return named(folder, pickle.dumps((Payload(folder), False), 4))


@attack("bad.safetensors", "base64")
def olmo_name_that_is_no_base64(folder: Path) -> Path:
    """Begins as a name does, and ends in other text."""
    return named(folder, "gASV????")


@attack("bad.safetensors", "stands for no keys")
def olmo_name_of_no_keys(folder: Path) -> Path:
    """Is a pickle of something else."""
    return named(folder, pickle.dumps({"w": "a name that is long enough to be framed"}, 4))


@attack("bad.safetensors", "stands for no keys")
def olmo_name_with_a_line_break(folder: Path) -> Path:
    """Wants its own line in the output."""
    return named(folder, pickle.dumps((("w\nerror: all is well\x1b[2J",), False), 4))


@attack("bad.safetensors", "plain name")
def olmo_name_among_plain_ones(folder: Path) -> Path:
    """Has an encoded name and a plain one, which might mean the same."""
    return named(folder, GOOD_NAME, "w")


@attack("bad.safetensors", '"w.v"')
def olmo_names_that_mean_the_same(folder: Path) -> Path:
    """Has two names that are one when their keys are joined."""
    return named(folder, pickle.dumps((("w", "v"), False), 4), pickle.dumps((("w.v",), False), 4))


@attack("bad.safetensors", "cut off")
def olmo_name_cut_off(folder: Path) -> Path:
    """Is a pickle that ends before its end."""
    return named(folder, GOOD_NAME[:-2])
