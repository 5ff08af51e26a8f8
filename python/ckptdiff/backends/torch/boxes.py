"""Which elements of a tensor somebody holds: boxes, and runs of their elements in row-major order.

A whole tensor is one box, a shard is one, and the rows that an interleaved shard has are several.
A run of a box's elements is a few slices of a tensor that holds the box, or a few runs of the whole
tensor's elements, which is how a file has them. Row-major order within a box is that of the whole
tensor, so the first of equal elements is the first in either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch

from ckptdiff.backends.torch.codes import Tensor

__all__ = ["Box", "elements_of", "whole"]


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """Where a part of a tensor begins in each dimension, and its size in each."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return prod(self.sizes)

    def index_in(self, shape: Sequence[int], flat: int) -> int:
        """Where the element of that number in the box is in a tensor of that shape."""
        index, step = 0, 1
        for offset, size, whole_size in zip(
            reversed(self.offsets), reversed(self.sizes), reversed(shape), strict=True
        ):
            flat, position = divmod(flat, size)
            index += (offset + position) * step
            step *= whole_size
        return index

    def runs(self, shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The elements [start, stop) of the box as runs of elements of a tensor of that shape."""
        length, dimension = 1, len(shape)
        while dimension and length == prod(shape[dimension:]):
            dimension -= 1
            length *= self.sizes[dimension]
        while start < stop:
            end = min(stop, start - start % length + length)
            first = self.index_in(shape, start)
            yield first, first + end - start
            start = end


def whole(shape: Sequence[int]) -> Box:
    """The box that is all of a tensor."""
    return Box((0,) * len(shape), tuple(shape))


def elements_of(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Elements [start, stop) in row-major order, one-dimensional and contiguous.

    They are copied where they do not lie like that, and nothing else is.
    """
    if tensor.is_contiguous():
        return tensor.view(-1)[start:stop]
    parts = list(_slices(tensor, start, stop))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _slices(tensor: Tensor, start: int, stop: int) -> Iterator[Tensor]:
    if start == stop:
        yield tensor.new_empty(0)
        return
    if tensor.dim() == 1:
        yield tensor[start:stop].contiguous()
        return
    row = tensor[0].numel()
    first, last = start // row, (stop - 1) // row
    if first == last:
        yield from _slices(tensor[first], start - first * row, stop - first * row)
        return
    if start % row:
        yield from _slices(tensor[first], start - first * row, row)
        first += 1
    end = stop // row
    if first < end:
        yield tensor[first:end].reshape(-1)
    if stop % row:
        yield from _slices(tensor[end], 0, stop - end * row)
