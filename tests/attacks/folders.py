"""Attacks with directories and indexes: missing parts, escapes from the folder, broken JSON."""

from __future__ import annotations

import json
from pathlib import Path

from tests.attacks.registry import attack
from tests.writers import Tensors, tensor, write_file, write_index, write_sharded

SHARD = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def tensors() -> Tensors:
    return {name: tensor([1.0, 2.0]) for name in ("a", "b", "c", "d")}


def checkpoint(folder: Path) -> Path:
    return write_sharded(folder / "checkpoint", tensors(), 2)


def indexed(folder: Path, weight_map: dict[str, object]) -> Path:
    """A directory with one good shard and this index."""
    directory = folder / "checkpoint"
    write_file(directory / SHARD, tensors())
    write_index(directory, weight_map)
    return directory


def raw_index(folder: Path, text: bytes) -> Path:
    directory = folder / "checkpoint"
    write_file(directory / SHARD, tensors())
    (directory / INDEX).write_bytes(text)
    return directory


# What is not there.


@attack("nowhere")
def missing_path(folder: Path) -> Path:
    """Does not exist."""
    return folder / "nowhere"


@attack("nowhere.safetensors")
def missing_file(folder: Path) -> Path:
    """Does not exist either, though its name sounds right."""
    return folder / "nowhere.safetensors"


@attack("plain.txt")
def path_through_a_file(folder: Path) -> Path:
    """Treats a file as a directory."""
    (folder / "plain.txt").write_text("x")
    return folder / "plain.txt" / "model.safetensors"


@attack("n" * 50)
def path_too_long(folder: Path) -> Path:
    """Has a name longer than file systems take."""
    return folder / ("n" * 5000)


@attack("empty")
def empty_directory(folder: Path) -> Path:
    """Has nothing in it."""
    (folder / "empty").mkdir()
    return folder / "empty"


@attack("docs")
def directory_without_checkpoint(folder: Path) -> Path:
    """Has files, but no checkpoint."""
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text("hello")
    (folder / "docs" / "config.json").write_text("{}")
    return folder / "docs"


@attack("two")
def two_files_without_index(folder: Path) -> Path:
    """Leaves open which of two files is meant, or whether both are."""
    write_file(folder / "two" / "first.safetensors", tensors())
    write_file(folder / "two" / "second.safetensors", tensors())
    return folder / "two"


@attack("model.safetensors")
def directory_named_like_a_file(folder: Path) -> Path:
    """Is an empty directory with the name of a checkpoint."""
    (folder / "model.safetensors").mkdir()
    return folder / "model.safetensors"


@attack("model.safetensors")
def directory_in_place_of_the_file(folder: Path) -> Path:
    """Has a directory where its file should be."""
    (folder / "checkpoint" / "model.safetensors").mkdir(parents=True)
    return folder / "checkpoint"


@attack("model-00002-of-00002.safetensors")
def shard_missing(folder: Path) -> Path:
    """Has an index that names a file which is not there."""
    directory = checkpoint(folder)
    (directory / "model-00002-of-00002.safetensors").unlink()
    return directory


@attack("model-00002-of-00002.safetensors")
def shard_missing_by_its_index(folder: Path) -> Path:
    """The same, and the path given is the index."""
    return shard_missing(folder) / INDEX


@attack("model-00002-of-00002.safetensors")
def shard_a_dangling_link(folder: Path) -> Path:
    """Is a Hub snapshot whose blob was deleted."""
    directory = checkpoint(folder)
    shard = directory / "model-00002-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to("../blobs/0123")
    return directory


@attack("model-00002-of-00002.safetensors")
def shard_a_directory(folder: Path) -> Path:
    """Has a directory where a shard should be."""
    directory = checkpoint(folder)
    (directory / "model-00002-of-00002.safetensors").unlink()
    (directory / "model-00002-of-00002.safetensors").mkdir()
    return directory


@attack(SHARD, "e")
def tensor_missing_from_its_shard(folder: Path) -> Path:
    """Has an index that names a tensor which the shard does not hold."""
    return indexed(folder, dict.fromkeys("abcde", SHARD))


@attack("model-00002-of-00002.safetensors")
def shard_truncated(folder: Path) -> Path:
    """Has a shard that lost its last byte."""
    directory = checkpoint(folder)
    shard = directory / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    return directory


