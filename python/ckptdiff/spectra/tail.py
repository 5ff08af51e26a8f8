"""The power-law exponent of a spectrum's tail, fitted as weightwatcher fits it.

For eigenvalues x of AᵀA, each x_i is tried as the lower end of the tail. The exponent is then the
maximum-likelihood estimate of a continuous power law, alpha = 1 + n / Σ log(x_j / x_i) over the n
values from x_i on [Clauset, Shalizi, Newman 2009, eq. 3.1], and the lower end is the one for which
the largest distance between the fitted and the empirical distribution function, the
Kolmogorov-Smirnov distance, is smallest [there, section 3.3]. weightwatcher 0.7.7 takes j / n, j
from 0, as the empirical function, leaves out eigenvalues of at most 1e-5, and for fewer
than 20 corrects the bias, alpha = 1 + (n - 1) / Σ …, over tails of at least 8, or over all where
there are fewer. So does this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SMALLEST_EIGENVALUE", "TailFit", "fit_tail"]

#: Eigenvalues that weightwatcher keeps are larger (its EVALS_THRESH).
SMALLEST_EIGENVALUE = 1e-5

#: The shortest tail that is tried where there are few values, unless they are fewer.
_SHORTEST = 8
_FEW = 20


@dataclass(frozen=True, slots=True)
class TailFit:
    """A power law p(x) ~ x^-alpha from ``xmin`` on.

    ``error`` is the standard error of alpha, (alpha - 1) / √n; ``distance`` the Kolmogorov-Smirnov
    distance to the data; ``count`` how many eigenvalues are in the tail.
    """

    alpha: float
    error: float
    distance: float
    xmin: float
    count: int


def fit_tail(eigenvalues: NDArray[Any], threshold: float = SMALLEST_EIGENVALUE) -> TailFit | None:
    """The power law that fits the largest of some eigenvalues best.

    ``eigenvalues`` has the shape (n,) and any order; those not above ``threshold`` are left out.
    None where fewer than 2 are left, or all of them are equal. NaN is not above any threshold.
    """
    import numpy

    data = numpy.sort(numpy.asarray(eigenvalues, numpy.float64))
    data = data[data > threshold]
    size = len(data)
    if size < 2:
        return None
    logs = numpy.log(data)
    few = size < _FEW
    starts = range(max(size - _SHORTEST, 0) + 1) if few else range(size - 1)
    best: TailFit | None = None
    for start in starts:
        count = size - start
        excess = logs[start:] - logs[start]
        total = float(excess.sum())
        if total <= 1e-12:
            continue
        alpha = 1 + (count - 1 if few else count) / total
        fitted = 1 - numpy.exp((1 - alpha) * excess)
        distance = float(numpy.abs(fitted - numpy.arange(count) / count).max())
        if best is None or distance < best.distance:
            error = (alpha - 1) / float(numpy.sqrt(count))
            xmin = float(data[start])
            best = TailFit(alpha, error, distance, xmin, int((data >= xmin).sum()))
    return best
