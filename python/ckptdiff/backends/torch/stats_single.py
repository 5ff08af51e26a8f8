"""What is in a chunk, on a device without float64; see the modules ``single`` and ``stats``.

A chunk whose squares leave float32, or with integers beyond its 24 bits, is *at risk*: it says so
among its counts and has no partial, and is to be brought to a device that has float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ckptdiff.backends.partials import StatsPartial
from ckptdiff.backends.torch.arithmetic import bins_of, histogram_of, total
from ckptdiff.backends.torch.codes import ENCODINGS, Encoding, Tables, Tensor
from ckptdiff.backends.torch.diff import ReducedChunk
from ckptdiff.backends.torch.single import (
    INFINITY_BITS,
    LARGEST_BITS,
    SIGN,
    bits_of,
    exponent_of,
    first_index,
    float_bits,
    float_of,
    folded,
    in_order,
    is_at_risk,
    power_of_two,
    rows_of,
    two_product,
    two_sum,
    value_in_order,
)

__all__ = ["SingleStatsKernel"]

_SUMS = 5

#: The bits of the smallest float32 that is no subnormal.
_SMALLEST_NORMAL = 1 << 23


@dataclass(frozen=True)
class SingleStatsKernel:
    """Reduces chunks of one device in float32; the options are those of :func:`ckptdiff.stats`."""

    tables: Tables
    histogram: bool = False

    @property
    def can_map(self) -> bool:
        """Chunks are reduced one at a time."""
        return False

    def reduce(self, codes: Sequence[Tensor], dtypes: Sequence[str]) -> ReducedChunk:
        """Reduce the codes of at least one element."""
        encoding = ENCODINGS[dtypes[0]]
        bits, misfit = bits_of(codes[0], encoding, self.tables)
        size = bits & LARGEST_BITS
        finite = size < INFINITY_BITS
        infinite = size == INFINITY_BITS
        order = in_order(bits)
        low = torch.where(finite, order, LARGEST_BITS).amin()
        high = torch.where(finite, order, SIGN).amax()
        largest = torch.where(finite, size, -1).amax()
        index = first_index(size == largest)
        count = _count(finite)
        exponent = exponent_of(largest)
        risk = (misfit | is_at_risk(largest)).to(torch.int32)
        normal = float_bits(encoding.smallest_normal)
        counts = [
            risk, exponent, count, _count(size == 0), _count((order < 0) & finite),
            _count((size > 0) & (size < normal)), _count(size > INFINITY_BITS),
            _count(infinite & (bits > 0)), _count(infinite & (bits < 0)),
            _saturated(order, size, encoding), index, low, high, largest,
        ]  # fmt: skip
        histogram = None
        if self.histogram:
            histogram = bins_of(_exponents(size), size == 0, finite)
        near = power_of_two(-exponent)
        x = torch.where(finite, bits, 0).view(torch.float32) * near
        del bits, size, infinite, order
        pivot = total(x) / count.to(torch.float32)
        ends = value_in_order(torch.stack([low, high])) * near
        pivot = torch.minimum(torch.maximum(pivot, ends[0]), ends[1])
        deviation, left = (torch.where(finite, part, 0.0) for part in two_sum(x, -pivot))
        rows = rows_of(_terms(x, deviation, left), _SUMS, x.numel())
        sums = torch.cat([pivot.reshape(1), rows])
        return ReducedChunk(torch.stack(counts), sums, histogram)

    def partial(
        self,
        counts: list[int],
        sums: list[float],
        histogram: list[int] | None,
        dtypes: Sequence[str],
    ) -> StatsPartial | None:
        """The partial of a chunk, as float64's; None for one that is at risk."""
        risk, exponent, finite = counts[:3]
        if risk:
            return None
        index, low_order, high_order, largest_bits = counts[10:14]
        extremes: tuple[float | int, float | int, float | int, int] | None = None
        pivot, totals = 0.0, [0.0] * _SUMS
        if finite:
            low, high = (_value_of(order) for order in (low_order, high_order))
            largest = float_of(largest_bits)
            extremes = (low, high, largest, index)
            if ENCODINGS[dtypes[0]].is_wide_integer:
                extremes = (int(low), int(high), int(largest), index)
            pivot, totals = sums[0], folded(sums[1:], _SUMS)
        return StatsPartial(
            finite=finite,
            extremes=extremes,
            exponent=exponent,
            pivot=pivot,
            powers=(totals[1], totals[2], totals[3], totals[4]),
            absolute=(totals[0], exponent),
            zeros=counts[3],
            negatives=counts[4],
            subnormals=counts[5],
            nan=counts[6],
            pos_inf=counts[7],
            neg_inf=counts[8],
            saturated=counts[9],
            histogram=None if histogram is None else histogram_of(histogram),
        )


def _count(where: Tensor) -> Tensor:
    return where.sum(dtype=torch.int32)


def _terms(x: Tensor, deviation: Tensor, left: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """|x|, and the first four powers of the deviation, which is a pair."""
    yield x.abs(), torch.zeros_like(x)
    yield deviation, left
    square, left_of_square = two_product(deviation, deviation)
    left_of_square = left_of_square + 2 * deviation * left
    yield square, left_of_square
    cube, left_of_cube = two_product(square, deviation)
    yield cube, left_of_cube + (square * left + left_of_square * deviation)
    del cube, left_of_cube
    fourth, left_of_fourth = two_product(square, square)
    yield fourth, left_of_fourth + 2 * square * left_of_square


def _value_of(order: int) -> float:
    return -float_of(-order) if order < 0 else float_of(order)


def _exponents(size: Tensor) -> Tensor:
    """floor(log2) of magnitudes by their bits, of which subnormals are a number of 2**-149."""
    steps = size.to(torch.float32).view(torch.int32)
    return torch.where(size < _SMALLEST_NORMAL, (steps >> 23) - 127 - 149, (size >> 23) - 127)


def _saturated(order: Tensor, size: Tensor, encoding: Encoding) -> Tensor:
    """How many values are at the end of the dtype's range; no fit integer of 32 bits is."""
    if encoding.is_float:
        return _count(size == float_bits(encoding.largest))
    if encoding.kind == "unsigned" and encoding.bits <= 16:
        return _count(order == float_bits(2.0**encoding.bits - 1))
    if encoding.kind == "signed" and encoding.bits <= 16:
        end = 2.0 ** (encoding.bits - 1)
        return _count((order == float_bits(end - 1)) | (order == -float_bits(end)))
    return torch.zeros((), dtype=torch.int32, device=order.device)
