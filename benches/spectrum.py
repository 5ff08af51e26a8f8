"""``python -m benches.spectrum [--device cpu|cpu-torch|cuda|mps]``: seconds per matrix.

The matrices are those of models of 1, 7 and 32 G parameters (attention and feed-forward), of
bfloat16 weights with a power-law tail in noise. Each is measured as ckptdiff does it, from values
in memory: randomised (k = 16) and exact; beside it LAPACK's own singular values by numpy, where
that is asked for (``--lapack``, minutes for the large ones). The error is the relative bound on the
16th value that the randomised method states, and what it truly is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from ckptdiff.spectra.arithmetic import make_matrix_on
from ckptdiff.spectra.leading import randomised_leading

SHAPES = {
    "1B attention": (2048, 2048),
    "1B feed-forward": (8192, 2048),
    "7B attention": (4096, 4096),
    "7B feed-forward": (11008, 4096),
    "32B feed-forward": (27648, 5120),
}


def weights(rows: int, columns: int) -> Any:
    """Noise and a tail, rounded to bfloat16, in float32."""
    rng = np.random.default_rng(0)
    values = 0.02 * rng.standard_normal((rows, columns), np.float32)
    factors = 64
    left = rng.standard_normal((rows, factors), np.float32)
    right = rng.standard_normal((factors, columns), np.float32)
    sizes = 4 * (1 + np.arange(factors, dtype=np.float32)) ** -0.7
    values += (left * sizes) @ right / np.float32(np.sqrt(rows * columns))
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="part of a name above")
    parser.add_argument("--lapack", action="store_true")
    options = parser.parse_args()
    try:
        make = make_matrix_on(options.device)
    except ValueError as refused:
        raise SystemExit(str(refused)) from None
    say(f"device: {options.device}")
    say("| matrix | shape | randomised, s | exact, s | LAPACK, s | bound | true error |")
    say("|---|---:|---:|---:|---:|---:|---:|")
    for name, (rows, columns) in SHAPES.items():
        if options.only not in name:
            continue
        values = weights(rows, columns)
        matrix = make(rows, columns, [values])
        matrix.times(np.zeros((columns, 1)))  # a device starts up
        quick, leading = timed(lambda matrix=matrix: randomised_leading(matrix, 16, 10, 4))
        exact, eigenvalues = timed(matrix.gram_eigenvalues)
        true = np.sqrt(eigenvalues[::-1][:16])
        lapack = "-"
        if options.lapack:
            seconds, _ = timed(
                lambda values=values: np.linalg.svd(values.astype(np.float64), compute_uv=False)
            )
            lapack = f"{seconds:.1f}"
        bound = leading.errors[15] / leading.values[15]
        error = abs(true[15] - leading.values[15]) / true[15]
        say(
            f"| {name} | {rows}×{columns} | {quick:.2f} | {exact:.2f} | {lapack} "
            f"| {bound:.1e} | {error:.1e} |",
        )


if __name__ == "__main__":
    main()
