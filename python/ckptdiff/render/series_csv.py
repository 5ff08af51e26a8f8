"""A series as a folder of tidy CSV files: one observation a row, one variable a column.

=====================  ========================================================
``checkpoints.csv``    a row per checkpoint: where training stood
``updates.csv``        ``level, row, checkpoint, quantity, value``
``distances.csv``      ``level, row, a, b, distance``, each pair once
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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from itertools import combinations

from ckptdiff.atomic import atomic_text
from ckptdiff.dynamics.data import ROOT, SeriesCheckpoint
from ckptdiff.dynamics.evals import Correlation
from ckptdiff.dynamics.report import Level, SeriesReport
from ckptdiff.dynamics.trajectory import QUANTITIES
from ckptdiff.render.csv import csv_value
from ckptdiff.render.json import encode

__all__ = ["write"]

Row = Sequence[object]


def write(report: SeriesReport, folder: str, *, by: Level, pick: int) -> list[str]:
    """Write the files, each completely or not at all, and return their paths.

    ``updates`` and ``distances`` are of the total and of level ``by``. Raises OSError.
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


def _number(value: float) -> object:
    """A float as the csv module is to write it: by itself it writes what reads back the same."""
    return value if math.isfinite(value) else csv_value(value)
