"""The parts that a model is made of, by which two layouts of the same weights are matched.

A layout is a way to name and to store a model's tensors. What one keeps in a tensor another may
keep in three, or the other way round, so neither's tensors can be what is matched. A part is the
smallest thing that any of them stores by itself: the q of a layer, the gate of one expert. It has
a name and an orientation of its own (that of Hugging Face: rows are outputs), and each layout says
of each of its tensors which parts are in it, and where. That is all a layout has to say, and maps
between any two follow in both directions.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

from ckptdiff._core import Manifest
from ckptdiff.naming.wrappers import without_wrappers

__all__ = [
    "PARTS_AT_MOST",
    "Join",
    "Layout",
    "Model",
    "Orientation",
    "Part",
    "Shape",
    "Stored",
    "in_rows",
    "turned",
    "whole",
]

Shape: TypeAlias = tuple[int, ...]

#: More parts than a tensor of any model stacks; a shape that claims more is not believed.
PARTS_AT_MOST = 4096


_LISTED_AT_ONCE = 4096


class Orientation(enum.Enum):
    """How a matrix lies in a file, as against the part's own orientation."""

    STRAIGHT = "straight"
    TRANSPOSED = "transposed"


class Part(NamedTuple):
    """A part where a tensor has it: ``first`` is the element of the tensor at which it begins.

    ``shape`` is the part's own, whatever its orientation in the tensor.
    """

    name: str
    first: int
    shape: Shape
    orientation: Orientation = Orientation.STRAIGHT

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def stored_shape(self) -> Shape:
        """Its shape as it lies in the tensor."""
        return turned(self.shape, self.orientation)


class Join(enum.Enum):
    """What shape parts have together, one after the other in a tensor."""

    ROWS = "rows"
    STACK = "stack"
    FLAT = "flat"


class Stored(NamedTuple):
    """What a tensor holds: its parts in their order, and how they make up its shape.

    ``stacks`` is how many equal rows of parts lie along the first of the dimensions of a stack.
    """

    parts: tuple[Part, ...]
    join: Join = Join.ROWS
    stacks: int = 1

    def shape_of(self, shapes: Sequence[Shape]) -> Shape | None:
        """The tensor's shape if its parts, as they lie in it, have these; None if they do not fit.

        That is not always the shape it has: the parts may be those of another, larger model.
        """
        if self.join is Join.FLAT:
            return (sum(map(math.prod, shapes)),)
        first = shapes[0]
        if not first:
            return first if len(shapes) == 1 else None
        if any(not shape or shape[1:] != first[1:] for shape in shapes):
            return None
        rows = sum(shape[0] for shape in shapes)
        if self.join is Join.ROWS:
            return (rows, *first[1:])
        if rows % self.stacks:
            return None
        return (self.stacks, rows // self.stacks, *first[1:])


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to name and store a model's tensors; names are without wrappers.

    ``block`` matches the beginning of names that only this layout has. ``part`` gives the part
    that a tensor of a name is, in the part's own orientation, and None for any other tensor; there
    can be a million of those, and nothing is made but a name. ``stored`` says what is in a tensor
    of another name and this shape, None where the layout does not know it.
    """

    name: str
    title: str
    block: re.Pattern[str]
    embeddings: str
    head: str
    part: Callable[[str, Model], str | None]
    stored: Callable[[str, Shape, Model], Stored | None]


class Model:
    """The tensors of a checkpoint by their names without wrappers.

    There can be a million, so hardly anything is kept of each.
    """

    def __init__(self, names: Sequence[str], manifest: Manifest) -> None:
        self.names = names
        self._manifest = manifest

    def stripped(self, index: int) -> str:
        """The name of a tensor without wrappers."""
        return without_wrappers(self.names[index])

    @cached_property
    def _index(self) -> dict[str, int]:
        """Where each tensor is but for experts, of which there are many and nobody asks."""
        index: dict[str, int] = {}
        for place, name in enumerate(self.names):
            if ".experts." not in name:
                index.setdefault(without_wrappers(name), place)
        return index

    @cached_property
    def tensors(self) -> list[tuple[str, Shape]]:
        """(dtype, shape) of each tensor; there are few different ones, and each is there once."""
        kinds: dict[tuple[str, Shape], tuple[str, Shape]] = {}
        tensors = []
        for start in range(0, len(self.names), _LISTED_AT_ONCE):
            stop = min(start + _LISTED_AT_ONCE, len(self.names))
            for _, dtype, shape, *_ in self._manifest.tensors(range(start, stop)):
                tensors.append(kinds.setdefault((dtype, shape), (dtype, shape)))
        return tensors

    def __contains__(self, stripped: str) -> bool:
        return stripped in self._index

    def index(self, stripped: str) -> int | None:
        """The index of a tensor, by its name without wrappers."""
        return self._index.get(stripped)

    def shape(self, stripped: str) -> Shape | None:
        """The shape of a tensor, by its name without wrappers."""
        index = self._index.get(stripped)
        return None if index is None else self.tensors[index][1]

    def columns(self, *stripped: str) -> int | None:
        """The last size of the first of these tensors that there is."""
        for name in stripped:
            shape = self.shape(name)
            if shape:
                return shape[-1]
        return None


def turned(shape: Shape, orientation: Orientation) -> Shape:
    """A shape the other way round, or not."""
    return shape[::-1] if orientation is Orientation.TRANSPOSED else shape


def whole(name: str, shape: Shape) -> Stored:
    """A tensor that is one part."""
    return Stored((Part(name, 0, shape),))


def in_rows(names: Sequence[str], rows: Sequence[int], shape: Shape) -> Stored | None:
    """A tensor whose parts have so many rows each; None where those are not all that it has."""
    if not shape or sum(rows) != shape[0] or min(rows) <= 0:
        return None
    row = math.prod(shape[1:])
    parts, first = [], 0
    for name, count in zip(names, rows, strict=True):
        parts.append(Part(name, first, (count, *shape[1:])))
        first += count * row
    return Stored(tuple(parts))
