"""Reads one matrix at a time and takes its spectrum.

Of a matrix only one copy is in memory: its values as they are decoded, or the difference in
float64, filled a block of rows at a time. Its Gram matrix, or what LAPACK needs, comes on top where
the spectrum is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy

from ckptdiff._core import Manifest
from ckptdiff.spectra.arithmetic import MakeMatrix, Matrix
from ckptdiff.spectra.leading import (
    Leading,
    exact_leading,
    principal_angles,
    randomised_leading,
)
from ckptdiff.spectra.matrices import MatrixRef
from ckptdiff.spectra.measures import measures_of_all, measures_of_leading
from ckptdiff.spectra.options import SpectrumOptions
from ckptdiff.spectra.rounding import RoundingNoise, low_rank
from ckptdiff.spectra.row import SpectrumRow
from ckptdiff.spectra.tail import SMALLEST_EIGENVALUE, TailFit, fit_tail

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Side", "spectrum_row"]

Array: TypeAlias = "NDArray[Any]"

# Elements that are read at once.
_BLOCK = 1 << 20

# Beyond these magnitudes the squares of squares that bounds are made of leave float64.
_SMALLEST, _LARGEST = 1e-70, 1e70


@dataclass(frozen=True, slots=True)
class Side:
    """Where the values of a matrix come from: tensor ``index`` of a manifest, of this dtype.

    ``tensor`` is torch's where it lies on a device, out of the manifest's reach.
    """

    manifest: Manifest
    index: int
    dtype: str
    tensor: Any = None

    def blocks(self, matrix: MatrixRef) -> Iterator[Array]:
        """The matrix, some rows at a time, in float32 where that is exact, else in float64."""
        step = max(1, _BLOCK // matrix.columns)
        for row in range(0, matrix.rows, step):
            rows = min(step, matrix.rows - row)
            start = matrix.start + row * matrix.columns
            elements = rows * matrix.columns
            data = self._values(start, start + elements)
            kind = "<f4" if len(data) == 4 * elements else "<f8"
            yield numpy.frombuffer(data, kind).reshape(rows, matrix.columns)

    def _values(self, start: int, stop: int) -> bytes:
        if self.tensor is None:
            return self.manifest.values(self.index, start, stop)
        from ckptdiff.backends.torch.boxes import elements_of
        from ckptdiff.formats.memory import open_mapping

        # decoded by the core as all else is, a block at a time
        block = elements_of(self.tensor.detach(), start, stop).cpu()
        return open_mapping({"block": block}).manifest.values(0, 0, stop - start)


class _Survey:
    """Looks at the blocks of a matrix as they go by."""

    def __init__(self) -> None:
        self.energy = 0.0
        self.nonfinite = 0
        self.largest = 0.0

    def over(self, blocks: Iterable[Array]) -> Iterator[Array]:
        """The same blocks."""
        for block in blocks:
            finite = numpy.isfinite(block)
            self.nonfinite += block.size - int(finite.sum())
            if not self.nonfinite:
                self.largest = max(self.largest, float(numpy.abs(block).max(initial=0.0)))
                flat = block.astype(numpy.float64, copy=False).ravel()
                with numpy.errstate(over="ignore", under="ignore"):
                    self.energy += float(flat @ flat)
            yield block

    @property
    def is_representable(self) -> bool:
        """Whether every value is finite and no square of a square overflows or vanishes."""
        if self.nonfinite:
            return False
        return self.largest == 0 or _SMALLEST <= self.largest <= _LARGEST


def spectrum_row(
    matrix: MatrixRef, a: Side, b: Side | None, options: SpectrumOptions, make: MakeMatrix
) -> SpectrumRow:
    """The spectrum of a matrix of A, or where there is a B, of B - A."""
    row = _row_start(matrix, a, b)
    survey = _Survey()
    noise = RoundingNoise(*(side.dtype for side in (a, b) if side is not None))
    if b is None:
        blocks = _noted(a.blocks(matrix), noise)
    else:
        blocks = _differences(a.blocks(matrix), b.blocks(matrix), noise)
    built = make(matrix.rows, matrix.columns, survey.over(blocks))
    if not survey.is_representable:
        return row(nonfinite=survey.nonfinite)
    columns = _described(built, survey.energy, noise, b is not None, options)
    # before the next matrix is made
    del built
    if b is not None and options.angles:
        columns |= _angles(matrix, a, b, survey.energy == 0, options, make)
    return row(**columns)


def _row_start(matrix: MatrixRef, a: Side, b: Side | None) -> Callable[..., SpectrumRow]:
    def row(**columns: Any) -> SpectrumRow:
        return SpectrumRow(
            name=matrix.name,
            rows=matrix.rows,
            columns=matrix.columns,
            dtype_a=a.dtype,
            dtype_b=None if b is None else b.dtype,
            **columns,
        )

    return row


def _noted(blocks: Iterator[Array], noise: RoundingNoise) -> Iterator[Array]:
    for block in blocks:
        if numpy.isfinite(block).all():
            noise.add(block)
        yield block


def _differences(a: Iterator[Array], b: Iterator[Array], noise: RoundingNoise) -> Iterator[Array]:
    for of_a, of_b in zip(a, b, strict=True):
        if numpy.isfinite(of_a).all() and numpy.isfinite(of_b).all():
            noise.add(of_a, of_b)
        with numpy.errstate(invalid="ignore", over="ignore"):
            yield of_b.astype(numpy.float64) - of_a


def _leading(built: Matrix, options: SpectrumOptions, count: int) -> Leading:
    if options.method == "exact":
        return exact_leading(built, count)
    return randomised_leading(built, count, options.oversampling, options.iterations)


def _angles(
    matrix: MatrixRef, a: Side, b: Side, are_equal: bool, options: SpectrumOptions, make: MakeMatrix
) -> dict[str, Any]:
    """The columns on principal angles; none where a side is zero and has no leading subspace."""
    if are_equal:
        zeros = (0.0,) * min(options.angles, matrix.rows, matrix.columns)
        return {"angle": 0.0, "angle_error": 0.0, "angles_left": zeros, "angles_right": zeros}
    spaces = []
    for side in (a, b):
        survey = _Survey()
        built = make(matrix.rows, matrix.columns, survey.over(side.blocks(matrix)))
        if not survey.is_representable or survey.energy == 0:
            return {}
        spaces.append(_leading(built, options, options.angles))
        del built
    left = principal_angles(spaces[0].left, spaces[1].left)
    right = principal_angles(spaces[0].right, spaces[1].right)
    error = spaces[0].angle_error + spaces[1].angle_error
    return {
        "angle": float(max(left[-1], right[-1])),
        "angle_error": min(error, math.pi / 2),
        "angles_left": tuple(left.tolist()),
        "angles_right": tuple(right.tolist()),
    }


def _described(
    built: Matrix,
    energy: float,
    noise: RoundingNoise,
    is_difference: bool,
    options: SpectrumOptions,
) -> dict[str, Any]:
    """The columns of a finite matrix."""
    rows, columns = built.rows, built.columns
    exact = options.is_exact(rows, columns)
    fit: TailFit | None = None
    if energy == 0:
        # there is nothing to compute, and nothing to be wrong about
        values = numpy.zeros(min(rows, columns))
        error, method = 0.0, "exact"
        measures = measures_of_all(values, energy)
    elif exact:
        values, errors = _all_values(built)
        error = float(errors[: options.k].max())
        method = "exact"
        measures = measures_of_all(values, energy)
        # of a difference the scale is that of the learning rate, and no threshold is given by
        # nature
        zero = (max(rows, columns) * built.precision * float(values[0])) ** 2
        fit = fit_tail(values**2, zero if is_difference else SMALLEST_EIGENVALUE)
    else:
        leading = randomised_leading(built, options.k, options.oversampling, options.iterations)
        values, method = leading.values, "randomised"
        error = float(leading.errors.max())
        measures = measures_of_leading(values, energy)
    found = low_rank(values, rows, columns, energy, noise, built.precision)
    described: dict[str, Any] = {
        "method": method,
        "error": error,
        "low_rank": found.verdict,
        "rank": found.rank,
        "rank_floor": found.floor,
        "values": tuple(values[: options.k].tolist()),
        **{name: getattr(measures, name) for name in measures.__slots__},
    }
    if fit is not None:
        described |= {
            "alpha": fit.alpha,
            "alpha_error": fit.error,
            "alpha_distance": fit.distance,
            "alpha_xmin": fit.xmin,
            "alpha_count": fit.count,
        }
    return described


def _all_values(built: Matrix) -> tuple[Array, Array]:
    """All singular values, descending, and bounds on their errors.

    They are the roots of the eigenvalues of the Gram matrix, each of which is off by at most
    max(m, n) units in the last place of the largest: quick, and good for all that is not tiny.
    Where an eigenvalue is below that, squaring has lost it, and a singular value decomposition is
    made.
    """
    resolution = max(built.rows, built.columns) * built.precision
    eigenvalues = built.gram_eigenvalues()[::-1]
    largest = float(eigenvalues[0])
    if float(eigenvalues[-1]) > resolution * largest:
        values = numpy.sqrt(eigenvalues)
        return values, resolution * largest / (2 * values)
    values = built.singular_values()
    return values, numpy.full(len(values), resolution * float(values[0]))
