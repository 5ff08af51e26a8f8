"""Indexes of shards: JSON with a ``weight_map``, which says which tensor is read from which file.

An index is known by that, whatever its name is; and each shard by its own content: what is called
``pytorch_model-00001-of-00002.bin`` may be safetensors. Indexes of safetensors alone, which can
have hundreds of thousands of names, are read by the core instead.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ckptdiff.errors import CheckpointNotFoundError, InvalidCheckpointError
from ckptdiff.formats.recognise import first_bytes, refuse_special

__all__ = ["Shard", "is_index", "shards_of"]

_INDEX_BYTES_AT_MOST = 100_000_000

# An index opens with its metadata, so its weight_map key comes within this many bytes.
_INDEX_PREFIX_BYTES = 65536


class Shard(NamedTuple):
    """A file and the tensors of it that count: those that the index names, or None for all."""

    path: str
    names: Sequence[str] | None


def is_index(path: str) -> bool:
    """Whether the file is JSON that begins as an index does."""
    start = first_bytes(path, _INDEX_PREFIX_BYTES)
    return start.lstrip().startswith(b"{") and b'"weight_map"' in start


def shards_of(index: str) -> Iterator[Shard]:
    """The shards that an index names, in their order there.

    Raises InvalidCheckpointError where it is no index or a name leads elsewhere,
    CheckpointNotFoundError where a shard is missing.
    """
    directory = os.path.dirname(index)
    by_shard: dict[str, list[str]] = {}
    for name, shard in _weight_map(index):
        by_shard.setdefault(shard, []).append(name)
    for shard, names in by_shard.items():
        if not _is_inside(shard):
            raise InvalidCheckpointError(
                f"{index}: shard name {shard[:200]!r} leads out of the checkpoint's directory"
            )
        path = os.path.join(directory, shard)
        if not os.path.exists(path):
            raise CheckpointNotFoundError(
                f"{index}: names shard {shard[:200]!r}, which does not exist"
            )
        refuse_special(path)
        yield Shard(path, names)


def _is_inside(shard: str) -> bool:
    parts = shard.split("/")
    return not ({"", ".", ".."} & set(parts)) and "\0" not in shard and "\\" not in shard


def _weight_map(index: str) -> Iterator[tuple[str, str]]:
    """Tensor names and shards of an index, checked."""
    if not os.path.isfile(index):
        raise InvalidCheckpointError(f"{index}: expected a regular file")
    if os.path.getsize(index) > _INDEX_BYTES_AT_MOST:
        raise InvalidCheckpointError(f"{index}: an index of more than 100 MB")
    with open(index, "rb") as file:
        text = file.read(_INDEX_BYTES_AT_MOST)
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise InvalidCheckpointError(f"{index}: not valid JSON: {reason[:200]}") from None
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict):
        raise InvalidCheckpointError(f"{index}: expected a weight_map of names to shards")
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise InvalidCheckpointError(f"{index}: tensor {name[:200]!r} has no shard")
        yield name, shard


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands in it twice")
    return made
