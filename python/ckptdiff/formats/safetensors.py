"""safetensors: a single file, or shards with an index that says which tensor is read from which.

A path may be the file, the index, a directory with either (a Hugging Face snapshot, whose entries
are symbolic links into ``blobs/``), or the ``models--org--name`` folder of the Hub's cache. Where
there is an index it alone decides: a stray shard beside it is not looked at. Everything about the
header (its length, its JSON, its offsets) is checked by the core.
"""

from __future__ import annotations

import os

from ckptdiff._core import Manifest
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointNotFoundError, InvalidCheckpointError
from ckptdiff.formats.index import is_index, shards_of
from ckptdiff.formats.options import OpenOptions
from ckptdiff.formats.recognise import (
    begins_as_safetensors,
    hub_snapshot,
    is_something_else,
    some_of,
)

__all__ = ["can_open", "open_checkpoint", "open_index"]

_INDEX_SUFFIX = ".safetensors.index.json"
_FILE_SUFFIX = ".safetensors"
_USUAL_INDEX = "model.safetensors.index.json"


def can_open(path: str) -> bool:
    """Whether ``path`` is a safetensors file, an index of some, or a directory with either."""
    if os.path.isdir(path):
        directory = hub_snapshot(path) or path
        names = os.listdir(directory)
        return any(name.endswith(_INDEX_SUFFIX) for name in names) or bool(_files(directory, names))
    if not os.path.isfile(path):
        return False
    if path.endswith(_INDEX_SUFFIX) or begins_as_safetensors(path) or _is_index(path):
        return True
    return path.endswith(_FILE_SUFFIX) and not is_something_else(path, _FILE_SUFFIX)


def open_checkpoint(path: str, options: OpenOptions) -> Checkpoint:
    """Read the header or headers at ``path``; no tensor is read.

    Raises InvalidCheckpointError where a file breaks the format and where a directory leaves open
    which of several files is meant, CheckpointNotFoundError where a shard is missing.
    """
    options.refuse_key(path, "safetensors")
    file = _file_to_read(path)
    if file.endswith(_INDEX_SUFFIX) or (not begins_as_safetensors(file) and _is_index(file)):
        return open_index(path, file)
    return Checkpoint(Manifest.from_safetensors(file), path=path, format="safetensors")


def open_index(path: str, index: str) -> Checkpoint:
    """Open the shards of an index, some of which may be torch files, as the checkpoint ``path``."""
    try:
        manifest = Manifest.from_safetensors_index(index)
    except InvalidCheckpointError:
        if not _names_other_files(index):
            raise
        from ckptdiff.formats import torch

        return torch.open_index(path, index)
    return Checkpoint(manifest, path=path, format="safetensors")


def _names_other_files(index: str) -> bool:
    """Whether a shard is a file that does not begin as safetensors do."""
    try:
        return any(
            is_something_else(shard.path, _FILE_SUFFIX) and not begins_as_safetensors(shard.path)
            for shard in shards_of(index)
        )
    except (InvalidCheckpointError, CheckpointNotFoundError):
        return False


def _file_to_read(path: str) -> str:
    """The one index or safetensors file that ``path`` stands for."""
    if not os.path.isdir(path):
        return path
    directory = hub_snapshot(path) or path
    names = sorted(os.listdir(directory))
    indexes = [name for name in names if name.endswith(_INDEX_SUFFIX)]
    if _USUAL_INDEX in indexes:
        return os.path.join(directory, _USUAL_INDEX)
    if len(indexes) > 1:
        raise InvalidCheckpointError(
            f"{directory}: holds {len(indexes)} indexes ({some_of(indexes)}); name the one to read"
        )
    files = indexes or _files(directory, names)
    if not files:
        raise CheckpointNotFoundError(f"{directory}: no safetensors file in this directory")
    if len(files) > 1:
        raise InvalidCheckpointError(
            f"{directory}: holds {len(files)} safetensors files ({some_of(files)}) and no "
            f"*{_INDEX_SUFFIX} that says which tensor is read from which; name the file to read"
        )
    return os.path.join(directory, files[0])


def _files(directory: str, names: list[str]) -> list[str]:
    """The names of safetensors files among these, without what has other content."""
    return [
        name
        for name in names
        if name.endswith(_FILE_SUFFIX)
        and not is_something_else(os.path.join(directory, name), _FILE_SUFFIX)
    ]


def _is_index(path: str) -> bool:
    return not path.endswith(".bin.index.json") and is_index(path)
