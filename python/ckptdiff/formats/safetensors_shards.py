"""Safetensors that torch's distributed checkpoint wrote, each rank its own pieces.

``shard-0000R-model-*.safetensors`` of all ranks have tensors of the same names, and no index: each
file holds a piece of each. Where a piece begins in its tensor stands in the header's metadata,
under ``DCP_SHARDING_INFO``; how large the whole is stands nowhere, so it is as large as the pieces
reach, and they must fill it. A consolidated checkpoint has an index, as other safetensors have.
"""

from __future__ import annotations

import json
import os
import re

from ckptdiff._core import Manifest
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.errors import InvalidCheckpointError
from ckptdiff.formats.options import OpenOptions

__all__ = ["can_open", "open_checkpoint"]

_SHARD = re.compile(r"shard-(\d+)-model-\d+-of-\d+\.safetensors")
_SHARDING_INFO = "DCP_SHARDING_INFO"
_INDEX_SUFFIX = ".safetensors.index.json"
_SIZE_AT_MOST = 2**62


def can_open(path: str) -> bool:
    """Whether ``path`` is a directory of shards without an index."""
    if not os.path.isdir(path):
        return False
    names = os.listdir(path)
    return any(map(_SHARD.fullmatch, names)) and not any(
        name.endswith(_INDEX_SUFFIX) for name in names
    )


def open_checkpoint(path: str, options: OpenOptions) -> Checkpoint:
    """Read the headers of all shards.

    Raises InvalidCheckpointError where a file breaks the format, does not say where its pieces
    belong, or where pieces are missing or overlap.
    """
    options.refuse_key(path, "safetensors")
    files = sorted(name for name in os.listdir(path) if _SHARD.fullmatch(name))
    ranks = sorted({int(match[1]) for name in files if (match := _SHARD.fullmatch(name))})
    missing = next((rank for at, rank in enumerate(ranks, 1) if rank != at), None)
    if missing is not None:
        raise InvalidCheckpointError(
            f"{path}: shard {missing - 1:05} is missing, of shards up to {ranks[-1]:05}"
        )
    sources = [os.path.join(path, name) for name in files]
    pieces: dict[str, list[_Piece]] = {}
    for number, source in enumerate(sources):
        manifest = Manifest.from_safetensors(source)
        origins = _origins(manifest.metadata.get(_SHARDING_INFO), source)
        for index, name in enumerate(manifest.names()):
            _, dtype, shape, _, spans = manifest.tensor(index)
            origin = origins.get(name)
            if origin is None or len(origin) != len(shape):
                raise _broken(source, name, f"has no saved_offsets of {len(shape)} dimensions")
            offset = spans[0][1] if spans else 0
            pieces.setdefault(name, []).append(_Piece(number, dtype, origin, tuple(shape), offset))
    parted = []
    plain: list[tuple[str, str, tuple[int, ...], tuple[tuple[int, int, int], ...]]] = []
    for name, parts in pieces.items():
        if len({part.dtype for part in parts}) > 1 or len({len(p.origin) for p in parts}) > 1:
            raise _broken(path, name, "has pieces of different dtypes or ranks")
        shape = tuple(
            max(part.origin[axis] + part.sizes[axis] for part in parts)
            for axis in range(len(parts[0].origin))
        )
        # what is replicated may be in several files
        different = {(part.origin, part.sizes): part for part in reversed(parts)}
        filled = [part for part in different.values() if 0 not in part.sizes]
        if filled:
            filled.sort(key=lambda part: part.origin)
            parted.append(
                (
                    name,
                    parts[0].dtype,
                    shape,
                    [(p.source, p.offset, p.origin, p.sizes, None) for p in filled],
                )
            )
        else:
            plain.append((name, parts[0].dtype, shape, ()))
    manifest = Manifest.from_spans(sources, plain, None, None, None, parted)
    return Checkpoint(manifest, path=path, format="safetensors shards")


class _Piece:
    """A part of a tensor and where it is."""

    __slots__ = ("dtype", "offset", "origin", "sizes", "source")

    def __init__(
        self,
        source: int,
        dtype: str,
        origin: tuple[int, ...],
        sizes: tuple[int, ...],
        offset: int,
    ) -> None:
        self.source = source
        self.dtype = dtype
        self.origin = origin
        self.sizes = sizes
        self.offset = offset


def _origins(text: str | None, source: str) -> dict[str, tuple[int, ...]]:
    """Where each piece of a file begins in its tensor."""
    if text is None:
        raise InvalidCheckpointError(
            f"{source}: one of several shards, and no {_SHARDING_INFO} says where its pieces belong"
        )
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InvalidCheckpointError(f"{source}: its {_SHARDING_INFO} is no JSON object")
    origins: dict[str, tuple[int, ...]] = {}
    for name, entry in document.items():
        origin = entry.get("saved_offsets") if isinstance(entry, dict) else None
        if not isinstance(origin, list) or not all(
            type(at) is int and 0 <= at < _SIZE_AT_MOST for at in origin
        ):
            raise _broken(source, name, "has no saved_offsets")
        origins[name] = tuple(origin)
    return origins


def _broken(source: str, name: str, why: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(f"{source}: tensor {name[:200]!r} {why}")
