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
from ckptdiff.formats.options import OpenOptions
from ckptdiff.formats.recognise import first_bytes, hub_snapshot, some_of

__all__ = ["can_open", "open_checkpoint"]

_INDEX_SUFFIX = ".safetensors.index.json"
_FILE_SUFFIX = ".safetensors"
_USUAL_INDEX = "model.safetensors.index.json"

# An index opens with its metadata, so its weight_map key comes within this many bytes.
_INDEX_PREFIX_BYTES = 65536


def can_open(path: str) -> bool:
    """Whether ``path`` is a safetensors file, an index of some, or a directory with either."""
    if os.path.isdir(path):
        directory = hub_snapshot(path) or path
        return any(name.endswith((_INDEX_SUFFIX, _FILE_SUFFIX)) for name in os.listdir(directory))
    if not os.path.isfile(path):
        return False
    return path.endswith((_INDEX_SUFFIX, _FILE_SUFFIX)) or _has_header(path) or _is_index(path)


def open_checkpoint(path: str, options: OpenOptions) -> Checkpoint:
    """Read the header or headers at ``path``; no tensor is read.

    Raises InvalidCheckpointError where a file breaks the format and where a directory leaves open
    which of several files is meant, CheckpointNotFoundError where a shard is missing.
    """
    options.refuse_key(path, "safetensors")
    file = _file_to_read(path)
    if file.endswith(_INDEX_SUFFIX) or (not file.endswith(_FILE_SUFFIX) and _is_index(file)):
        manifest = Manifest.from_safetensors_index(file)
    else:
        manifest = Manifest.from_safetensors(file)
    return Checkpoint(manifest, path=path, format="safetensors")


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
    files = indexes or [name for name in names if name.endswith(_FILE_SUFFIX)]
    if not files:
        raise CheckpointNotFoundError(f"{directory}: no safetensors file in this directory")
    if len(files) > 1:
        raise InvalidCheckpointError(
            f"{directory}: holds {len(files)} safetensors files ({some_of(files)}) and no "
            f"*{_INDEX_SUFFIX} that says which tensor is read from which; name the file to read"
        )
    return os.path.join(directory, files[0])


def _has_header(path: str) -> bool:
    """Whether the file begins as safetensors does: a u64 length that fits, then ``{``."""
    start = first_bytes(path, 9)
    if len(start) < 9 or start[8:9] != b"{":
        return False
    return int.from_bytes(start[:8], "little") <= os.path.getsize(path) - 8


def _is_index(path: str) -> bool:
    if path.endswith(".bin.index.json"):
        return False
    start = first_bytes(path, _INDEX_PREFIX_BYTES)
    return start.lstrip().startswith(b"{") and b'"weight_map"' in start
