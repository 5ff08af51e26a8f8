"""Matrices of known spectra, and what numpy says of any: the oracle of the spectrum tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def matrix(rows: int, columns: int, values: Array, seed: int = 0) -> Array:
    """A matrix with these singular values."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((rows, len(values))))[0]
    right = np.linalg.qr(rng.standard_normal((columns, len(values))))[0]
    return (left * values) @ right.T


def weights(rows: int, columns: int, seed: int = 0) -> Array:
    """Like the weight of a trained layer: noise, and a tail of a few large directions."""
    rng = np.random.default_rng(seed)
    tail = matrix(rows, columns, 3 * (1 + np.arange(min(rows, columns) // 4)) ** -0.8, seed + 1)
    return 0.02 * rng.standard_normal((rows, columns)) + tail


def measures(values: Array) -> dict[str, float]:
    """Every measure, written down as its definition is."""
    energy = values**2
    shares = values / values.sum()
    held = np.cumsum(energy) / energy.sum()
    return {
        "spectral_norm": values[0],
        "frobenius_norm": np.sqrt(energy.sum()),
        "stable_rank": energy.sum() / energy[0],
        "effective_rank": np.exp(-sum(p * np.log(p) for p in shares if p > 0)),
        "participation_ratio": energy.sum() ** 2 / (energy**2).sum(),
        "nuclear_norm": values.sum(),
        "rank_90": 1 + int(np.argmax(held >= 0.9)),
        "rank_99": 1 + int(np.argmax(held >= 0.99)),
    }


def tail_fit(eigenvalues: Array) -> tuple[float, float, float, int]:
    """(alpha, distance, xmin, count): Clauset's estimate, by loops over plain floats."""
    data = sorted(float(x) for x in eigenvalues)
    best = None
    for start, xmin in enumerate(data[:-1]):
        tail = data[start:]
        alpha = 1 + len(tail) / sum(np.log(x / xmin) for x in tail)
        distance = max(
            abs(1 - (x / xmin) ** (1 - alpha) - j / len(tail)) for j, x in enumerate(tail)
        )
        if best is None or distance < best[1]:
            best = (alpha, distance, xmin, len(tail))
    assert best is not None
    return best
