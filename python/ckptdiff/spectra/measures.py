"""Numbers that sum up a spectrum.

With σ the min(m, n) singular values of A, descending, and λ = σ²:

- stable rank ‖A‖² / σ₁² (Frobenius over spectral norm) [Rudelson and Vershynin 2007],
- effective rank exp(-Σ p log p), p = σ / Σσ [Roy and Vetterli 2007],
- participation ratio (Σλ)² / Σλ², nuclear norm Σσ,
- the rank that holds 90 or 99 % of the energy Σλ = ‖A‖².

The first and, where the leading values reach that far, the last need leading values and the exact
‖A‖ only. The others, and the exponent of the tail, need them all, and are None where there are not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Measures", "measures_of_all", "measures_of_leading"]


@dataclass(frozen=True, slots=True)
class Measures:
    """What a spectrum says; ranks and norms of a zero matrix are 0, and ratios None."""

    spectral_norm: float
    frobenius_norm: float
    stable_rank: float | None
    rank_90: int | None
    rank_99: int | None
    effective_rank: float | None = None
    participation_ratio: float | None = None
    nuclear_norm: float | None = None


def measures_of_leading(values: NDArray[Any], energy: float) -> Measures:
    """From the leading values (k,), descending, and ``energy``, the sum of all squares."""
    if energy == 0:
        return Measures(0.0, 0.0, None, 0, 0)
    largest = float(values[0])
    return Measures(
        spectral_norm=largest,
        frobenius_norm=float(numpy.sqrt(energy)),
        stable_rank=energy / largest**2,
        rank_90=_rank_that_holds(0.90, values, energy),
        rank_99=_rank_that_holds(0.99, values, energy),
    )


def measures_of_all(values: NDArray[Any], energy: float) -> Measures:
    """From all values, descending."""
    leading = measures_of_leading(values, energy)
    if energy == 0:
        return replace(leading, nuclear_norm=0.0)
    total = float(values.sum())
    shares = values[values > 0] / total
    # scaled, so that fourth powers neither overflow nor vanish
    squares = (values / values[0]) ** 2
    return Measures(
        spectral_norm=leading.spectral_norm,
        frobenius_norm=leading.frobenius_norm,
        stable_rank=leading.stable_rank,
        rank_90=leading.rank_90,
        rank_99=leading.rank_99,
        effective_rank=float(numpy.exp(-(shares * numpy.log(shares)).sum())),
        participation_ratio=float(squares.sum() ** 2 / (squares**2).sum()),
        nuclear_norm=total,
    )


def _rank_that_holds(share: float, values: NDArray[Any], energy: float) -> int | None:
    held = numpy.cumsum(values**2)
    # what all of them hold is the energy but for rounding
    reached = numpy.flatnonzero(held >= share * energy * (1 - 1e-12))
    return int(reached[0]) + 1 if len(reached) else None
