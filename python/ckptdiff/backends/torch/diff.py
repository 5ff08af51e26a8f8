"""What changed between two chunks, in torch operations, without waiting for the device.

Every quantity is computed the same way whatever the data are: there is no fast path to choose, so
nothing has to come back from the device before all of it is queued. A chunk leaves two short
vectors on the device, one of counts and one of sums; they are fetched together when the tensor is
done, and ``partial`` makes a partial of each.

Floats, and integers of up to 32 bits, are reduced as float64, in which their differences are exact
or rounded once. Integers of 64 bits have code of their own: their differences need 64 bits without
a sign, which wrapped subtraction gives, and are compared with the sign bit flipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ckptdiff.backends.partials import DiffPartial, Scaled
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
from ckptdiff.backends.torch.cast import cast
from ckptdiff.backends.torch.codes import ENCODINGS, Encoding, Tables, Tensor, unsigned, values

__all__ = ["DiffKernel", "ReducedChunk", "beside_zeros", "can_diff", "elements"]

_LOWEST = -(2**63)
_ALL_BITS = 2**64 - 1


class ReducedChunk(NamedTuple):
    """What a chunk leaves on the device."""

    counts: Tensor  # integers
    sums: Tensor  # floats of the kernel's precision
    histogram: Tensor | None  # int64


def can_diff(dtype_a: str, dtype_b: str, cast_to: str | None) -> bool:
    """Whether chunks of these two dtypes can be reduced here, with that option."""
    a, b = ENCODINGS.get(dtype_a), ENCODINGS.get(dtype_b)
    if a is None or b is None:
        return False
    if cast_to is not None:
        return a.components == b.components == 1
    if not (a.is_wide_integer or b.is_wide_integer):
        return True
    # a difference of 65 bits, or of an integer and a fraction, is left to the core
    if a.is_float or b.is_float:
        return False
    return "U64" not in (dtype_a, dtype_b) or "signed" not in (a.kind, b.kind)


@dataclass(frozen=True)
class DiffKernel:
    """Reduces chunks of one device; the options are those of :func:`ckptdiff.diff`."""

    tables: Tables
    atol: float = 0.0
    rtol: float = 0.0
    cast: str | None = None
    thresholds: tuple[float, ...] = ()
    histogram: bool = False

    @property
    def can_map(self) -> bool:
        """Whether chunks can be reduced several at once: bins and casts are not mapped."""
        return self.cast is None and not self.histogram

    def reduce(self, codes: Sequence[Tensor], dtypes: Sequence[str]) -> ReducedChunk:
        """Reduce the codes of the same elements of A and of B, at least one."""
        codes_a, codes_b = codes
        a, b = (ENCODINGS[dtype] for dtype in dtypes)
        if self.cast is not None:
            target = ENCODINGS[self.cast]
            codes_a = cast(codes_a, a, target, self.tables)
            codes_b = cast(codes_b, b, target, self.tables)
            a = b = target
        if a.is_wide_integer or b.is_wide_integer:
            return self._integers(codes_a, codes_b, a, b)
        return self._floats(codes_a, codes_b, a, b)

    def _floats(self, codes_a: Tensor, codes_b: Tensor, a: Encoding, b: Encoding) -> ReducedChunk:
        components = max(a.components, b.components)
        x = beside_zeros(values(codes_a, a, self.tables), a, components)
        y = beside_zeros(values(codes_b, b, self.tables), b, components)
        nan_x, nan_y = torch.isnan(x), torch.isnan(y)
        finite_x, finite_y = torch.isfinite(x), torch.isfinite(y)
        finite = finite_x & finite_y
        differs = (x != y) & ~(nan_x & nan_y)
        mismatch = (differs & ~finite).sum()
        inf_x, inf_y = (~finite_x & ~nan_x).sum(), (~finite_y & ~nan_y).sum()
        nan_x, nan_y = nan_x.sum(), nan_y.sum()
        x, y = torch.where(finite, x, 0.0), torch.where(finite, y, 0.0)
        d = y - x
        magnitude = d.abs()
        largest, index = magnitude.max(dim=0)
        flips = ((x < 0) & (y > 0)).sum() + ((x > 0) & (y < 0)).sum()
        changed = elements(differs, components)
        out = changed - elements(differs & ~finite, components)
        if self._tolerant:
            limit = x.abs() * self.rtol + self.atol
            out = elements(magnitude > limit, components)
        elif components > 1:
            out = elements(differs & finite, components)
        above = [(magnitude > threshold).sum() for threshold in self.thresholds]
        histogram = exponent_counts(magnitude, finite) if self.histogram else None
        bits, steps = changed.new_zeros(()), changed.new_zeros(())
        if a.name == b.name:
            bits = elements(codes_a != codes_b, components)
            if a.is_float:
                steps = _largest_distance(codes_a, codes_b, a, finite)
            else:
                steps = largest.to(torch.int64)
        counts = [
            finite.sum(), changed, bits, flips, out, steps, nan_x, nan_y, inf_x, inf_y, mismatch,
            index,
        ]  # fmt: skip
        at = index.reshape(1)
        found = [largest, x.gather(0, at)[0], y.gather(0, at)[0]]
        if a.bits == 64 or b.bits == 64:
            exponents = [largest_exponent(x.abs().max()), largest_exponent(y.abs().max())]
            # two finite numbers can be further apart than float64 reaches
            overflow = torch.isinf(largest)
            near = torch.where(overflow, 0.5, 1.0).to(torch.float64)
            d = y * near - x * near
            exponent = largest_exponent(d.abs().max())
            x, y, d = scaled(x, exponents[0]), scaled(y, exponents[1]), scaled(d, exponent)
            counts += [exponent + overflow.to(torch.int64), *exponents]
        else:
            counts += [changed.new_zeros(())] * 3
        return _reduced(counts + above, [*_sums(x, y, d), *found], histogram)

    def _integers(self, codes_a: Tensor, codes_b: Tensor, a: Encoding, b: Encoding) -> ReducedChunk:
        x, y = _ordered_integers(codes_a, a), _ordered_integers(codes_b, b)
        if "U64" in (a.name, b.name):
            # in the order of unsigned numbers; those of fewer bits are moved to where these are
            x, y = (
                codes ^ _LOWEST if encoding.name == "U64" else codes + _LOWEST
                for codes, encoding in ((x, a), (y, b))
            )
            float_x, float_y = unsigned_floats(x ^ _LOWEST), unsigned_floats(y ^ _LOWEST)
        else:
            float_x, float_y = x.to(torch.float64), y.to(torch.float64)
        differs = x != y
        larger = y > x
        distance = torch.where(larger, y - x, x - y)
        key = distance ^ _LOWEST
        largest, index = key.max(dim=0)
        flips = ((float_x < 0) & (float_y > 0)).sum() + ((float_x > 0) & (float_y < 0)).sum()
        changed = differs.sum()
        out = changed
        if self._tolerant:
            out = _exceeds(key, float_x.abs() * self.rtol + self.atol).sum()
        above = [(key > _key_of(threshold)).sum() for threshold in self.thresholds]
        histogram = None
        if self.histogram:
            histogram = bins_of(integer_exponents(distance), distance == 0)
        same = a.name == b.name
        zero = changed.new_zeros(())
        at = index.reshape(1)
        counts = [
            zero + x.numel(), changed, changed if same else zero, flips, out,
            (largest ^ _LOWEST) if same else zero, zero, zero, zero, zero, zero, index,
            zero, zero, zero, *above, largest ^ _LOWEST, x.gather(0, at)[0], y.gather(0, at)[0],
        ]  # fmt: skip
        d = unsigned_floats(distance)
        d = torch.where(larger, d, -d)
        return _reduced(counts, _sums(float_x, float_y, d), histogram)

    def partial(
        self,
        counts: list[int],
        sums: list[float],
        histogram: list[int] | None,
        dtypes: Sequence[str],
    ) -> DiffPartial:
        """The partial of a chunk whose vectors are here; its index counts from its start."""
        a, b = (ENCODINGS[self.cast or dtype] for dtype in dtypes)
        exponent, exponent_a, exponent_b = counts[12:15]
        above = counts[15 : 15 + len(self.thresholds)]
        # see _sums for the order
        powers = (
            exponent, exponent, 2 * exponent, 2 * exponent_a, 2 * exponent_b,
            exponent + exponent_a, exponent_a + exponent_b,
        )  # fmt: skip
        scaled_sums: list[Scaled] = list(zip(sums[:7], powers, strict=True))
        magnitude: float | int
        value_a: float | int
        value_b: float | int
        if a.is_wide_integer or b.is_wide_integer:
            magnitude, value_a, value_b = counts[-3] & _ALL_BITS, counts[-2], counts[-1]
            if "U64" in (a.name, b.name):
                value_a, value_b = value_a - _LOWEST, value_b - _LOWEST
        else:
            magnitude, value_a, value_b = sums[7:10]
        finite, changed, bits_changed, sign_flips, out_of_tolerance = counts[:5]
        nan_a, nan_b, inf_a, inf_b, nonfinite_mismatch, index = counts[6:12]
        return DiffPartial(
            finite=finite,
            changed=changed,
            bits_changed=bits_changed,
            sign_flips=sign_flips,
            out_of_tolerance=out_of_tolerance,
            max_ulp=counts[5] & _ALL_BITS,
            nan_a=nan_a,
            nan_b=nan_b,
            inf_a=inf_a,
            inf_b=inf_b,
            nonfinite_mismatch=nonfinite_mismatch,
            sums=tuple(scaled_sums),  # type: ignore[arg-type]
            largest=(magnitude, index, value_a, value_b) if magnitude > 0 else None,
            above=above,
            histogram=None if histogram is None else histogram_of(histogram),
        )

    @property
    def _tolerant(self) -> bool:
        return self.atol > 0 or self.rtol > 0


def _reduced(counts: list[Tensor], sums: list[Tensor], histogram: Tensor | None) -> ReducedChunk:
    return ReducedChunk(torch.stack(counts), torch.stack(sums), histogram)


def _sums(x: Tensor, y: Tensor, d: Tensor) -> list[Tensor]:
    return [
        total(d), total(d.abs()), total(d * d), total(x * x), total(y * y), total(d * x),
        total(x * y),
    ]  # fmt: skip


def elements(differ: Tensor, components: int) -> Tensor:
    """How many elements have a component at which something is true."""
    if components > 1:
        differ = differ.view(-1, components).any(dim=1)
    return differ.sum()


def beside_zeros(reals: Tensor, encoding: Encoding, components: int) -> Tensor:
    """Real numbers beside complex ones: each gets an imaginary part of 0."""
    if encoding.components == components:
        return reals
    return torch.stack([reals, torch.zeros_like(reals)], dim=1).view(-1)


def _largest_distance(
    codes_a: Tensor, codes_b: Tensor, encoding: Encoding, finite: Tensor
) -> Tensor:
    """The largest distance of codes in steps; of 64 bits, without a sign."""
    a, b = _in_order(codes_a, encoding), _in_order(codes_b, encoding)
    if encoding.bits == 64:
        key = torch.where(b > a, b - a, a - b) ^ _LOWEST
        return torch.where(finite, key, _LOWEST).max() ^ _LOWEST
    return torch.where(finite, (b - a).abs(), 0).max().to(torch.int64)


def _in_order(codes: Tensor, encoding: Encoding) -> Tensor:
    """Codes of floats as integers in the order of the values, both zeros as 0."""
    if encoding.name == "F8_E8M0":  # has no sign bit
        return unsigned(codes, encoding)
    wider = torch.int64 if encoding.bits >= 32 else torch.int32
    codes = codes.to(wider)
    return torch.where(codes < 0, -(2 ** (encoding.bits - 1)) - codes, codes)


def _ordered_integers(codes: Tensor, encoding: Encoding) -> Tensor:
    """Integers of any width in int64, those of U64 as they are."""
    if encoding.kind == "unsigned" and encoding.bits < 64:
        return unsigned(codes, encoding).to(torch.int64)
    if encoding.kind == "bool":
        return (codes != 0).to(torch.int64)
    return codes.to(torch.int64)


def _key_of(limit: float) -> int:
    """What the key of a distance exceeds where the distance exceeds the limit, exactly."""
    return min(int(limit), _ALL_BITS) + _LOWEST


def _exceeds(key: Tensor, limit: Tensor) -> Tensor:
    """Whether distances of these keys exceed limits that are floats, exactly."""
    whole = torch.floor(limit)
    reachable = whole < 2.0**64
    whole = torch.where(reachable, whole, 0.0)
    high = torch.floor(whole / 2.0**32)
    low = whole - high * 2.0**32
    bits = (high.to(torch.int64) << 32) | low.to(torch.int64)
    return reachable & (key > (bits ^ _LOWEST))
