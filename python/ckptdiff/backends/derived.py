"""Tensors on a device under the names of another layout: views of them, as a map asks for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ckptdiff._core import Manifest

__all__ = ["derived_tensors"]

_Part: TypeAlias = tuple[int, int, Sequence[int], Sequence[int] | None]
_Item: TypeAlias = tuple[str, int] | tuple[str, Sequence[int], Sequence[_Part]]


def derived_tensors(
    tensors: Mapping[str, Any], manifest: Manifest, items: Iterable[_Item]
) -> dict[str, object]:
    """What of ``items``, as :meth:`Manifest.derived` takes them, is on a device.

    ``manifest`` is that of the tensors that items count. Everything is a view, or is put together
    a run of elements at a time (:mod:`ckptdiff.backends.torch.arranged`); nothing is copied here.

    Raises ValueError for a part of a tensor that is spread over processes.
    """
    names = manifest.names()
    derived: dict[str, object] = {}
    for item in items:
        if len(item) == 2:
            name, index = item
            if names[index] in tensors:
                derived[name] = tensors[names[index]]
            continue
        name, shape, parts = item
        if any(names[part[0]] in tensors for part in parts):
            derived[name] = _put_together(name, tuple(shape), parts, tensors, manifest, names)
    return derived


def _put_together(
    name: str,
    shape: tuple[int, ...],
    parts: Sequence[_Part],
    tensors: Mapping[str, Any],
    manifest: Manifest,
    names: Sequence[str],
) -> object:
    # torch has been imported: tensors are its own
    from ckptdiff.backends.torch.arranged import Arranged, HeldPiece, StoredPiece

    pieces: list[HeldPiece | StoredPiece] = []
    for part in parts:
        index, first, size, axes = part
        tensor = tensors.get(names[index])
        if tensor is None:
            alone = manifest.derived([("piece", size if axes is None else _turned(size, axes),
                                       [part])])  # fmt: skip
            pieces.append(StoredPiece(alone, math.prod(size)))
            continue
        if hasattr(tensor, "placements") or hasattr(tensor, "local_shards"):
            raise ValueError(
                f"tensor {name!r} is made of parts of {names[index]!r}, which is spread over "
                "processes; gather it first (tensor.full_tensor())"
            )
        turn = None if axes is None else tuple(axes)
        pieces.append(HeldPiece(tensor.detach(), first, tuple(size), turn))
    if len(pieces) == 1 and isinstance(pieces[0], HeldPiece) and pieces[0].view is not None:
        try:
            view: object = pieces[0].view.view(shape)
        except RuntimeError:
            pass
        else:
            return view
    return Arranged(pieces, shape)


def _turned(size: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(size[axis] for axis in axes)
