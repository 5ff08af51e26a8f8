"""The largest singular values of a matrix, and how far off each of them can be.

*The values.* A random matrix Ω of n × l normal numbers is multiplied by A, and the product by Aᵀ
and A by turns, with its columns orthonormalised in between [Halko, Martinsson, Tropp 2011,
algorithm 4.4]. The columns V of the last product with Aᵀ span nearly the leading right singular
vectors. The singular values σ̂ of A V are those reported: as Rayleigh-Ritz values they are never
too large (Cauchy). Ω comes from numpy's PCG64, seeded by the shape and l, so the same matrix has
the same numbers every time.

*The bounds.* In the basis of the Ritz vectors and their complement, H = AᵀA is

    [ diag(σ̂²)   Gᵀ ]      G = Aᵀ(A V) - V diag(σ̂²), computed,
    [ G           C  ]      ‖C‖ = ‖A (I - V Vᵀ)‖², estimated.

The first j Ritz vectors couple to all that is left by the first j columns G_j alone, so by the
theorem of Li and Li [Linear Algebra Appl. 395 (2005) 183] the i-th eigenvalue of H, i ≤ j, exceeds
σ̂_i² by at most 2 g² / (h + √(h² + 4 g²)), where g = ‖G_j‖ and h = σ̂_i² less the largest
eigenvalue t_j of H without those vectors; and t_j is at most what the same expression gives for the
blocks that remain. Where there is no such gap, t_{i-1} itself bounds the i-th eigenvalue
(Courant-Fischer). The least of all these is taken. They shrink with the square of the residual, so
that values with a gap behind them are certain to many digits, and those in a flat spectrum are not:
that is what the numbers say.

*What is certain.* ‖A (I - V Vᵀ)‖ =: ‖F‖ is estimated from above by 6 random vectors ω:
‖F‖^(2q+1) ≤ 10 √(2/π) max ‖(F Fᵀ)^q F ω‖ fails with a probability below 1e-6 [Halko, Martinsson,
Tropp, lemma 4.1, with the powers of their section 4.5 against its looseness]. All else is certain
but for rounding, for which max(m, n) units in the last place of the largest value are added.

*Subspaces.* By Wedin's theorem the leading k left and right singular subspaces are off by an angle
of at most arcsin(‖Aᵀ U_k - V_k Σ_k‖ / (σ̂_k - √t_k)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy

from ckptdiff.spectra.arithmetic import Matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Leading", "exact_leading", "principal_angles", "randomised_leading"]

Array: TypeAlias = "NDArray[Any]"

#: Random vectors of the estimate of a norm, each of which fails with a probability of 1 in 10.
_PROBES = 6
_PROBE_POWERS = 8


@dataclass(frozen=True, slots=True)
class Leading:
    """Leading singular values (k,), descending, and what can be wrong about them.

    The true i-th value lies between ``values[i]`` and ``values[i] + errors[i]``, but for rounding,
    which ``errors`` includes. ``left`` (rows, k) and ``right`` (columns, k) have orthonormal
    columns; ``angle_error`` is by how many radians the spaces they span can be off, at most π/2.
    """

    values: Array
    errors: Array
    left: Array
    right: Array
    angle_error: float


def randomised_leading(matrix: Matrix, count: int, oversampling: int, iterations: int) -> Leading:
    """The largest ``count`` singular values from ``count + oversampling`` random vectors.

    ``iterations`` is how often A and Aᵀ are applied again. Both numbers are cut to what there is.
    """
    size = min(matrix.rows, matrix.columns)
    count = min(count, size)
    width = min(count + oversampling, size)
    random = _random(matrix, width)
    basis = _orthonormal(matrix.times(random.standard_normal((matrix.columns, width))))
    for _ in range(iterations):
        basis = _orthonormal(matrix.transposed_times(basis))
        basis = _orthonormal(matrix.times(basis))
    right = _orthonormal(matrix.transposed_times(basis))
    rest = 0.0 if width == size else _norm_outside(matrix, right, random) ** 2
    return _refined(matrix, right, count, rest)


def exact_leading(matrix: Matrix, count: int) -> Leading:
    """The same from the eigenvectors of the Gram matrix; the next eigenvalue bounds the rest."""
    size = min(matrix.rows, matrix.columns)
    count = min(count, size)
    eigenvalues = matrix.gram_eigenvalues()[::-1]
    rest = max(float(eigenvalues[count]), 0.0) if count < size else 0.0
    # an eigenvalue of a Gram matrix is off by units in the last place of the largest
    rest += max(matrix.rows, matrix.columns) * matrix.precision * float(eigenvalues[0])
    return _refined(matrix, matrix.gram_eigenvectors(count), count, rest)


def principal_angles(a: Array, b: Array) -> Array:
    """The angles between the spaces that the columns of two orthonormal matrices span.

    ``a`` and ``b`` have the shapes (n, k) and (n, l); the min(k, l) angles are in radians,
    ascending. Angles below π/4 come from their sines, which resolve them [Björck and Golub 1973;
    Knyazev and Argentati 2002].
    """
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    cosines = a.T @ b
    sines = numpy.linalg.svd(b - a @ cosines, compute_uv=False)[::-1]
    cosine = numpy.clip(numpy.linalg.svd(cosines, compute_uv=False), 0, 1)
    angles = numpy.where(
        cosine**2 >= 0.5, numpy.arcsin(numpy.clip(sines, 0, 1)), numpy.arccos(cosine)
    )
    return numpy.sort(angles)


def _random(matrix: Matrix, width: int) -> numpy.random.Generator:
    seed = numpy.random.SeedSequence([matrix.rows, matrix.columns, width])
    return numpy.random.Generator(numpy.random.PCG64(seed))


def _orthonormal(columns: Array) -> Array:
    orthonormal: Array = numpy.linalg.qr(columns)[0]
    return orthonormal


def _norm_outside(matrix: Matrix, basis: Array, random: numpy.random.Generator) -> float:
    """A bound on ‖A (I - V Vᵀ)‖ for V = ``basis``; it fails with a probability below 1e-6."""

    def outside(vectors: Array) -> Array:
        # twice, as what is left after once is mostly rounding where little is left
        once: Array = vectors - basis @ (basis.T @ vectors)
        twice: Array = once - basis @ (basis.T @ once)
        return twice

    vectors = random.standard_normal((matrix.columns, _PROBES))
    images = matrix.times(outside(vectors))
    # kept as logarithms, since the power of a norm soon leaves float64
    logarithms = numpy.zeros(_PROBES)
    for _ in range(_PROBE_POWERS):
        images, logarithms = _normalised(images, logarithms)
        images = matrix.times(outside(matrix.transposed_times(images)))
    _, logarithms = _normalised(images, logarithms)
    largest = float(logarithms.max())
    if largest == -math.inf:
        return 0.0
    return math.exp((largest + math.log(10 * math.sqrt(2 / math.pi))) / (2 * _PROBE_POWERS + 1))


def _normalised(vectors: Array, logarithms: Array) -> tuple[Array, Array]:
    norms = numpy.linalg.norm(vectors, axis=0)
    with numpy.errstate(divide="ignore"):
        logarithms = logarithms + numpy.log(norms)
    return vectors / numpy.where(norms > 0, norms, 1), logarithms


def _refined(matrix: Matrix, basis: Array, count: int, rest: float) -> Leading:
    """Rayleigh-Ritz in the space of ``basis``; ``rest`` bounds ‖A (I - V Vᵀ)‖²."""
    left, values, rotation = numpy.linalg.svd(matrix.times(basis), full_matrices=False)
    right = basis @ rotation.T
    residual = matrix.transposed_times(left) - right * values
    # what is in the basis is rounding
    residual -= right @ (right.T @ residual)
    upper, outside = _upper_bounds(values**2, residual * values, rest)
    largest = float(values[0]) if len(values) else 0.0
    rounding = max(matrix.rows, matrix.columns) * matrix.precision * largest
    errors = numpy.sqrt(numpy.maximum(upper, values**2)) - values + rounding
    gap = float(values[count - 1]) - math.sqrt(max(outside[count], 0.0)) - rounding
    off = float(numpy.linalg.norm(residual[:, :count], 2)) + rounding
    return Leading(
        values=values[:count],
        errors=errors[:count],
        left=left[:, :count],
        right=right[:, :count],
        angle_error=math.asin(off / gap) if gap > off else math.pi / 2,
    )


def _upper_bounds(ritz: Array, coupling: Array, rest: float) -> tuple[Array, list[float]]:
    """(bounds on the leading eigenvalues, bounds on the largest one without the first j vectors).

    ``ritz`` (l,) are the Ritz values, descending, ``coupling`` (n, l) is G, ``rest`` is ‖C‖.
    """
    size = len(ritz)
    gram = coupling.T @ coupling

    def norm_squared(part: Array) -> float:
        return float(max(numpy.linalg.eigvalsh(part)[-1], 0.0))

    first = [norm_squared(gram[:j, :j]) for j in range(1, size + 1)]
    outside = []
    for j in range(size):
        apart = abs(float(ritz[j]) - rest)
        outside.append(max(float(ritz[j]), rest) + _raised(norm_squared(gram[j:, j:]), apart))
    outside.append(rest)
    upper = numpy.array(outside[:size])
    for i in range(size):
        for j in range(i + 1, size + 1):
            gap = float(ritz[i]) - outside[j]
            if gap > 0:
                upper[i] = min(upper[i], float(ritz[i]) + _raised(first[j - 1], gap))
    return upper, outside


def _raised(coupling: float, gap: float) -> float:
    """2 g² / (h + √(h² + 4 g²)) for g² = ``coupling`` and h = ``gap``."""
    if coupling == 0:
        return 0.0
    return 2 * coupling / (gap + math.sqrt(gap * gap + 4 * coupling))
