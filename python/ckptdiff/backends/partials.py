"""What a backend hands to the core: a run of elements reduced to plain numbers.

The core merges the partials of a row in the order given and finishes every column from the result
(``_core.diff_of_partials``, ``_core.stats_of_partials``), so a report does not know who reduced. A
partial is a few hundred bytes that can be pickled, so it can also come from another process.

Floats are counted where the core counts them: a complex number is two. A sum is (value, exponent),
meaning ``value * 2**exponent``. A histogram is (zeros, [(e, n), ...]) as in ``Table.histogram``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

__all__ = ["DiffPartial", "HistogramCounts", "Scaled", "StatsPartial"]

Scaled: TypeAlias = tuple[float, int]
HistogramCounts: TypeAlias = tuple[int, Sequence[tuple[int, int]]]


class DiffPartial(NamedTuple):
    """What changed in a run of elements; the fields are named as the columns are.

    ``sums`` are those of d, |d|, d², a², b², d·a and a·b over the positions where both sides are
    finite. ``largest`` is (|d|, flat index in the tensor, value in A, value in B) of the first of
    the largest differences, None where nothing differs; integers are exact.
    """

    finite: int
    changed: int
    bits_changed: int
    sign_flips: int
    out_of_tolerance: int
    max_ulp: int
    nan_a: int
    nan_b: int
    inf_a: int
    inf_b: int
    nonfinite_mismatch: int
    sums: tuple[Scaled, Scaled, Scaled, Scaled, Scaled, Scaled, Scaled]
    largest: tuple[float | int, int, float | int, float | int] | None
    above: Sequence[int]
    histogram: HistogramCounts | None


class StatsPartial(NamedTuple):
    """What is in a run of elements; the fields are named as the columns are.

    ``extremes`` are (min, max, abs_max, its flat index in the tensor), None where nothing is
    finite. ``powers`` are the sums of (x - pivot)ᵏ, k = 1 to 4, with x and the pivot in units of
    ``2**exponent``; the pivot lies within the values' range, near their mean.
    """

    finite: int
    extremes: tuple[float | int, float | int, float | int, int] | None
    exponent: int
    pivot: float
    powers: tuple[float, float, float, float]
    absolute: Scaled
    zeros: int
    negatives: int
    subnormals: int
    nan: int
    pos_inf: int
    neg_inf: int
    saturated: int
    histogram: HistogramCounts | None
