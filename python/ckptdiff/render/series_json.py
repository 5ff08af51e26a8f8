"""A series as JSON, ``ckptdiff.series/1``: its checkpoints, its levels as arrays, and what follows.

An array of the shape (N, R) is a list of N lists of R numbers. As in the other schemas, floats are
exact, a float that is not finite is a string, and undefined is null or ``NaN``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, TextIO

import numpy as np

from ckptdiff.dynamics.report import Level, SeriesReport
from ckptdiff.dynamics.trajectory import QUANTITIES
from ckptdiff.render.json import Encoded, encode, write_object

__all__ = ["write"]


def write(report: SeriesReport, stream: TextIO, *, by: Level, pick: int) -> None:
    """Write the total and the rows of level ``by``, and ``pick`` checkpoints."""
    write_object(_members(report, by, pick), stream)


def _members(report: SeriesReport, by: Level, pick: int) -> Iterator[tuple[str, object]]:
    options = report.options
    labels = [checkpoint.label for checkpoint in report.checkpoints]
    yield "schema", "ckptdiff.series/1"
    yield (
        "options",
        {
            "include": list(options.include),
            "exclude": list(options.exclude),
            "order": options.order,
            "map": options.map,
            "by": by,
            "pick": pick,
        },
    )
    yield "checkpoints", (asdict(checkpoint) for checkpoint in report.checkpoints)
    yield "levels", (_level(report, level) for level in dict.fromkeys(("total", by)))
    yield (
        "events",
        (
            {
                "kind": event.kind,
                "checkpoint": labels[event.checkpoint],
                "score": event.score,
                "evidence": dict(event.evidence),
                "tensors": list(event.tensors),
            }
            for event in report.events
        ),
    )
    yield (
        "problems",
        (
            {
                "kind": problem.kind,
                "is_note": problem.is_note,
                "text": problem.text,
                "labels": list(problem.labels),
            }
            for problem in report.problems
        ),
    )
    picked = report.pick(pick) if pick else ()
    yield "picked", ({"checkpoint": labels[one.index], "reason": one.reason} for one in picked)
    yield "correlations", (asdict(correlation) for correlation in report.correlations)


def _level(report: SeriesReport, name: Level) -> Encoded:
    """One level, a line for each of its columns."""
    level = report.level(name)
    trajectory = report.trajectory(name)
    components = report.principal_components(name)
    members: dict[str, object] = {
        "level": name,
        "names": list(level.names),
        "numel": level.numel.tolist(),
        "finite": level.finite.tolist(),
        "stats": _columns(level.stats),
        "diffs": _columns(level.diffs),
        "trajectory": _columns({name: getattr(trajectory, name) for name in QUANTITIES}),
        "clock": trajectory.clock,
        "diffusion_exponent": trajectory.diffusion_exponent.tolist(),
        "principal_components": _object(
            {
                "coordinates": components.coordinates.tolist(),
                "explained": components.explained.tolist(),
            }
        ),
        "distances": trajectory.distances.tolist(),
        "gram": level.gram.tolist(),
    }
    return _object(members)


def _columns(columns: Mapping[str, np.ndarray[Any, Any]]) -> Encoded:
    return _object({name: values.tolist() for name, values in columns.items()})


def _object(members: Mapping[str, object]) -> Encoded:
    lines = ",\n".join(f"{encode(key)}: {encode(value)}" for key, value in members.items())
    return Encoded(f"{{\n{lines}\n}}")
