"""A series as a folder of tidy CSV files: one observation a row, one variable a column.

=====================  ========================================================
``checkpoints.csv``    a row per checkpoint: where training stood
``updates.csv``        ``level, row, checkpoint, quantity, value``
``distances.csv``      ``level, row, a, b, distance``, each pair once
``rows.csv``           a row per row of a level: its size, its diffusion exponent
``components.csv``     ``level, row, component, explained``, of three principal components
``coordinates.csv``    ``level, row, component, checkpoint, coordinate``, in those
``stats.csv``          ``level, row, checkpoint``, and the columns of stats
``diffs.csv``          the same with the columns of a diff from the parent
``events.csv``         where training was unstable or turned
``problems.csv``       what is wrong with the series, and notes
``picked.csv``         checkpoints that represent it, where some were asked for
``correlations.csv``   with evaluations, where there are some
=====================  ========================================================

Checkpoints go by their labels. Values are as in the CSV of a diff; a list or object is its JSON.
What is not defined (an update of the first checkpoint) has no row.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import combinations
from typing import Literal

import numpy as np

from ckptdiff.atomic import atomic_text
from ckptdiff.dynamics.data import ROOT, Floats, SeriesCheckpoint
from ckptdiff.dynamics.evals import Correlation
from ckptdiff.dynamics.report import Level, SeriesReport
from ckptdiff.dynamics.trajectory import QUANTITIES
from ckptdiff.render.csv import csv_value
from ckptdiff.render.json import encode

__all__ = ["write"]

Row = Sequence[object]


def write(report: SeriesReport, folder: str, *, by: Level, pick: int) -> list[str]:
    """Write the files, each completely or not at all, and return their paths.

    What has a column ``level`` is of the total and of level ``by``. Raises OSError.
    """
    labels = [checkpoint.label for checkpoint in report.checkpoints]
    levels: list[Level] = list(dict.fromkeys(("total", by)))
    tables: dict[str, tuple[Sequence[str], Iterable[Row]]] = {
        "checkpoints": (
            ("index", *_CHECKPOINT_COLUMNS),
            _checkpoints(report.checkpoints),
        ),
        "updates": (("level", "row", "checkpoint", "quantity", "value"), _updates(report, levels)),
        "distances": (("level", "row", "a", "b", "distance"), _distances(report, levels)),
        "rows": (("level", "row", *_ROW_COLUMNS), _rows(report, levels)),
        "components": (("level", "row", "component", "explained"), _components(report, levels)),
        "coordinates": (
            ("level", "row", "component", "checkpoint", "coordinate"),
            _coordinates(report, levels),
        ),
        "stats": _columns(report, levels, "stats"),
        "diffs": _columns(report, levels, "diffs"),
        "events": (
            ("checkpoint", "kind", "score", "evidence", "tensors"),
            (
                (
                    labels[event.checkpoint],
                    event.kind,
                    _number(event.score),
                    encode(dict(event.evidence)),
                    encode(list(event.tensors)),
                )
                for event in report.events
            ),
        ),
        "problems": (
            ("kind", "is_note", "text", "labels"),
            (
                (one.kind, "true" if one.is_note else "false", one.text, encode(list(one.labels)))
                for one in report.problems
            ),
        ),
    }
    if pick:
        picked = report.pick(pick)
        rows = ((at, labels[one.index], one.reason) for at, one in enumerate(picked, 1))
        tables["picked"] = (("rank", "checkpoint", "reason"), rows)
    if report.evals is not None:
        columns = [field.name for field in fields(Correlation)]
        correlations = (
            [csv_value(value) for value in asdict(one).values()] for one in report.correlations
        )
        tables["correlations"] = (columns, correlations)
    os.makedirs(folder, exist_ok=True)
    paths = []
    for name, (header, body) in tables.items():
        path = os.path.join(folder, f"{name}.csv")
        with atomic_text(path) as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(body)
        paths.append(path)
    return paths


_CHECKPOINT_COLUMNS = tuple(field.name for field in fields(SeriesCheckpoint))


def _checkpoints(checkpoints: Sequence[SeriesCheckpoint]) -> Iterator[Row]:
    for index, checkpoint in enumerate(checkpoints):
        entry = asdict(checkpoint)
        parent = checkpoint.parent
        # as everywhere in these files, a checkpoint goes by its label
        entry["parent"] = None if parent == ROOT else checkpoints[parent].label
        yield (index, *entry.values())


def _updates(report: SeriesReport, levels: Sequence[Level]) -> Iterator[Row]:
    for level in levels:
        trajectory = report.trajectory(level)
        columns = {name: getattr(trajectory, name).tolist() for name in QUANTITIES}
        for row, row_name in enumerate(trajectory.names):
            for index, checkpoint in enumerate(report.checkpoints):
                for name, column in columns.items():
                    value = column[index][row]
                    if value == value:
                        yield level, row_name, checkpoint.label, name, _number(value)


def _distances(report: SeriesReport, levels: Sequence[Level]) -> Iterator[Row]:
    labels = [checkpoint.label for checkpoint in report.checkpoints]
    for level in levels:
        trajectory = report.trajectory(level)
        rows = zip(trajectory.names, trajectory.distances.tolist(), strict=True)
        for row_name, distances in rows:
            for a, b in combinations(range(len(labels)), 2):
                distance = distances[a][b]
                if distance == distance:
                    yield level, row_name, labels[a], labels[b], _number(distance)


_ROW_COLUMNS = ("numel", "finite", "clock", "diffusion_exponent")


def _rows(report: SeriesReport, levels: Sequence[Level]) -> Iterator[Row]:
    for name in levels:
        level, trajectory = report.level(name), report.trajectory(name)
        of_each = zip(
            level.names,
            level.numel.tolist(),
            level.finite.tolist(),
            trajectory.diffusion_exponent.tolist(),
            strict=True,
        )
        for row_name, numel, finite, exponent in of_each:
            # an undefined exponent is empty, as the row says more
            shown = None if exponent != exponent else _number(exponent)
            yield name, row_name, numel, finite, trajectory.clock, shown


def _components(report: SeriesReport, levels: Sequence[Level]) -> Iterator[Row]:
    for level in levels:
        components = report.principal_components(level)
        for row_name, of_row in zip(components.names, components.explained.tolist(), strict=True):
            for number, share in enumerate(of_row, start=1):
                if share == share:
                    yield level, row_name, number, share


def _coordinates(report: SeriesReport, levels: Sequence[Level]) -> Iterator[Row]:
    labels = [checkpoint.label for checkpoint in report.checkpoints]
    for level in levels:
        components = report.principal_components(level)
        for row_name, of_row in zip(components.names, components.coordinates, strict=True):
            for number, of_component in enumerate(of_row.T.tolist(), start=1):
                for label, coordinate in zip(labels, of_component, strict=True):
                    if coordinate == coordinate:
                        yield level, row_name, number, label, coordinate


def _columns(
    report: SeriesReport, levels: Sequence[Level], kind: Literal["stats", "diffs"]
) -> tuple[Sequence[str], Iterator[Row]]:
    """A table of the numeric columns of stats or of diffs, and its header."""
    names = list(getattr(report.data.total, kind))

    def rows() -> Iterator[Row]:
        for name in levels:
            level = report.level(name)
            # a tensor is one, and has no such column
            ones = np.ones((len(report), len(level.names)))
            columns: Mapping[str, Floats] = {"tensors": ones, **getattr(level, kind)}
            values = [columns[column] for column in names]
            for row, row_name in enumerate(level.names):
                for index, checkpoint in enumerate(report.checkpoints):
                    if kind == "diffs" and checkpoint.parent == ROOT:
                        continue
                    of_row = zip(names, (float(one[index, row]) for one in values), strict=True)
                    cells = [_cell(column, value) for column, value in of_row]
                    yield name, row_name, checkpoint.label, *cells

    return ("level", "row", "checkpoint", *names), rows()


def _cell(column: str, value: float) -> object:
    """A count without a point; what is not defined is empty, and a mean of nothing ``NaN``."""
    if column in _COUNTS:
        return int(value) if math.isfinite(value) else None
    return _number(value)


_COUNTS = frozenset(
    {
        "tensors", "numel", "bytes", "zeros", "negatives", "subnormals", "nan", "pos_inf",
        "neg_inf", "saturated", "changed", "changed_bf16", "bits_changed", "sign_flips", "nan_a",
        "nan_b", "inf_a", "inf_b", "nonfinite_mismatch", "out_of_tolerance", "max_ulp",
    }
)  # fmt: skip


def _number(value: float) -> object:
    """A float as the csv module is to write it: by itself it writes what reads back the same."""
    return value if math.isfinite(value) else csv_value(value)
