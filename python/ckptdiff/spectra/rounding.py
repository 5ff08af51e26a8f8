"""What the rounding of stored values adds to a spectrum, and the rank that is left without it.

A matrix that is a sum of a few outer products has as many singular values, but only until it is
stored. Rounding W + B A to a dtype adds noise of variance step² / 12 to each element, the step
being that of the dtype at the element's magnitude. The product was rounded, too, before it was
added. In a dtype of 32 or 64 bits it was most likely computed in that dtype: of the r partial sums
of a dot product, of sizes that grow as √(j / r), each is rounded, which is r / 2 roundings of the
result and one of the sum. Shorter dtypes are added up in float32 and rounded once or twice. So an
element of the noise has the variance

    v = step(a)² / 12 + step(b)² / 12 + g step(b - a)² / 12,     g = r / 2 + 1, or 2,

the last term being that of the product, and for a matrix alone v = (1 + g) step(a)² / 12.

The largest singular value of a matrix of independent elements of these variances is at most about

    max_i √(Σ_j v_ij) + max_j √(Σ_i v_ij)

[Bandeira and van Handel, Ann. Probab. 44 (2016) 2479, theorem 3.1], which is √v (√m + √n), the edge
of Marchenko and Pastur, where all are alike. A quarter more than that is the *floor*: singular
values above it are counted. As g depends on the rank, the rank is the least r of which no more than
r values exceed the floor. It is given where it is certain: the last value that counts must be half
as large again as the floor, what is left may not have more energy than rounding explains, and that
many factors must be smaller than the matrix, r (m + n) < m n, as of any LoRA [Hu et al. 2021] that
is worth its name. Where the values go on across the floor without a gap, rounding hides the rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LowRank", "RankVerdict", "RoundingNoise", "low_rank"]

Array: TypeAlias = "NDArray[Any]"

RankVerdict = Literal["zero", "rounding", "low_rank", "full", "above_k", "undecided"]

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

# Products are computed in these as they are, so that every partial sum is rounded.
_COMPUTED_IN = ("F32", "F64")

# How far above the expectation's bound a value must be to count.
_MARGIN = 1.25

# How far above the floor the last value that counts must be.
_GAP = 1.5

# How much more energy than rounding explains may be left; no rounding has more than three times the
# energy of step² / 12, as it is by half a step at most.
_SLACK = 1.5
_MOST = 3.0


class RoundingNoise:
    """Adds up the variances of the rounding of elements over rows and columns, block by block.

    Both sides of a difference may have been rounded, so both count. Dtypes without steps (integers,
    quantised) are taken to be exact.
    """

    def __init__(self, *dtypes: str) -> None:
        self._steps = [_STEPS.get(dtype) for dtype in dtypes]
        self._computed = dtypes[-1] in _COMPUTED_IN
        # of what is stored, and of a product that is rounded once
        self._of_rows: tuple[list[Array], list[Array]] = ([], [])
        self._of_columns: list[Array] = [numpy.zeros(1), numpy.zeros(1)]

    def add(self, *blocks: Array) -> None:
        """Count some rows, of each side, whose elements are finite."""
        width = blocks[0].shape[1]
        stored = (numpy.zeros(len(blocks[0])), numpy.zeros(width))
        for step, block in zip(self._steps, blocks, strict=True):
            if step is not None and block.size:
                rows, columns = _rounding_variances(block, *step)
                stored = (stored[0] + rows, stored[1] + columns)
        product = stored
        step = self._steps[-1]
        if len(blocks) > 1:
            product = (numpy.zeros(len(blocks[0])), numpy.zeros(width))
            if step is not None and blocks[0].size:
                with numpy.errstate(over="ignore"):
                    difference = blocks[1].astype(numpy.float64) - blocks[0]
                product = _rounding_variances(difference, *step)
        for number, (rows, columns) in enumerate((stored, product)):
            self._of_rows[number].append(rows)
            self._of_columns[number] = self._of_columns[number] + columns

    def _roundings(self, rank: int) -> float:
        """How many roundings of the result a product of that inner dimension is."""
        return rank / 2 + 1 if self._computed else 2.0

    def energy(self, rank: int) -> float:
        """What rounding adds to ‖A‖², if the product has that rank."""
        stored, product = (float(numpy.sum(columns)) for columns in self._of_columns)
        return stored + self._roundings(rank) * product

    def largest(self, rank: int) -> float:
        """The largest singular value of the noise, nearly, if the product has that rank."""
        if not self._of_rows[0]:
            return 0.0
        of_rows = [numpy.concatenate(parts) for parts in self._of_rows]
        roundings = self._roundings(rank)
        variances = [
            float((stored + roundings * product).max(initial=0.0))
            for stored, product in (of_rows, self._of_columns)
        ]
        return math.sqrt(variances[0]) + math.sqrt(variances[1])


def _rounding_variances(block: Array, bits: int, smallest: int) -> tuple[Array, Array]:
    """Σ step² / 12 of the rows and of the columns of a block; zeros have the least step."""
    # what is left of a number without its mantissa is the power of two that begins its binade
    exponent_bits = numpy.uint64(0x7FF << 52)
    codes = block.astype(numpy.float64).view(numpy.uint64)
    codes &= exponent_bits
    powers = codes.view(numpy.float64)
    numpy.maximum(powers, 2.0**smallest, out=powers)
    powers *= 2.0**-bits
    with numpy.errstate(over="ignore", under="ignore"):
        # no matrix is taken the spectrum of where these overflow
        numpy.square(powers, out=powers)
    return powers.sum(axis=1) / 12, powers.sum(axis=0) / 12


@dataclass(frozen=True, slots=True)
class LowRank:
    """Whether a matrix has few factors.

    ``verdict`` is ``zero`` (every element is 0), ``rounding`` (no more than rounding explains),
    ``low_rank``, ``full``, ``above_k`` (the values that were computed are all above the floor, so
    more of them, or all, would have to be), or ``undecided`` (the values leave no gap at the
    floor). ``rank`` is known for the first three. ``floor`` is what a value must exceed to count.
    """

    verdict: RankVerdict
    rank: int | None
    floor: float


def low_rank(
    values: Array, rows: int, columns: int, energy: float, noise: RoundingNoise, precision: float
) -> LowRank:
    """The verdict on a matrix by its leading singular values ``values`` (descending).

    ``energy`` is ‖A‖², ``noise`` what rounding may have added, ``precision`` the unit roundoff of
    the arithmetic that the values come from.
    """
    if energy == 0:
        return LowRank("zero", 0, 0.0)
    resolution = max(rows, columns) * precision * float(values[0])

    def floor_at(rank: int) -> float:
        return max(_MARGIN * noise.largest(rank), resolution)

    rank = _rank(values, floor_at)
    floor = floor_at(rank)
    size = min(rows, columns)
    if rank * (rows + columns) >= rows * columns:
        return LowRank("full", None, floor)
    if rank == len(values) < size:
        return LowRank("above_k", None, floor)
    left = energy - float((values[:rank] ** 2).sum())
    # the difference of two sums of squares of such values
    lost = size * resolution**2 + 4 * max(rows, columns) * precision * energy
    explained = noise.energy(rank)
    if left > _MOST * explained + lost:
        return LowRank("full", None, floor)
    if left > _SLACK * explained + lost or (rank and float(values[rank - 1]) < _GAP * floor):
        return LowRank("undecided", None, floor)
    return LowRank("low_rank" if rank else "rounding", rank, floor)


def _rank(values: Array, floor_at: Callable[[int], float]) -> int:
    """The least r of which no more than r values exceed the floor; it is there, as floors grow."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if int((values > floor_at(middle)).sum()) <= middle:
            high = middle
        else:
            low = middle + 1
    return low
