"""What changed between two chunks, on a device without float64; see the module ``single``.

A difference is an exact pair, so it is told exactly which is the largest and which exceed a limit,
but where float64 itself would have rounded. That, data whose squares leave float32, and integers
beyond its 24 bits are *at risk*: the chunk says so among its counts and has no partial, and is to
be brought to a device that has float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ckptdiff.backends.partials import DiffPartial, Scaled
from ckptdiff.backends.torch.arithmetic import bins_of, histogram_of
from ckptdiff.backends.torch.codes import ENCODINGS, Encoding, Tables, Tensor
from ckptdiff.backends.torch.diff import ReducedChunk, beside_zeros, elements
from ckptdiff.backends.torch.single import (
    INFINITY_BITS,
    LARGEST_BITS,
    SIGN,
    bits_of,
    exponent_of,
    first_index,
    float_of,
    folded,
    has_values,
    in_order,
    is_at_risk,
    power_of_two,
    rows_of,
    two_product,
    two_sum,
)

__all__ = ["SingleDiffKernel", "can_diff_single"]

_ALL_BITS = 2**32 - 1
_SUMS = 7

#: What no difference within bounds leaves out; not an infinity, which fast arithmetic may ignore.
_BELOW_TAILS = -(2.0**126)

#: Limits that float32 can be compared with where subnormals are zeros.
_LEAST_LIMIT = 2.0**-60
_MOST_LIMIT = 2.0**100
_LEAST_RTOL = 2.0**-40

#: Below, a subnormal that is taken for zero can decide the exponent of a difference.
_LEAST_EXPONENT = 2.0**-72


def can_diff_single(
    dtypes: Sequence[str], atol: float, rtol: float, cast: str | None, thresholds: Sequence[float]
) -> bool:
    """Whether chunks of these dtypes can be reduced without float64, with these options."""

    def is_fit(limit: float) -> bool:
        return limit == 0 or limit >= _LEAST_LIMIT

    relative = rtol == 0 or (_LEAST_RTOL <= rtol <= 1 and atol <= _MOST_LIMIT)
    limits = (atol, *thresholds)
    return cast is None and all(map(has_values, dtypes)) and relative and all(map(is_fit, limits))


@dataclass(frozen=True)
class SingleDiffKernel:
    """Reduces chunks of one device in float32; the options are those of :func:`ckptdiff.diff`."""

    tables: Tables
    atol: float = 0.0
    rtol: float = 0.0
    thresholds: tuple[float, ...] = ()
    histogram: bool = False

    @property
    def can_map(self) -> bool:
        """Chunks are reduced one at a time."""
        return False

    def reduce(self, codes: Sequence[Tensor], dtypes: Sequence[str]) -> ReducedChunk:
        """Reduce the codes of the same elements of A and of B, at least one."""
        codes_a, codes_b = codes
        a, b = (ENCODINGS[dtype] for dtype in dtypes)
        components = max(a.components, b.components)
        bits_x, misfit_x = bits_of(codes_a, a, self.tables)
        bits_y, misfit_y = bits_of(codes_b, b, self.tables)
        bits_x, bits_y = beside_zeros(bits_x, a, components), beside_zeros(bits_y, b, components)
        size_x, size_y = bits_x & LARGEST_BITS, bits_y & LARGEST_BITS
        nan_x, nan_y = size_x > INFINITY_BITS, size_y > INFINITY_BITS
        finite = (size_x < INFINITY_BITS) & (size_y < INFINITY_BITS)
        order_x, order_y = in_order(bits_x), in_order(bits_y)
        differs = ((order_x != order_y) | nan_x | nan_y) & ~(nan_x & nan_y)
        moved = differs & finite
        flips = ((order_x < 0) & (order_y > 0)) | ((order_x > 0) & (order_y < 0))
        bits = torch.zeros((), dtype=torch.int32, device=bits_x.device)
        steps = bits + SIGN
        if a.name == b.name:
            bits = _count(elements(codes_a != codes_b, components))
            if a.is_float:
                steps = _largest_distance(codes_a, codes_b, a, finite)
        counts = [
            _count(finite), _count(elements(differs, components)), bits, _count(flips & finite),
            steps, _count(nan_x), _count(nan_y), _count(size_x == INFINITY_BITS),
            _count(size_y == INFINITY_BITS), _count(differs & ~finite),
        ]  # fmt: skip
        bits_x, bits_y = torch.where(finite, bits_x, 0), torch.where(finite, bits_y, 0)
        largest_x, largest_y = ((bits & LARGEST_BITS).amax() for bits in (bits_x, bits_y))
        x, y = bits_x.view(torch.float32), bits_y.view(torch.float32)
        d, left = two_sum(y, -x)
        magnitude = d.abs()
        tail = torch.where(d < 0, -left, left)
        # float64 would round here: two of its bits lie further apart than it has bits
        rounded = (tail != 0) & (tail.abs() < magnitude * 2.0**-29)
        largest = magnitude.amax()
        is_largest = magnitude == largest
        largest_tail = torch.where(is_largest, tail, _BELOW_TAILS).amax()
        index = first_index(is_largest & (tail == largest_tail))
        at = index.reshape(1).to(torch.int64)
        counts += [index, bits_x.gather(0, at)[0], bits_y.gather(0, at)[0]]
        risks = [
            misfit_x, misfit_y, is_at_risk(largest_x), is_at_risk(largest_y),
            (is_largest & rounded).any(),
            # differences may be there that are subnormal, and not seen
            moved.any() & (largest < 2.0**-60),
        ]  # fmt: skip
        out = moved
        if self.rtol > 0:
            out, unsure = self._exceeds_relative(x.abs(), magnitude, tail)
            out = out & moved
            risks.append((unsure & moved).any())
        elif self.atol > 0:
            out, unsure = _exceeds(magnitude, tail, self.atol, rounded)
            risks.append(unsure.any())
        counts.append(_count(elements(out, components)))
        for threshold in self.thresholds:
            over = moved
            if threshold > 0:
                over, unsure = _exceeds(magnitude, tail, threshold, rounded)
                risks.append(unsure.any())
            counts.append(_count(over))
        histogram = None
        if self.histogram:
            histogram, unsure = _exponent_counts(magnitude, tail, moved, finite, rounded)
            risks.append(unsure.any())
        exponent = exponent_of(largest.view(torch.int32))
        exponents = [exponent, exponent_of(largest_x), exponent_of(largest_y)]
        # every mask has been counted, and what comes now needs the memory
        del bits_x, bits_y, size_x, size_y, nan_x, nan_y, order_x, order_y, differs, moved, flips
        del finite, rounded, is_largest, out
        near = power_of_two(-exponent)
        pair, absolute = (d * near, left * near), (magnitude * near, tail * near)
        del d, left, magnitude, tail
        x, y = x * power_of_two(-exponents[1]), y * power_of_two(-exponents[2])
        sums = rows_of(_terms(x, y, pair, absolute), _SUMS, x.numel())
        risk = torch.stack(risks).any().to(torch.int32)
        return ReducedChunk(torch.stack([risk, *exponents, *counts]), sums, histogram)

    def _exceeds_relative(
        self, size_x: Tensor, magnitude: Tensor, tail: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Whether |d| > |x|·rtol + atol, and where it is too close to be told."""
        rtol, rtol_tail, _ = _thirds(self.rtol)
        atol, atol_tail, _ = _thirds(self.atol)
        product, left = two_product(size_x, size_x.new_full((), rtol))
        limit, left_of_sum = two_sum(product, size_x.new_full((), atol))
        left = left + size_x * rtol_tail + left_of_sum + atol_tail
        margin = (magnitude - limit) + (tail - left)
        return margin > 0, margin.abs() <= limit * 2.0**-40 + 2.0**-100

    def partial(
        self,
        counts: list[int],
        sums: list[float],
        histogram: list[int] | None,
        dtypes: Sequence[str],
    ) -> DiffPartial | None:
        """The partial of a chunk, as float64's; None for one that is at risk."""
        risk, exponent, exponent_a, exponent_b = counts[:4]
        if risk:
            return None
        finite, changed, bits_changed, sign_flips, steps = counts[4:9]
        nan_a, nan_b, inf_a, inf_b, nonfinite_mismatch, index = counts[9:15]
        a, b = (ENCODINGS[dtype] for dtype in dtypes)
        powers = (
            exponent, exponent, 2 * exponent, 2 * exponent_a, 2 * exponent_b,
            exponent + exponent_a, exponent_a + exponent_b,
        )  # fmt: skip
        scaled_sums: list[Scaled] = list(zip(folded(sums, _SUMS), powers, strict=True))
        value_a: float | int = float_of(counts[15])
        value_b: float | int = float_of(counts[16])
        if a.is_wide_integer or b.is_wide_integer:
            value_a, value_b = int(value_a), int(value_b)
        magnitude = abs(value_b - value_a)
        max_ulp = (steps - SIGN) & _ALL_BITS
        if a.name == b.name and not a.is_float:
            max_ulp = int(magnitude)
        return DiffPartial(
            finite=finite,
            changed=changed,
            bits_changed=bits_changed,
            sign_flips=sign_flips,
            out_of_tolerance=counts[17],
            max_ulp=max_ulp,
            nan_a=nan_a,
            nan_b=nan_b,
            inf_a=inf_a,
            inf_b=inf_b,
            nonfinite_mismatch=nonfinite_mismatch,
            sums=tuple(scaled_sums),  # type: ignore[arg-type]
            largest=(magnitude, index, value_a, value_b) if magnitude > 0 else None,
            above=counts[18 : 18 + len(self.thresholds)],
            histogram=None if histogram is None else histogram_of(histogram),
        )


