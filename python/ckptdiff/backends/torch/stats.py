"""What is in a chunk, in torch operations, without waiting for the device.

As in :mod:`ckptdiff.backends.torch.diff`, a chunk leaves two short vectors on the device. Central
moments are sums of powers around the chunk's mean, which lies within the range of the values, so
that constant values deviate by exactly nothing; the core merges them by Pébay's formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ckptdiff.backends.partials import StatsPartial
from ckptdiff.backends.torch.arithmetic import (
    bins_of,
    exponent_counts,
    histogram_of,
    integer_exponents,
    largest_exponent,
    scaled,
    total,
    unsigned_floats,
)
from ckptdiff.backends.torch.codes import ENCODINGS, Encoding, Tables, Tensor, values
from ckptdiff.backends.torch.diff import ReducedChunk

__all__ = ["StatsKernel", "can_describe"]

_LOWEST = -(2**63)
_ALL_BITS = 2**64 - 1
_INFINITY = float("inf")


def can_describe(dtype: str) -> bool:
    """Whether chunks of this dtype can be reduced here."""
    return dtype in ENCODINGS


@dataclass(frozen=True)
class StatsKernel:
    """Reduces chunks of one device; the options are those of :func:`ckptdiff.stats`."""

    tables: Tables
    histogram: bool = False

    @property
    def can_map(self) -> bool:
        """Whether chunks can be reduced several at once: bins are not mapped."""
        return not self.histogram

    def reduce(self, codes: Sequence[Tensor], dtypes: Sequence[str]) -> ReducedChunk:
        """Reduce the codes of at least one element."""
        encoding = ENCODINGS[dtypes[0]]
        if encoding.is_wide_integer:
            return self._integers(codes[0], encoding)
        return self._floats(codes[0], encoding)

    def _floats(self, codes: Tensor, encoding: Encoding) -> ReducedChunk:
        x = values(codes, encoding, self.tables)
        finite = torch.isfinite(x)
        nan = torch.isnan(x).sum()
        positive, negative = (x == _INFINITY).sum(), (x == -_INFINITY).sum()
        low = torch.where(finite, x, _INFINITY).min()
        high = torch.where(finite, x, -_INFINITY).max()
        largest, index = torch.where(finite, x.abs(), -1.0).max(dim=0)
        x = torch.where(finite, x, 0.0)
        magnitude = x.abs()
        subnormals = ((magnitude > 0) & (magnitude < encoding.smallest_normal)).sum()
        count = finite.sum()
        counts = [
            count, (x == 0).sum() - (x.numel() - count), (x < 0).sum(), subnormals, nan, positive,
            negative, _saturated(x, magnitude, encoding), index,
        ]  # fmt: skip
        histogram = exponent_counts(magnitude, finite) if self.histogram else None
        found = [low, high, largest]
        if encoding.bits == 64:
            exponent = largest_exponent(magnitude.max())
            x, low, high = scaled(x, exponent), scaled(low, exponent), scaled(high, exponent)
            counts.append(exponent)
        else:
            counts.append(count.new_zeros(()))
        return ReducedChunk(
            torch.stack(counts), torch.stack([*found, *_moments(x, finite, count, low, high)]),
            histogram,
        )  # fmt: skip

    def _integers(self, codes: Tensor, encoding: Encoding) -> ReducedChunk:
        if encoding.kind == "signed":
            key = codes
            # of the lowest number this is the number itself, whose bits are those of its magnitude
            magnitude = torch.where(codes < 0, -codes, codes)
            x = codes.to(torch.float64)
            saturated = ((codes == _LOWEST) | (codes == -_LOWEST - 1)).sum()
        else:
            key = codes ^ _LOWEST
            magnitude = codes
            x = unsigned_floats(codes)
            saturated = (codes == -1).sum()
        largest, index = (magnitude ^ _LOWEST).max(dim=0)
        zeros = codes == 0
        count = zeros.new_zeros((), dtype=torch.int64) + codes.numel()
        zero = torch.zeros_like(count)
        histogram = None
        if self.histogram:
            histogram = bins_of(integer_exponents(magnitude), zeros)
        counts = [
            count, zeros.sum(), (x < 0).sum(), zero, zero, zero, zero, saturated, index, zero,
            key.min(), key.max(), largest ^ _LOWEST,
        ]  # fmt: skip
        low, high = x.min(), x.max()
        everywhere = torch.ones_like(zeros)
        return ReducedChunk(
            torch.stack(counts),
            torch.stack([low, high, high, *_moments(x, everywhere, count, low, high)]),
            histogram,
        )

    def partial(
        self,
        counts: list[int],
        sums: list[float],
        histogram: list[int] | None,
        dtypes: Sequence[str],
    ) -> StatsPartial:
        """The partial of a chunk whose vectors are here; its index counts from its start."""
        encoding = ENCODINGS[dtypes[0]]
        finite, index, exponent = counts[0], counts[8], counts[9]
        low: float | int
        high: float | int
        largest: float | int
        if encoding.is_wide_integer:
            low, high, largest = counts[10], counts[11], counts[12] & _ALL_BITS
            if encoding.kind == "unsigned":
                low, high = low - _LOWEST, high - _LOWEST
        else:
            # adding zero makes 0.0 of -0.0
            low, high, largest = (value + 0.0 for value in sums[:3])
        if finite == 0:
            sums = [0.0] * len(sums)
        return StatsPartial(
            finite=finite,
            extremes=(low, high, largest, index) if finite else None,
            exponent=exponent,
            pivot=sums[4],
            powers=(sums[5], sums[6], sums[7], sums[8]),
            absolute=(sums[3], exponent),
            zeros=counts[1],
            negatives=counts[2],
            subnormals=counts[3],
            nan=counts[4],
            pos_inf=counts[5],
            neg_inf=counts[6],
            saturated=counts[7],
            histogram=None if histogram is None else histogram_of(histogram),
        )


def _saturated(x: Tensor, magnitude: Tensor, encoding: Encoding) -> Tensor:
    """How many values are at the end of the dtype's range; of booleans, every one would be."""
    if encoding.kind == "bool":
        return (x > 1).sum()
    if encoding.kind == "unsigned":
        return (x == 2**encoding.bits - 1).sum()
    if encoding.kind == "signed":
        end = 2 ** (encoding.bits - 1)
        return ((x == end - 1) | (x == -end)).sum()
    return (magnitude == encoding.largest).sum()


def _moments(x: Tensor, finite: Tensor, count: Tensor, low: Tensor, high: Tensor) -> list[Tensor]:
    """Σ|x|, the pivot, and the sums of the first four powers around it."""
    pivot = torch.minimum(torch.maximum(total(x) / count.to(torch.float64), low), high)
    deviation = torch.where(finite, x - pivot, 0.0)
    square = deviation * deviation
    return [
        total(x.abs()), pivot, total(deviation), total(square), total(square * deviation),
        total(square * square),
    ]  # fmt: skip
