"""Bars and sparklines of block characters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["bar", "common_range", "levels_line", "sparkline"]

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"


def bar(value: float, largest: float, width: int) -> str:
    """A bar of ``value`` on a linear scale from 0 to ``largest``, in eighths of a character.

    An infinite value fills the width, NaN and zero are empty, and what is not zero shows.
    """
    if value != value or value <= 0:
        return ""
    if math.isinf(value) or value >= largest:
        return "█" * width
    eighths = max(1, round(8 * width * value / largest))
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def common_range(histograms: Sequence[Mapping[int, int]]) -> range:
    """The binary exponents that occur in any of the histograms, as one axis for all of them."""
    exponents = [exponent for histogram in histograms for exponent in histogram]
    if not exponents:
        return range(0)
    return range(min(exponents), max(exponents) + 1)


def sparkline(histogram: Mapping[int, int], axis: range, width: int) -> str:
    """How the counts of a log2 histogram spread over ``axis``, in at most ``width`` characters.

    Several exponents share a character where there are more of them than characters. Heights are
    linear in the count, relative to the highest; a bin that is not empty shows, an empty is blank.
    """
    if not axis:
        return ""
    characters = min(width, len(axis))
    counts = [0] * characters
    for exponent, count in histogram.items():
        counts[(exponent - axis.start) * characters // len(axis)] += count
    highest = max(counts)
    if highest == 0:
        return " " * characters
    return "".join(
        " " if count == 0 else _LEVELS[math.ceil(count * len(_LEVELS) / highest) - 1]
        for count in counts
    )


def levels_line(values: Sequence[float], width: int) -> str:
    """How values go from first to last, in at most ``width`` characters.

    Several values share a character where there are more of them, which then shows the largest.
    Heights are linear, relative to the largest; NaN is blank, and infinity as high as it goes.
    """
    characters = min(width, len(values))
    highest = max((value for value in values if math.isfinite(value)), default=0.0)
    line = ""
    for at in range(characters):
        share = values[at * len(values) // characters : (at + 1) * len(values) // characters]
        defined = [value for value in share if value == value]
        if not defined:
            line += " "
            continue
        value = max(defined)
        height = 1.0 if value >= highest > 0 else max(value, 0.0) / (highest or 1.0)
        line += _LEVELS[max(math.ceil(min(height, 1.0) * len(_LEVELS)), 1) - 1]
    return line
