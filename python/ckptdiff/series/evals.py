"""How evaluation goes with the weights: a table of metrics joined to a series, and correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptdiff.series.data import Floats, SeriesCheckpoint, SeriesData

__all__ = [
    "Correlation",
    "EvalRow",
    "Evals",
    "correlate",
    "join",
    "pearson",
    "read_evals",
    "spearman",
]


@dataclass(frozen=True, slots=True)
class EvalRow:
    """A line of the file: which checkpoint it is of, as far as the file tells, and its metrics."""

    line: int
    step: int | None
    stage: int | None
    ingredient: int | None
    revision: str | None
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Evals:
    """A file of evaluations: its metrics in their order, and its lines."""

    path: str
    metrics: tuple[str, ...]
    rows: tuple[EvalRow, ...]


@dataclass(frozen=True, slots=True)
class Correlation:
    """How a quantity of the weights goes with a metric, over the n checkpoints that have both.

    ``level`` is one of ``total`` and ``module``, ``row`` the name of its row; ``pearson`` and
    ``spearman`` are NaN where n is below 3 or one of the two does not vary.
    """

    quantity: str
    level: str
    row: str
    metric: str
    n: int
    pearson: float
    spearman: float


def read_evals(path: str) -> Evals:
    """Read a CSV file of evaluations.

    Raises OSError where it cannot be read and ValueError, a line that names file, line and column,
    where it is not what it should be.
    """
    raise NotImplementedError


def join(
    checkpoints: Sequence[SeriesCheckpoint], evals: Evals
) -> tuple[Floats, tuple[EvalRow, ...]]:
    """The metrics of each checkpoint (N, M), NaN where there are none, and the lines of no checkpoint.

    Raises ValueError where a line fits several checkpoints, or two lines fit one.
    """
    raise NotImplementedError


def correlate(data: SeriesData, evals: Evals) -> tuple[Correlation, ...]:
    """Every quantity of :data:`~ckptdiff.series.trajectory.QUANTITIES`, in total and by module."""
    raise NotImplementedError


def pearson(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    raise NotImplementedError


def spearman(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    raise NotImplementedError
