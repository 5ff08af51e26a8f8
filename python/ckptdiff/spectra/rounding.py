"""What the rounding of stored values adds to a spectrum, and the rank that is left without it.

A matrix that is a sum of a few outer products has as many singular values, but only until it is
stored. Rounding W + B A to bfloat16 adds noise with a variance of step² / 12 per element, where the
step is that of the dtype at the element's magnitude. Such noise has the energy N = Σ step² / 12,
which is summed here over the matrix itself, and its largest singular value lies near √(N / (m n))
(√m + √n) [Bai and Yin 1993]. Values above that are counted as the rank. The matrix is low-rank if
the energy that they leave is no more than rounding explains, and if that many factors are smaller
than the matrix: r (m + n) < m n, as it is for any LoRA [Hu et al. 2021] that is worth its name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LowRank", "RankVerdict", "RoundingNoise", "low_rank"]

Array: TypeAlias = "NDArray[Any]"

RankVerdict = Literal["zero", "rounding", "low_rank", "full", "above_k"]

# Explicit bits of the significand and the smallest exponent of a normal number.
_STEPS = {
    "F64": (52, -1022),
    "F32": (23, -126),
    "F16": (10, -14),
    "BF16": (7, -126),
    "F8_E4M3": (3, -6),
    "F8_E5M2": (2, -14),
    "F8_E4M3FNUZ": (3, -7),
    "F8_E5M2FNUZ": (2, -15),
}

# How far above the asymptotic edge a value must be to count: a finite matrix, whose steps differ
# from row to row, has its largest value somewhat above it.
_MARGIN = 1.25

# How much more energy than rounding explains may be left.
_SLACK = 1.5


class RoundingNoise:
    """Adds up the energy of the rounding of elements, block by block.

    Both sides of a difference may have been rounded, so both count. Dtypes without steps (integers,
    quantised) are taken to be exact.
    """

    def __init__(self, *dtypes: str) -> None:
        self._steps = [_STEPS.get(dtype) for dtype in dtypes]
        self.energy = 0.0

    def add(self, *blocks: Array) -> None:
        """Count the elements of a block of each side, which are finite."""
        for step, block in zip(self._steps, blocks, strict=True):
            if step is not None and block.size:
                self.energy += _rounding_energy(block, *step)


def _rounding_energy(block: Array, bits: int, smallest: int) -> float:
    """Σ step² / 12; zeros have the least step."""
    # a value in [2^(e-1), 2^e) has the exponent e
    exponents = numpy.frexp(block)[1] - 1
    exponents = numpy.where(block == 0, smallest, numpy.maximum(exponents, smallest)) - bits
    lowest = int(exponents.min())
    counts = numpy.bincount((exponents - lowest).ravel())
    powers = 2 * (lowest + numpy.arange(len(counts), dtype=numpy.float64))
    # no matrix is taken the spectrum of where this clips
    return float((counts * numpy.exp2(numpy.clip(powers, -1000, 1000))).sum()) / 12


@dataclass(frozen=True, slots=True)
class LowRank:
    """Whether a matrix has few factors.

    ``verdict`` is ``zero`` (every element is 0), ``rounding`` (no more than rounding explains),
    ``low_rank``, ``full``, or ``above_k`` (the values that were computed are all above the noise,
    so more of them, or all, would have to be). ``rank`` is known for the first three.
    """

    verdict: RankVerdict
    rank: int | None


def low_rank(
    values: Array, rows: int, columns: int, energy: float, noise: float, precision: float
) -> LowRank:
    """The verdict on a matrix by its leading singular values ``values`` (descending).

    ``energy`` is ‖A‖², ``noise`` the energy that rounding explains, ``precision`` the unit roundoff
    of the arithmetic that the values come from.
    """
    if energy == 0:
        return LowRank("zero", 0)
    largest = float(values[0])
    floor = max(rows, columns) * precision * largest
    spread = math.sqrt(noise / (rows * columns)) * (math.sqrt(rows) + math.sqrt(columns))
    above = int((values > max(_MARGIN * spread, floor)).sum())
    size = min(rows, columns)
    if above == len(values) < size:
        return LowRank("above_k", None)
    left = energy - float((values[:above] ** 2).sum())
    # the difference of two sums of squares of such values
    lost = 4 * max(rows, columns) * precision * energy
    explained = _SLACK * noise + size * floor**2 + lost
    if left > explained:
        return LowRank("full", None)
    if above == 0:
        return LowRank("rounding", 0)
    if above * (rows + columns) < rows * columns:
        return LowRank("low_rank", above)
    return LowRank("full", None)
