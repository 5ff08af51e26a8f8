"""Attacks with what is no regular file: links, pipes, devices, and names no terminal should see."""

from __future__ import annotations

import os
from pathlib import Path

from tests.attacks.files import GOOD, single
from tests.attacks.folders import checkpoint, tensors
from tests.attacks.registry import attack
from tests.writers import write_file


@attack("loop")
def link_to_itself(folder: Path) -> Path:
    """Is a symbolic link that leads to itself."""
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


@attack("model.safetensors")
def link_loop_in_a_directory(folder: Path) -> Path:
    """Has two symbolic links that lead to each other."""
    directory = folder / "checkpoint"
    directory.mkdir()
    (directory / "model.safetensors").symlink_to("other")
    (directory / "other").symlink_to("model.safetensors")
    return directory


@attack("dangling")
def link_to_nowhere(folder: Path) -> Path:
    """Is a symbolic link to what does not exist."""
    (folder / "dangling").symlink_to("nowhere")
    return folder / "dangling"


@attack("pipe.safetensors")
def pipe(folder: Path) -> Path:
    """Is a named pipe: opening it would wait for a writer for ever."""
    os.mkfifo(folder / "pipe.safetensors")
    return folder / "pipe.safetensors"


@attack("model.safetensors")
def pipe_in_a_directory(folder: Path) -> Path:
    """Has a named pipe where its file should be."""
    (folder / "checkpoint").mkdir()
    os.mkfifo(folder / "checkpoint" / "model.safetensors")
    return folder / "checkpoint"


@attack("model-00001-of-00002.safetensors")
def pipe_as_a_shard(folder: Path) -> Path:
    """Has a named pipe where a shard should be."""
    directory = checkpoint(folder)
    (directory / "model-00001-of-00002.safetensors").unlink()
    os.mkfifo(directory / "model-00001-of-00002.safetensors")
    return directory


@attack("model.safetensors.index.json")
def pipe_as_the_index(folder: Path) -> Path:
    """Has a named pipe where the index should be."""
    directory = checkpoint(folder)
    (directory / "model.safetensors.index.json").unlink()
    os.mkfifo(directory / "model.safetensors.index.json")
    return directory


@attack("zero.safetensors")
def device_without_end(folder: Path) -> Path:
    """Is a device that yields zeros for ever."""
    (folder / "zero.safetensors").symlink_to("/dev/zero")
    return folder / "zero.safetensors"


@attack("null")
def device_without_anything(folder: Path) -> Path:
    """Is a device that yields nothing."""
    return Path("/dev/null")


@attack("\\n")
def file_name_with_a_line_break(folder: Path) -> Path:
    """Wants its own line in the message, and the terminal cleared."""
    path = single(folder, GOOD, b"")
    return path.rename(folder / "x\nerror: all is well\x1b[2J.safetensors")


@attack("shard")
def file_name_not_utf8(folder: Path) -> Path:
    """Has a name that is no text, and is broken besides."""
    path = single(folder, GOOD, b"")
    return path.rename(folder / os.fsdecode(b"shard\xff.safetensors"))


@attack("model-00001-of-00002.safetensors")
def shard_links_in_a_loop(folder: Path) -> Path:
    """Has a shard that is a symbolic link to itself."""
    directory = checkpoint(folder)
    shard = directory / "model-00001-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to(shard.name)
    return directory


def good_file_with_a_name_not_utf8(folder: Path) -> Path:
    """A good checkpoint under a name that is no text: no attack, it must simply work."""
    path = write_file(folder / "good.safetensors", tensors())
    return path.rename(folder / os.fsdecode(b"good\xff.safetensors"))
