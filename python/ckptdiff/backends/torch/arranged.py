"""A tensor that is put together from others, a run of its elements at a time.

A map between layouts cuts tensors into pieces, turns them and lays them one after the other: q, k
and v are one tensor there, experts another. To make such a tensor whole would take its size on the
device. So it is only described here, and a chunk of it is made when it is wanted: of views of its
pieces where their strides allow, else by looking each element up.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod

import torch

from ckptdiff._core import Manifest
from ckptdiff.backends.torch.boxes import Box, elements_of
from ckptdiff.backends.torch.codes import Encoding, Tensor, codes_of

__all__ = ["Arranged", "BoxOfArranged", "HeldPiece", "StoredPiece"]


@dataclass(frozen=True, eq=False)
class HeldPiece:
    """A run of a tensor's elements from ``first`` on, as a tensor of ``size``, transposed as
    ``numpy.transpose`` does where ``axes`` are given.
    """

    tensor: Tensor
    first: int
    size: tuple[int, ...]
    axes: tuple[int, ...] | None

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return prod(self.size)

    @cached_property
    def view(self) -> Tensor | None:
        """The piece without a copy, None where its strides do not allow that."""
        if self.tensor.is_contiguous():
            part = self.tensor.view(-1)[self.first : self.first + self.numel].view(self.size)
        else:
            part = self._rows()
        return part if part is None or self.axes is None else part.permute(self.axes)

    def _rows(self) -> Tensor | None:
        """Whole rows of a tensor that does not lie in its own order."""
        row = prod(self.tensor.shape[1:])
        if not row or self.first % row or self.numel % row:
            return None
        rows = self.tensor.narrow(0, self.first // row, self.numel // row)
        try:
            return rows.view(self.size)
        except RuntimeError:
            return None

    def codes(self, start: int, stop: int, encoding: Encoding) -> Tensor:
        """The codes of its elements [start, stop), in the piece's own order."""
        if self.view is not None:
            elements = elements_of(self.view, start, stop)
        elif self.axes is None:
            elements = elements_of(self.tensor, self.first + start, self.first + stop)
        else:
            elements = self._looked_up(start, stop)
        return codes_of(elements.resolve_conj().resolve_neg(), encoding)

    def _looked_up(self, start: int, stop: int) -> Tensor:
        assert self.axes is not None
        position = torch.arange(start, stop, device=self.tensor.device)
        flat = torch.full_like(position, self.first)
        steps = [prod(self.size[axis + 1 :]) for axis in range(len(self.size))]
        for axis in reversed(self.axes):
            flat += position % self.size[axis] * steps[axis]
            position = position // self.size[axis]
        index: list[Tensor] = []
        for size in reversed(self.tensor.shape):
            index.insert(0, flat % size)
            flat = flat // size
        return self.tensor[tuple(index)]


@dataclass(frozen=True, eq=False)
class StoredPiece:
    """A piece that lies on the host: all of the only tensor of a manifest."""

    manifest: Manifest
    numel: int

    def codes(self, start: int, stop: int, encoding: Encoding) -> Tensor:
        """The codes of its elements [start, stop)."""
        size = (stop - start) * encoding.components * encoding.bits // 8
        buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
        self.manifest.read_into(0, start, stop, memoryview(buffer.numpy()))
        return buffer.view(encoding.code_dtype)


@dataclass(frozen=True, eq=False)
class Arranged:
    """A tensor whose elements are those of its pieces, one after the other in row-major order."""

    pieces: Sequence[HeldPiece | StoredPiece]
    shape: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """Where it is reduced: the device of the first piece that is on one."""
        device: torch.device = next(
            piece.tensor.device for piece in self.pieces if isinstance(piece, HeldPiece)
        )
        return device

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(piece.numel for piece in self.pieces))

    def codes(
        self, start: int, stop: int, encoding: Encoding, device: torch.device
    ) -> Iterator[Tensor]:
        """The codes of its elements [start, stop), in parts, on a device."""
        while start < stop:
            number = bisect_right(self._ends, start)
            piece, end = self.pieces[number], self._ends[number]
            before = end - piece.numel
            upto = min(stop, end)
            yield piece.codes(start - before, upto - before, encoding).to(device)
            start = upto


@dataclass(frozen=True, eq=False)
class BoxOfArranged:
    """A box of it."""

    arranged: Arranged
    box: Box

    def codes(self, start: int, stop: int, encoding: Encoding, device: torch.device) -> Tensor:
        """The codes of elements [start, stop) of the box, on a device."""
        parts = [
            part
            for run in self.box.runs(self.arranged.shape, start, stop)
            for part in self.arranged.codes(*run, encoding, device)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
