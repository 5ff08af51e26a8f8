"""A matrix that multiplies: by numpy, or by torch on a device.

All that is done with a large matrix is a handful of products with thin ones, its Gram matrix, and
the eigenvalues or singular values of it whole. Everything thin stays in numpy, in float64. The
matrix itself is kept as it was decoded, in float32 where that is exact, and widened a block of rows
or columns at a time, so that products are those of float64 at half the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DEVICES", "MakeMatrix", "Matrix", "NumpyMatrix", "make_matrix_on"]

#: What ``device`` can be, for messages.
DEVICES = "cpu, cpu-torch, cuda, cuda:N or mps"

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
    matrix, whose rounding errors would be those of squares, is left to the CPU.
    """

    def __init__(self, rows: int, columns: int, blocks: Iterable[Array], device: str) -> None:
        import torch

        self._torch = torch
        self.rows, self.columns = rows, columns
        self._wide = torch.float64 if torch.device(device).type != "mps" else torch.float32
        self.precision = 2.0**-53 if self._wide == torch.float64 else 2.0**-24
        values: Any = None
        start = 0
        for block in blocks:
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
        return self._in_numpy(self._torch.cat(parts))

    def transposed_times(self, left: Array) -> Array:
        wanted = self._on_device(left)
        product = self._torch.zeros(
            (self.columns, left.shape[1]), dtype=self._wide, device=self._values.device
        )
        with self._as_wide_as_asked():
            for rows in _slices(self.rows, self.columns):
                product += self._values[rows].to(self._wide).T @ wanted[rows]
        return self._in_numpy(product)

    def gram_eigenvalues(self) -> Array:
        gram = self._gram(self.columns <= self.rows)
        return self._in_numpy(self._torch.linalg.eigvalsh(gram))

    def gram_eigenvectors(self, count: int) -> Array:
        vectors = self._torch.linalg.eigh(self._gram(self.columns <= self.rows))[1]
        leading = self._in_numpy(vectors.flip(1)[:, :count])
        if self.columns <= self.rows:
            return leading
        return numpy.linalg.qr(self.transposed_times(leading))[0]

    def singular_values(self) -> Array:
        if self._wide != self._torch.float64:
            return numpy.linalg.svd(
                self._values.cpu().numpy().astype(numpy.float64), compute_uv=False
            )
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

    def _as_wide_as_asked(self) -> Any:
        """Autocast, where a caller has it on, would multiply in 16 bits; float64 it leaves be."""
        return self._torch.autocast(self._values.device.type, enabled=False)

    def _on_device(self, thin: Array) -> Any:
        return self._torch.tensor(thin, dtype=self._wide, device=self._values.device)

    def _in_numpy(self, thin: Any) -> Array:
        values: Array = thin.cpu().to(self._torch.float64).numpy()
        return values


def make_matrix_on(device: str) -> MakeMatrix:
    """What makes a matrix there: numpy for ``cpu``, torch for ``cpu-torch``, ``cuda[:N]``, ``mps``.

    Raises ValueError, a line, where the device has no such name, where torch is not installed and
    where there is no such device.
    """
    if device == "cpu":
        return NumpyMatrix
    if device == "torch:cpu":  # as diff and stats call it
        device = "cpu-torch"
    kind, colon, number = device.partition(":")
    if kind not in ("cpu-torch", "cuda", "mps") or (
        colon and (kind != "cuda" or not number.isdecimal())
    ):
        raise ValueError(f"no device is named {device!r}, only {DEVICES}")
    try:
        import torch
    except ImportError:
        raise ValueError(f"device {device!r} needs torch: pip install 'ckptdiff[torch]'") from None
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise ValueError(f"device {device!r} is not there: torch sees {count} CUDA devices")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' is not there: torch sees no Metal device")
    name = "cpu" if kind == "cpu-torch" else device

    def make(rows: int, columns: int, blocks: Iterable[Array]) -> Matrix:
        return TorchMatrix(rows, columns, blocks, name)

    return make
