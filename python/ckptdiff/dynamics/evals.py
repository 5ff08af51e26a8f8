"""How evaluation goes with the weights: a table of metrics joined to a series, and correlations.

The table is CSV. A column named ``step``, ``stage``, ``ingredient`` or ``revision`` (in any case)
says which checkpoint a line is of; every other column is a metric. A line with a revision is of the
checkpoint with that label, with its tokens or as it is printed; any other is of the one at its
step, stage and ingredient, as far as the line tells; the ingredient ``1+2+3`` is a soup of these.
An empty metric, ``nan`` and ``n/a`` are not known, ``71 %`` is 0.71. A column of other text, such
as notes, is no metric and left out.

Most quantities of a training run grow or shrink as it goes on, so most correlate with one another.
A coefficient here says that two things went together, not that one brought about the other.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ckptdiff.dynamics.data import Floats, SeriesCheckpoint, SeriesData
from ckptdiff.dynamics.labels import short_labels
from ckptdiff.dynamics.trajectory import QUANTITIES, Trajectory
from ckptdiff.naming.revisions import parse_revision

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

_KEYS = ("step", "stage", "ingredient", "revision")
_NOT_KNOWN = frozenset({"", "nan", "na", "n/a", "none", "null", "-"})
_FEWEST = 3


@dataclass(frozen=True, slots=True)
class EvalRow:
    """A line of the file: which checkpoint it is of, as far as it tells, and its metrics."""

    line: int
    step: int | None
    stage: int | None
    ingredients: tuple[int, ...]
    revision: str | None
    values: Mapping[str, float]

    def describe(self) -> str:
        """What the line says it is of."""
        if self.revision is not None:
            return f"revision {self.revision!r}"
        ingredient = "+".join(map(str, self.ingredients)) or None
        known = {"stage": self.stage, "ingredient": ingredient, "step": self.step}
        return ", ".join(f"{key} {value}" for key, value in known.items() if value is not None)

    def fits(self, checkpoint: SeriesCheckpoint, printed: str) -> bool:
        """Whether the line can be of a checkpoint, which is printed as ``printed``."""
        if self.revision is not None:
            return self.revision in (checkpoint.label, printed)
        return (
            self.step == checkpoint.step
            and self.stage in (None, checkpoint.stage)
            and (not self.ingredients or self.ingredients in _ingredients(checkpoint))
        )


def _ingredients(checkpoint: SeriesCheckpoint) -> Collection[tuple[int, ...]]:
    """The ingredients that a checkpoint can be called of: those of a soup by its label, if any."""
    if checkpoint.ingredient is not None:
        return [(checkpoint.ingredient,)]
    return [tuple(sorted(parse_revision(checkpoint.label).ingredients))]


@dataclass(frozen=True, slots=True)
class Evals:
    """A file of evaluations: its metrics in their order, and its lines.

    ``left_out`` are the columns of text.
    """

    path: str
    metrics: tuple[str, ...]
    rows: tuple[EvalRow, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Correlation:
    """How a quantity of the weights goes with a metric, over the n checkpoints that have both.

    ``level`` is ``total`` or ``module``, ``row`` the name of its row. ``pearson`` and ``spearman``
    are NaN where n is below 3 or one of the two does not vary.
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
    # a byte order mark is what spreadsheets begin with
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            lines = [(reader.line_num, cells) for reader in (csv.reader(file),) for cells in reader]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: byte {error.start} is not UTF-8, expected CSV") from None
        except csv.Error as error:
            raise ValueError(f"{path}: {error}, expected CSV") from None
    lines = [(number, cells) for number, cells in lines if any(cell.strip() for cell in cells)]
    if not lines:
        raise ValueError(f"{path}: the file is empty, expected a header of step and metrics")
    header = [cell.strip() for cell in lines[0][1]]
    # what a spreadsheet leaves behind the last column
    while not header[-1]:
        header.pop()
    columns = _columns(path, header)
    body = [(number, _cells(path, number, cells, header)) for number, cells in lines[1:]]
    texts = [
        name
        for name, position in columns.items()
        if name not in _KEYS and _is_text([cells[position] for _, cells in body])
    ]
    for name in texts:
        del columns[name]
    metrics = tuple(name for name in columns if name not in _KEYS)
    if not metrics:
        raise ValueError(f"{path}: there is no column of a metric, only {', '.join(header)}")
    return Evals(
        path=path,
        metrics=metrics,
        rows=tuple(_row(path, number, cells, columns) for number, cells in body),
        left_out=tuple(texts),
    )


