"""Which matrices a tensor is.

A tensor of two dimensions is a matrix. The weight of a convolution, (out, in, kernel …), is the
matrix (out, in · kernel) that maps a patch to the channels. A tensor of three dimensions that holds
experts, (experts, rows, columns), is as many matrices. Nothing in a file tells a one-dimensional
convolution from experts, so the name does: it is experts if it matches one of some globs. One of
two dimensions can hold them, too, one below the other; see the module ``experts``.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["EXPERTS", "MatrixRef", "matrices_of"]

#: The names of tensors that hold a matrix per expert, where they have three dimensions.
EXPERTS = ("*expert*",)


@dataclass(frozen=True, slots=True)
class MatrixRef:
    """``rows`` × ``columns`` elements of a tensor, from its element ``start`` on, in row-major
    order.

    ``name`` is the tensor's, with the number of the expert in brackets where there are several.
    """

    name: str
    rows: int
    columns: int
    start: int

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return self.rows * self.columns


def matrices_of(
    name: str,
    shape: Sequence[int],
    experts: Sequence[str] = EXPERTS,
    count: int | None = None,
) -> Iterator[MatrixRef]:
    """The matrices of a tensor; none for vectors and scalars, nor where there are no elements.

    ``count`` is how many experts a tensor of two dimensions has, None if it is one matrix; a row
    for each is a vector for each.

    >>> [(m.name, m.rows, m.columns) for m in matrices_of("conv.weight", (64, 3, 7, 7))]
    [('conv.weight', 64, 147)]
    >>> [(m.name, m.start) for m in matrices_of("mlp.experts.down_proj", (2, 8, 4))]
    [('mlp.experts.down_proj[0]', 0), ('mlp.experts.down_proj[1]', 32)]
    >>> [(m.name, m.rows, m.start) for m in matrices_of("experts.mlp.w1", (6, 4), count=2)]
    [('experts.mlp.w1[0]', 3, 0), ('experts.mlp.w1[1]', 3, 12)]
    """
    if len(shape) < 2 or 0 in shape:
        return
    are_experts = any(re.match(fnmatch.translate(glob), name) for glob in experts)
    if len(shape) == 2 and count and are_experts and shape[0] % count == 0:
        if shape[0] == count:
            return
        shape = (count, shape[0] // count, shape[1])
    if len(shape) == 3 and are_experts:
        count, rows, columns = shape
        for expert in range(count):
            yield MatrixRef(f"{name}[{expert}]", rows, columns, expert * rows * columns)
        return
    columns = 1
    for size in shape[1:]:
        columns *= size
    yield MatrixRef(name, shape[0], columns, 0)