# Shard names that lead elsewhere. Each leads to a good file: following it would succeed.


def outside(folder: Path) -> Path:
    return write_file(folder / "outside.safetensors", tensors())


@attack(INDEX, "outside.safetensors")
def shard_in_the_parent(folder: Path) -> Path:
    """Reads a file beside the directory."""
    outside(folder)
    return indexed(folder, {"a": SHARD, "b": "../outside.safetensors"})


@attack(INDEX, "outside.safetensors")
def shard_in_the_parent_by_a_detour(folder: Path) -> Path:
    """Reads it by way of a directory inside."""
    outside(folder)
    directory = indexed(folder, {"a": SHARD, "b": "inner/../../outside.safetensors"})
    (directory / "inner").mkdir()
    return directory


@attack(INDEX, "outside.safetensors")
def shard_by_absolute_path(folder: Path) -> Path:
    """Reads a file anywhere."""
    return indexed(folder, {"a": SHARD, "b": str(outside(folder))})


@attack(INDEX)
def shard_named_dot(folder: Path) -> Path:
    """Names the directory itself."""
    return indexed(folder, {"a": SHARD, "b": "."})


@attack(INDEX)
def shard_named_nothing(folder: Path) -> Path:
    """Names the empty string."""
    return indexed(folder, {"a": SHARD, "b": ""})


@attack(INDEX)
def shard_with_a_null_byte(folder: Path) -> Path:
    """Ends early for the system and not for the checker."""
    return indexed(folder, {"a": SHARD, "b": f"{SHARD}\0.txt"})


@attack(INDEX)
def shard_the_index_itself(folder: Path) -> Path:
    """Names the index as a shard."""
    return indexed(folder, {"a": SHARD, "b": INDEX})


@attack(INDEX, "\\n")
def shard_with_a_line_break(folder: Path) -> Path:
    """Wants its own line in the message."""
    return indexed(folder, {"a": SHARD, "b": "x\nerror: all is well\x1b[2J"})


# The index as text and as JSON.


@attack(INDEX)
def index_empty(folder: Path) -> Path:
    """Has no bytes."""
    return raw_index(folder, b"")


@attack(INDEX)
def index_not_json(folder: Path) -> Path:
    """Is text of another kind."""
    return raw_index(folder, b"weight_map: {}\n")


@attack(INDEX)
def index_not_utf8(folder: Path) -> Path:
    """Has a byte that no UTF-8 text has."""
    return raw_index(folder, b'{"weight_map": {"a\xff": "x.safetensors"}}')


@attack(INDEX)
def index_an_array(folder: Path) -> Path:
    """Is JSON, but no object."""
    return raw_index(folder, b"[]")


@attack(INDEX)
def index_without_weight_map(folder: Path) -> Path:
    """Does not say where any tensor is."""
    return raw_index(folder, b'{"metadata": {"total_size": 8}}')


@attack(INDEX)
def index_weight_map_an_array(folder: Path) -> Path:
    """Has a list of names where the map should be."""
    return raw_index(folder, b'{"weight_map": ["a"]}')


@attack(INDEX)
def index_shard_not_text(folder: Path) -> Path:
    """Has a number for a shard."""
    return indexed(folder, {"a": SHARD, "b": 7})


@attack(INDEX)
def index_shard_null(folder: Path) -> Path:
    """Has null for a shard."""
    return indexed(folder, {"a": SHARD, "b": None})


@attack(INDEX)
def index_duplicate_name(folder: Path) -> Path:
    """Says of one tensor that it is in two shards."""
    text = f'{{"weight_map": {{"a": "{SHARD}", "a": "other.safetensors"}}}}'
    return raw_index(folder, text.encode())


@attack(INDEX)
def index_nested_deeply(folder: Path) -> Path:
    """Nests a million arrays to overflow the parser's stack."""
    return raw_index(folder, b'{"weight_map":' + b"[" * 1_000_000)


def index_nested_metadata(folder: Path) -> Path:
    """Nests a hundred thousand objects in a part that nobody reads: no attack, but no crash."""
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    good = json.dumps({"a": SHARD}).encode()
    return raw_index(folder, b'{"metadata":' + deep + b',"weight_map":' + good + b"}")


@attack("shards.bin.index.json")
def index_of_another_format(folder: Path) -> Path:
    """Is the index of torch shards."""
    path = folder / "shards.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}))
    return path
