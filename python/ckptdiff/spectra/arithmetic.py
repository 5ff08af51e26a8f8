"""A matrix that multiplies: by numpy, or by torch on a device.

All that is done with a large matrix is a handful of products with thin ones, its Gram matrix, and
the eigenvalues or singular values of it whole. Everything thin stays in numpy, in float64. The
matrix itself is kept as it was decoded, in float32 where that is exact, and widened a block of rows
or columns at a time, so that products are those of float64 at half the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy

from ckptdiff.backends import devices

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MakeMatrix", "Matrix", "NumpyMatrix", "make_matrix_on"]

# Elements that are widened at once: 32 MB of float64.
_BLOCK = 1 << 22

Array: TypeAlias = "NDArray[Any]"

# Makes a matrix of (rows, columns, blocks of rows in their order, all of one dtype).
MakeMatrix: TypeAlias = Callable[[int, int, Iterable[Array]], "Matrix"]


class Matrix(Protocol):
    """A real matrix of ``rows`` × ``columns`` finite values; every array is float64 in numpy."""

    rows: int
    columns: int
    #: The unit roundoff of its products.
    precision: float

    def times(self, right: Array) -> Array:
        """A X for X of shape (columns, n)."""

    def transposed_times(self, left: Array) -> Array:
        """Aᵀ Y for Y of shape (rows, n)."""

    def gram_eigenvalues(self) -> Array:
        """The eigenvalues of the smaller of AᵀA and AAᵀ, ascending."""

    def gram_eigenvectors(self, count: int) -> Array:
        """The eigenvectors of AᵀA to its largest ``count`` eigenvalues, shape (columns, count)."""

    def singular_values(self) -> Array:
        """All min(rows, columns) singular values, descending, without squaring the matrix."""


class NumpyMatrix:
    """A matrix in memory; LAPACK does the rest."""

    precision = 2.0**-53

    def __init__(self, rows: int, columns: int, blocks: Iterable[Array]) -> None:
        self.rows, self.columns = rows, columns
        values: Array | None = None
        start = 0
        for block in blocks:
            if values is None:
                values = numpy.empty((rows, columns), block.dtype)
            values[start : start + len(block)] = block
            start += len(block)
        assert values is not None
        assert start == rows
        self._values: Array = values

    def times(self, right: Array) -> Array:
        product = numpy.empty((self.rows, right.shape[1]))
        for rows in _slices(self.rows, self.columns):
            numpy.matmul(_wide(self._values[rows]), right, out=product[rows])
        return product

    def transposed_times(self, left: Array) -> Array:
        product = numpy.zeros((self.columns, left.shape[1]))
        for rows in _slices(self.rows, self.columns):
            product += _wide(self._values[rows]).T @ left[rows]
        return product

    def gram_eigenvalues(self) -> Array:
        return numpy.linalg.eigvalsh(self._gram(min(self.rows, self.columns) == self.columns))

    def gram_eigenvectors(self, count: int) -> Array:
        if self.columns <= self.rows:
            return numpy.linalg.eigh(self._gram(True))[1][:, ::-1][:, :count]
        left = numpy.linalg.eigh(self._gram(False))[1][:, ::-1][:, :count]
        return numpy.linalg.qr(self.transposed_times(left))[0]

    def singular_values(self) -> Array:
        return numpy.linalg.svd(_wide(self._values), compute_uv=False)

    def _gram(self, of_columns: bool) -> Array:
        if of_columns:
            gram = numpy.zeros((self.columns, self.columns))
            for rows in _slices(self.rows, self.columns):
                block = _wide(self._values[rows])
                gram += block.T @ block
            return gram
        gram = numpy.zeros((self.rows, self.rows))
        for columns in _slices(self.columns, self.rows):
            block = _wide(self._values[:, columns])
            gram += block @ block.T
        return gram


def _slices(count: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK // width)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _wide(values: Array) -> Array:
    return values.astype(numpy.float64, copy=False)


class TorchMatrix:
    """A matrix on a device of torch.

    A device without float64 (mps) multiplies in float32, which :attr:`precision` says; its Gram
    matrix, whose rounding errors would be those of squares, is left to the CPU. What it holds is
    the matrix over a power of two, so that the largest value is near 1 whatever float32 can hold.
    """

    def __init__(self, rows: int, columns: int, blocks: Iterable[Array], device: str) -> None:
        import torch

        from ckptdiff.backends.torch.run import has_float64

        self._torch = torch
        self.rows, self.columns = rows, columns
        self._wide = torch.float64 if has_float64(torch.device(device)) else torch.float32
        self.precision = 2.0**-53 if self._wide == torch.float64 else 2.0**-24
        self._exponent: int | None = None
        values: Any = None
        start = 0
        for block in blocks:
            if self._wide == torch.float32:
                block = self._scaled(block, values)
            # a copy, as torch warns of sharing memory that numpy does not let be written
            part = torch.tensor(block, device="cpu")
            if values is None:
                narrow = part.dtype == torch.float32 or self._wide == torch.float32
                kept = torch.float32 if narrow else torch.float64
                values = torch.empty((rows, columns), dtype=kept, device=device)
            values[start : start + len(block)] = part.to(values.dtype)
            start += len(block)
        assert start == rows
        self._values = values

    def times(self, right: Array) -> Array:
        wanted = self._on_device(right)
        with self._as_wide_as_asked():
            parts = [
                self._values[rows].to(self._wide) @ wanted
                for rows in _slices(self.rows, self.columns)
            ]
        return self._unscaled(self._in_numpy(self._torch.cat(parts)))

    def transposed_times(self, left: Array) -> Array:
        wanted = self._on_device(left)
        product = self._torch.zeros(
            (self.columns, left.shape[1]), dtype=self._wide, device=self._values.device
        )
        with self._as_wide_as_asked():
            for rows in _slices(self.rows, self.columns):
                product += self._values[rows].to(self._wide).T @ wanted[rows]
        return self._unscaled(self._in_numpy(product))

    def gram_eigenvalues(self) -> Array:
        gram = self._gram(self.columns <= self.rows)
        return self._unscaled(self._in_numpy(self._torch.linalg.eigvalsh(gram)), 2)

    def gram_eigenvectors(self, count: int) -> Array:
        vectors = self._torch.linalg.eigh(self._gram(self.columns <= self.rows))[1]
        leading = self._in_numpy(vectors.flip(1)[:, :count])
        if self.columns <= self.rows:
            return leading
        return numpy.linalg.qr(self.transposed_times(leading))[0]

    def singular_values(self) -> Array:
        if self._wide != self._torch.float64:
            values = self._values.cpu().numpy().astype(numpy.float64)
            return self._unscaled(numpy.linalg.svd(values, compute_uv=False))
        return self._in_numpy(self._torch.linalg.svdvals(self._values.to(self._wide)))

    def _gram(self, of_columns: bool) -> Any:
        torch = self._torch
        size = self.columns if of_columns else self.rows
        here = self._values.device if self._wide == torch.float64 else torch.device("cpu")
        gram = torch.zeros((size, size), dtype=torch.float64, device=here)
        count, width = (self.rows, self.columns) if of_columns else (self.columns, self.rows)
        for part in _slices(count, width):
            block = self._values[part] if of_columns else self._values[:, part].T
            block = block.to(here).to(torch.float64)
            gram += block.T @ block
        return gram

    def _scaled(self, block: Array, held: Any) -> Array:
        """A block over the power of two of the matrix, which is raised where the block is larger.

        ``held`` is what there is of the matrix so far, and is brought to the new power.
        """
        magnitudes = numpy.abs(block[numpy.isfinite(block)])
        largest = float(magnitudes.max(initial=0.0))
        if largest > 0:
            exponent = math.frexp(largest)[1]
            if self._exponent is None:
                self._exponent = exponent
            elif exponent > self._exponent:
                # powers below float32's leave nothing, and that is what is left of such values
                held *= 2.0 ** max(self._exponent - exponent, -140)
                self._exponent = exponent
        return numpy.ldexp(block.astype(numpy.float64), -(self._exponent or 0))

    def _as_wide_as_asked(self) -> Any:
        """Autocast, where a caller has it on, would multiply in 16 bits; float64 it leaves be."""
        return self._torch.autocast(self._values.device.type, enabled=False)

    def _on_device(self, thin: Array) -> Any:
        return self._torch.tensor(thin, dtype=self._wide, device=self._values.device)

    def _in_numpy(self, thin: Any) -> Array:
        values: Array = thin.cpu().to(self._torch.float64).numpy()
        return values

    def _unscaled(self, values: Array, power: int = 1) -> Array:
        return numpy.ldexp(values, power * self._exponent) if self._exponent else values


def make_matrix_on(device: str) -> MakeMatrix:
    """What makes a matrix there: numpy for ``cpu``, else torch, by the names of a diff's devices.

    Raises ValueError, a line, where the device has no such name, where torch is not installed and
    where there is no such device.
    """
    device = devices.resolved(device)
    if device == devices.CORE:
        return NumpyMatrix
    name = "cpu" if device == devices.TORCH_CPU else device

    def make(rows: int, columns: int, blocks: Iterable[Array]) -> Matrix:
        return TorchMatrix(rows, columns, blocks, name)

    return make
