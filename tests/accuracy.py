"""The accuracy suite: data on which sums go wrong, and how far off each column is.

``python -m tests.accuracy`` prints the worst relative error of every sum and norm, for each dtype,
as a Markdown table; :mod:`tests.test_accuracy` holds the same numbers against the contract.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.compare import error_of
from tests.dtypes import DTYPES, encode
from tests.engine import diff_rows, stats_rows
from tests.oracle import DIFF_SUMS, STATS_SUMS, Expected, diff_oracle, stats_oracle
from tests.writers import Tensor, write_file

Floats = NDArray[np.float64]
Maker = Callable[[np.random.Generator, int], tuple[Floats, Floats]]

#: Not a multiple of any lane, block or chunk; more than one chunk.
ELEMENTS = 2**20 + 54_321
FLOAT_DTYPES = ("BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2")
WIDE_RANGE = ("BF16", "F32", "F64")


class Case(NamedTuple):
    name: str
    make: Maker
    dtypes: tuple[str, ...] = FLOAT_DTYPES
    elements: int = ELEMENTS


def random(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    a = rng.normal(0, 0.02, n)
    return a, a + rng.normal(0, 1e-4, n)


def unrelated(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    return rng.normal(0, 1, n), rng.normal(0, 1, n)


def constant(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    return np.full(n, 0.1), np.full(n, 0.1037)


def constant_far_apart(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """The difference needs more bits than f32 has, and rounds the same way everywhere."""
    return np.full(n, 1.9921875), np.full(n, -1.9921875 * 2.0**-17)


def alternating(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Signed sums that cancel to nothing."""
    signs = 1.0 - 2.0 * (np.arange(n) % 2)
    return 0.3 * signs, 0.31 * signs


def wide_exponents(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    a = rng.choice([-1.0, 1.0], n) * 10.0 ** rng.uniform(-30, 30, n)
    return a, a * (1 + rng.normal(0, 1e-2, n))


def magnitude(scale: float) -> Maker:
    def make(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        a = rng.normal(0, scale, n)
        return a, a + rng.normal(0, scale * 1e-2, n)

    return make


def constant_magnitude(scale: float) -> Maker:
    def make(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        return np.full(n, 1.1 * scale), np.full(n, 1.3 * scale)

    return make


def second_moments(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Adam's exp_avg_sq: positive, tiny, over many orders of magnitude, and zeros."""
    a = np.exp(rng.normal(-30, 5, n)) * (rng.random(n) > 0.05)
    return a, a * 0.999 + 0.001 * np.exp(rng.normal(-30, 5, n))


def norm_weights(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    a = 1 + rng.normal(0, 0.01, n)
    return a, a + rng.normal(0, 1e-3, n)


def sparse_update(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    a = rng.normal(0, 0.02, n)
    return a, np.where(rng.random(n) < 1e-4, a * 1.01, a)


def outliers(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """An embedding: most rows small, a few a thousand times larger."""
    a = rng.normal(0, 0.01, n) * np.where(rng.random(n) < 1e-3, 1000, 1)
    return a, a * (1 + rng.normal(0, 1e-2, n))


def ascending(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """The running sum dwarfs what is added to it."""
    a = np.linspace(0, 1, n)
    return a, a * 1.003


def tiled(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """64 values again and again: every lane and tree rounds the same way every time."""
    a, b = rng.normal(0, 1, 64), rng.normal(0, 1, 64)
    repeats = n // 64 + 1
    return np.tile(a, repeats)[:n], np.tile(b, repeats)[:n]


def scaled(factor: float) -> Maker:
    """The same direction at another length: the cosine is 1, whatever the difference is."""

    def make(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        a = rng.normal(0, 1, n)
        return a, a * factor

    return make


def integers(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Large ones, whose squares no 32 bits hold."""
    return rng.integers(0, 30_000, n).astype(float), rng.integers(20_000, 32_000, n).astype(float)


CASES = (
    Case("random", random, elements=2 * 2**20 + 7),
    Case("unrelated", unrelated),
    Case("constant", constant, elements=2 * 2**20 + 7),
    Case("constant far apart", constant_far_apart),
    Case("alternating", alternating),
    Case("wide exponents", wide_exponents, WIDE_RANGE),
    Case("1e30", magnitude(1e30), WIDE_RANGE),
    Case("1e-30", magnitude(1e-30), WIDE_RANGE),
    Case("constant 1e30", constant_magnitude(1e30), WIDE_RANGE),
    Case("constant 1e-30", constant_magnitude(1e-30), WIDE_RANGE),
    Case("1e200", magnitude(1e200), ("F64",)),
    Case("1e-200", magnitude(1e-200), ("F64",)),
    Case("second moments", second_moments, WIDE_RANGE),
    Case("norm weights", norm_weights),
    Case("sparse update", sparse_update),
    Case("outliers", outliers),
    Case("ascending", ascending),
    Case("scaled by 1/16", scaled(1 / 16)),
    Case("scaled by -1e-3", scaled(-1e-3), ("BF16", "F32", "F64")),
    Case("tiled", tiled),
    Case("integers", integers, ("U16", "I16", "I32", "I64")),
)


class Measurement(NamedTuple):
    case: str
    dtype: str
    column: str
    error: float
    expected: float
    actual: float


def errors(
    case: Case, dtype: str, row: dict[str, object], expected: Expected, columns: tuple[str, ...]
) -> Iterator[Measurement]:
    for column in columns:
        actual, value = row[column], expected.columns[column]
        assert isinstance(actual, float), (case.name, dtype, column, actual)
        assert isinstance(value, float)
        error = error_of(actual, value, expected.scales.get(column))
        yield Measurement(case.name, dtype, column, error, value, actual)


def measure_case(case: Case, folder: Path) -> Iterator[Measurement]:
    """How far every sum and norm of this case is off, for each of its dtypes."""
    a, b = case.make(np.random.default_rng(2024), case.elements)
    for dtype in case.dtypes:
        shape = (case.elements,)
        tensor_a = Tensor(dtype, shape, encode(a, DTYPES[dtype]))
        tensor_b = Tensor(dtype, shape, encode(b, DTYPES[dtype]))
        path_a = write_file(folder / "a.safetensors", {"w": tensor_a})
        path_b = write_file(folder / "b.safetensors", {"w": tensor_b})
        row = diff_rows(path_a, path_b)["w"]
        yield from errors(case, dtype, row, diff_oracle(tensor_a, tensor_b), DIFF_SUMS)
        row = stats_rows(path_b)["w"]
        yield from errors(case, dtype, row, stats_oracle(tensor_b), STATS_SUMS)


def table(measurements: list[Measurement]) -> str:
    """The worst error per column (rows) and dtype, as Markdown."""
    dtypes = list(dict.fromkeys(m.dtype for m in measurements))
    columns = list(dict.fromkeys(m.column for m in measurements))
    lines = [
        "| column | " + " | ".join(dtypes) + " | worst on |",
        "| --- |" + " ---: |" * len(dtypes) + " --- |",
    ]
    for column in columns:
        held = [m for m in measurements if m.column == column]
        worst = {
            dtype: max((m.error for m in held if m.dtype == dtype), default=0.0) for dtype in dtypes
        }
        case = max(held, key=lambda m: m.error)
        cells = " | ".join(f"{worst[dtype]:.1e}" for dtype in dtypes)
        lines.append(f"| {column} | {cells} | {case.case} ({case.dtype}) |")
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        measurements = [m for case in CASES for m in measure_case(case, Path(folder))]
    sys.stdout.write(table(measurements) + "\n")


if __name__ == "__main__":
    main()
