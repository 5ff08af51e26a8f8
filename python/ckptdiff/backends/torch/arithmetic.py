"""Sums, scales and exponents of chunks, the same on any number of threads.

torch sums a long vector in as many parts as there are threads, so a total is taken in two steps:
rows of a fixed length, of which each is one thread's, then their sums, which are few.
"""

from __future__ import annotations

import torch

from ckptdiff.backends.torch.codes import Tensor

__all__ = [
    "bins_of",
    "exponent_counts",
    "histogram_of",
    "integer_exponents",
    "largest_exponent",
    "power_of_two",
    "scaled",
    "total",
    "unsigned_floats",
]

_ROW = 1024

#: Between these magnitudes fourth powers are safe in float64.
_SAFE = (1e-70, 1e70)

#: Added to an exponent, it is the bin of a histogram; bin 0 is for zeros, the last for the rest.
_FIRST_BIN = 1100
_BINS = 2 * _FIRST_BIN + 2


def total(values: Tensor) -> Tensor:
    """The sum of a one-dimensional tensor, as a scalar tensor."""
    rows = values.numel() // _ROW
    whole = values[: rows * _ROW].view(rows, _ROW).sum(dim=1).sum()
    return whole + values[rows * _ROW :].sum()


def power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent in float64, for int64 exponents of normal numbers."""
    return ((exponent + 1023) << 52).view(torch.float64)


def largest_exponent(magnitude: Tensor) -> Tensor:
    """The exponent to scale by, for data of this largest magnitude: 0 if it needs none."""
    exponent = torch.frexp(magnitude)[1].to(torch.int64) - 1
    safe = (magnitude >= _SAFE[0]) & (magnitude <= _SAFE[1])
    return torch.where(safe | (magnitude == 0), 0, exponent)


def scaled(values: Tensor, exponent: Tensor) -> Tensor:
    """``values * 2**-exponent``, in two steps, as 2**1074 is no float64."""
    half = torch.div(exponent, 2, rounding_mode="floor")
    return values * power_of_two(-half) * power_of_two(half - exponent)


def exponent_counts(magnitudes: Tensor, counted: Tensor) -> Tensor:
    """How many of the magnitudes that are counted have each exponent; see :func:`histogram_of`."""
    exponents = torch.frexp(magnitudes)[1].to(torch.int64) - 1
    # a difference of finite values that overflowed is filed where the core files it
    exponents = torch.where(torch.isinf(magnitudes), 0, exponents)
    return bins_of(exponents, magnitudes == 0, counted)


def bins_of(exponents: Tensor, zero: Tensor, counted: Tensor | None = None) -> Tensor:
    """The same of exponents, of which those at ``zero`` are of the number 0; None counts all."""
    bins = torch.where(zero, 0, exponents + _FIRST_BIN)
    if counted is not None:
        bins = torch.where(counted, bins, _BINS - 1)
    return torch.bincount(bins, minlength=_BINS)


def histogram_of(counts: list[int]) -> tuple[int, list[tuple[int, int]]]:
    """(zeros, [(e, n), ...]) of the counts per bin."""
    zeros, *bins = counts[:-1]
    used = [(e, count) for e, count in enumerate(bins, 1 - _FIRST_BIN) if count]
    return zeros, used


def unsigned_floats(bits: Tensor) -> Tensor:
    """The nearest float64 of 64-bit integers without a sign."""
    high, low = (bits >> 32) & 0xFFFFFFFF, bits & 0xFFFFFFFF
    return high.to(torch.float64) * 2.0**32 + low.to(torch.float64)


def integer_exponents(bits: Tensor) -> Tensor:
    """floor(log2) of 64-bit integers without a sign; anything for 0."""
    high, low = (bits >> 32) & 0xFFFFFFFF, bits & 0xFFFFFFFF
    of_high = torch.frexp(high.to(torch.float64))[1].to(torch.int64) + 31
    of_low = torch.frexp(low.to(torch.float64))[1].to(torch.int64) - 1
    return torch.where(high > 0, of_high, of_low)