def join(
    checkpoints: Sequence[SeriesCheckpoint], evals: Evals
) -> tuple[Floats, tuple[EvalRow, ...]]:
    """The metrics of each checkpoint (N, M), NaN where there are none, and the lines of none.

    Raises ValueError where a line fits several checkpoints, or two lines fit one.
    """
    values = np.full((len(checkpoints), len(evals.metrics)), np.nan)
    printed = short_labels([checkpoint.label for checkpoint in checkpoints])
    taken: dict[int, int] = {}
    left: list[EvalRow] = []
    for row in evals.rows:
        fitting = [
            index
            for index, checkpoint in enumerate(checkpoints)
            if row.fits(checkpoint, printed[index])
        ]
        if not fitting:
            left.append(row)
            continue
        if len(fitting) > 1:
            first, second = (checkpoints[index].label for index in fitting[:2])
            raise ValueError(
                f"{evals.path}: line {row.line}: {row.describe()} is both {first} and {second}, "
                "expected stage and ingredient, or revision, to tell them apart"
            )
        (index,) = fitting
        if index in taken:
            raise ValueError(
                f"{evals.path}: lines {taken[index]} and {row.line} are both of "
                f"{checkpoints[index].label}, expected one"
            )
        taken[index] = row.line
        values[index] = [row.values[metric] for metric in evals.metrics]
    return values, tuple(left)


def correlate(data: SeriesData, evals: Evals) -> tuple[Correlation, ...]:
    """Every quantity of :data:`~ckptdiff.dynamics.trajectory.QUANTITIES`, in total and by module.

    With every metric, in the order of the file; quantities in theirs, rows in that of the level.
    Raises ValueError as :func:`join`.
    """
    values, _ = join(data.checkpoints, evals)
    return tuple(_correlations(data, evals.metrics, values))


def pearson(x: Floats, y: Floats) -> float:
    """Pearson's coefficient of two vectors without NaN; it is NaN where one is constant."""
    return _cosine(_centred(x), _centred(y))


def spearman(x: Floats, y: Floats) -> float:
    """Spearman's coefficient: Pearson's of the ranks, where equal values have their mean rank."""
    return pearson(_ranks(x), _ranks(y))


def _columns(path: str, header: Sequence[str]) -> dict[str, int]:
    """Where each column stands, the keys under their own names."""
    columns: dict[str, int] = {}
    for position, cell in enumerate(header):
        name = cell.lower() if cell.lower() in _KEYS else cell
        if not name:
            raise ValueError(f"{path}: column {position + 1} has no name")
        if name in columns:
            raise ValueError(f"{path}: two columns are named {name!r}, expected one")
        columns[name] = position
    if "step" not in columns and "revision" not in columns:
        raise ValueError(
            f"{path}: there is no column 'step' or 'revision', only {', '.join(header)}"
        )
    return columns


def _cells(path: str, line: int, cells: Sequence[str], header: Sequence[str]) -> list[str]:
    """The cells of a line, one for each of the header."""
    kept = [cell.strip() for cell in cells]
    while len(kept) > len(header) and not kept[-1]:
        kept.pop()
    if len(kept) != len(header):
        raise ValueError(
            f"{path}: line {line} has {len(kept)} columns, expected {len(header)} as in the header"
        )
    return kept