def _count(where: Tensor) -> Tensor:
    return where.sum(dtype=torch.int32)


def _terms(
    x: Tensor, y: Tensor, d: tuple[Tensor, Tensor], absolute: tuple[Tensor, Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """d, |d|, d², x², y², d·x and x·y; the square of a tail is beyond what counts."""
    head, tail = d
    yield d
    yield absolute
    square, left = two_product(head, head)
    yield square, left + 2 * head * tail
    del square, left
    yield two_product(x, x)
    yield two_product(y, y)
    of_x, left = two_product(head, x)
    yield of_x, left + tail * x
    del of_x, left
    yield two_product(x, y)


def _thirds(value: float) -> tuple[float, float, float]:
    """A float64 as float32s whose sum it is, each the nearest to what the others leave."""
    thirds = []
    for _ in range(3):
        with np.errstate(over="ignore"):
            nearest = float(np.float32(value))
        thirds.append(nearest)
        value = 0.0 if np.isinf(nearest) else value - nearest
    return thirds[0], thirds[1], thirds[2]


def _exceeds(
    magnitude: Tensor, tail: Tensor, limit: float, rounded: Tensor
) -> tuple[Tensor, Tensor]:
    """Whether differences exceed a limit, and where float64 would have rounded them to it."""
    first, second, third = _thirds(limit)
    same = magnitude == first
    beyond = tail >= second if third < 0 else tail > second
    return (magnitude > first) | (same & beyond), same & rounded


def _exponent_counts(
    magnitude: Tensor, tail: Tensor, moved: Tensor, finite: Tensor, rounded: Tensor
) -> tuple[Tensor, Tensor]:
    """Differences by exponent, and where they cannot be told."""
    bits = magnitude.view(torch.int32)
    is_power = (bits & ((1 << 23) - 1)) == 0
    # rounded up to a power of two
    exponents = (bits >> 23) - 127 - (is_power & (tail < 0)).to(torch.int32)
    unsure = moved & ((is_power & rounded) | (magnitude < _LEAST_EXPONENT))
    return bins_of(torch.where(unsure, 0, exponents), ~moved, finite), unsure


def _largest_distance(
    codes_a: Tensor, codes_b: Tensor, encoding: Encoding, finite: Tensor
) -> Tensor:
    """The largest distance of codes in steps, less 2³¹ so that 32 bits with a sign hold it."""
    a, b = (_codes_in_order(codes.to(torch.int32), encoding) for codes in (codes_a, codes_b))
    # may wrap, and is right without a sign
    distance = torch.where(b > a, b - a, a - b)
    return torch.where(finite, distance ^ SIGN, SIGN).amax()


def _codes_in_order(codes: Tensor, encoding: Encoding) -> Tensor:
    return torch.where(codes < 0, -(2 ** (encoding.bits - 1)) - codes, codes)
