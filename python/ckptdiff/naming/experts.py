"""Experts of a layer that are stacked in one tensor, as parts of their own."""

from __future__ import annotations

from ckptdiff.naming.parts import PARTS_AT_MOST, Join, Orientation, Part, Shape, Stored

__all__ = ["expert", "stacked"]


def expert(layer: str, number: int | str, kind: str) -> str:
    """The name of a part: ``gate``, ``up`` or ``down`` of one expert."""
    return f"layers.{layer}.experts.{number}.{kind}.weight"


def stacked(
    layer: str, kinds: tuple[str, ...], experts: int, shape: Shape, orientation: Orientation
) -> Stored | None:
    """Experts one after the other: each a block of (rows of all kinds, columns), in (E, R, C) or
    with the first two dimensions in one.

    None where the shape is not that of so many equal blocks.
    """
    if len(shape) == 3:
        join, rows, columns = Join.STACK, shape[1], shape[2]
        if shape[0] != experts:
            return None
    elif len(shape) == 2 and experts and shape[0] % experts == 0:
        join, rows, columns = Join.ROWS, shape[0] // experts, shape[1]
    else:
        return None
    if rows % len(kinds) or rows == 0 or not 0 < experts <= PARTS_AT_MOST:
        return None
    block = (rows // len(kinds), columns)
    own = block[::-1] if orientation is Orientation.TRANSPOSED else block
    numel = block[0] * block[1]
    parts = tuple(
        Part(
            expert(layer, number, kind),
            (number * len(kinds) + place) * numel,
            own,
            orientation,
        )
        for number in range(experts)
        for place, kind in enumerate(kinds)
    )
    return Stored(parts, join, experts if join is Join.STACK else 1)