def _is_text(cells: Sequence[str]) -> bool:
    """Whether a column is words: one wrong cell among numbers is an error, a column of them not."""
    known = [cell for cell in cells if cell.lower() not in _NOT_KNOWN]
    return bool(known) and 2 * sum(_parsed(cell) is None for cell in known) >= len(known)


def _row(path: str, line: int, cells: Sequence[str], columns: Mapping[str, int]) -> EvalRow:
    def cell(name: str) -> str | None:
        if name not in columns:
            return None
        text = cells[columns[name]]
        return None if text.lower() in _NOT_KNOWN else text

    def whole(name: str) -> int | None:
        text = cell(name)
        if text is None:
            return None
        # float("1e3") is a step as spreadsheets write it
        value = _number(path, line, name, text, "a whole number")
        if not value.is_integer():
            raise ValueError(f"{path}: line {line}: {name} is {text!r}, expected a whole number")
        return int(value)

    def joined(name: str) -> tuple[int, ...]:
        numbers = (cell(name) or "").split("+")
        if len(numbers) < 2:
            one = whole(name)
            return () if one is None else (one,)
        if not all(number.strip().isdecimal() for number in numbers):
            raise ValueError(
                f"{path}: line {line}: {name} is {cell(name)!r}, expected whole numbers joined by +"
            )
        return tuple(sorted(int(number) for number in numbers))

    row = EvalRow(
        line=line,
        step=whole("step"),
        stage=whole("stage"),
        ingredients=joined("ingredient"),
        revision=cell("revision"),
        values={
            name: math.nan if (text := cell(name)) is None else _number(path, line, name, text)
            for name in columns
            if name not in _KEYS
        },
    )
    if row.step is None and row.revision is None:
        raise ValueError(f"{path}: line {line} has neither step nor revision")
    return row


def _number(path: str, line: int, column: str, text: str, expected: str = "a number") -> float:
    value = _parsed(text)
    if value is None or not math.isfinite(value):
        raise ValueError(f"{path}: line {line}: {column} is {text!r}, expected {expected}")
    return value


def _parsed(text: str) -> float | None:
    """A number, a share where it has a percent sign; None where it is none."""
    number = text.removesuffix("%").rstrip()
    try:
        return float(number) if number == text else float(number) / 100
    except ValueError:
        return None


def _correlations(
    data: SeriesData, metrics: Sequence[str], values: Floats
) -> Iterator[Correlation]:
    for level in ("total", "module"):
        trajectory = Trajectory.of(data.levels[level], data.checkpoints)
        for position, metric in enumerate(metrics):
            for quantity in QUANTITIES:
                of_rows: Floats = getattr(trajectory, quantity)
                for row, name in enumerate(trajectory.names):
                    x, y = of_rows[:, row], values[:, position]
                    both = np.isfinite(x) & np.isfinite(y)
                    n = int(both.sum())
                    enough = n >= _FEWEST
                    yield Correlation(
                        quantity=quantity,
                        level=level,
                        row=name,
                        metric=metric,
                        n=n,
                        pearson=pearson(x[both], y[both]) if enough else math.nan,
                        spearman=spearman(x[both], y[both]) if enough else math.nan,
                    )


def _centred(values: Floats) -> Floats:
    """Without its mean and scaled to 1 at most; zero where all values are one but for rounding."""
    largest = np.abs(values).max(initial=0.0)
    if not largest:
        return values
    scaled = values / largest
    centred = scaled - scaled.mean()
    if np.abs(centred).max() <= 1e-13:
        return np.zeros_like(values)
    return np.asarray(centred / np.abs(centred).max())


def _cosine(x: Floats, y: Floats) -> float:
    size = math.sqrt(math.fsum(x * x)) * math.sqrt(math.fsum(y * y))
    return min(1.0, max(-1.0, math.fsum(x * y) / size)) if size else math.nan


def _ranks(values: Floats) -> Floats:
    """The rank of each value from 1; equal ones have the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])
