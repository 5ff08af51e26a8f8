"""Tensors on a device under the names of another layout: views of them, as a map asks for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

__all__ = ["derived_tensors"]

_Part: TypeAlias = tuple[int, int, Sequence[int], Sequence[int] | None]
_Item: TypeAlias = tuple[str, int] | tuple[str, Sequence[int], Sequence[_Part]]


def derived_tensors(
    tensors: Mapping[str, Any], names: Sequence[str], items: Iterable[_Item]
) -> dict[str, object]:
    """What of ``items``, as :meth:`Manifest.derived` takes them, is on a device.

    ``names`` are those of the tensors that items count. Everything is a view, nothing is copied.

    Raises ValueError for a tensor that is made of several, which would be a copy, and for a part of
    one that is spread over processes.
    """
    derived: dict[str, object] = {}
    for item in items:
        if len(item) == 2:
            name, index = item
            if names[index] in tensors:
                derived[name] = tensors[names[index]]
            continue
        name, shape, parts = item
        sources = [names[part[0]] for part in parts]
        if not any(source in tensors for source in sources):
            continue
        if len(sources) > 1:
            raise ValueError(
                f"tensor {name!r} would be put together on a device from {', '.join(sources)}; "
                "move them to the host first (tensor.cpu()), or give the sides the other way round"
            )
        derived[name] = _view(name, tensors[sources[0]], shape, parts[0])
    return derived


def _view(name: str, tensor: Any, shape: Sequence[int], part: _Part) -> object:
    _, first, size, axes = part
    if hasattr(tensor, "placements"):
        raise ValueError(
            f"tensor {name!r} is a part of one that is spread over processes; gather it first "
            "(tensor.full_tensor())"
        )
    elements = tensor.detach().reshape(-1)[first : first + math.prod(size)].reshape(tuple(size))
    return (elements if axes is None else elements.permute(tuple(axes))).reshape(tuple(shape))
