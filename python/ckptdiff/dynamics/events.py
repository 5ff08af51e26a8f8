"""Where training was unstable or turned: events, each with a robust score and its evidence.

What counts as unusual is judged by the series itself, per module and in total, with the scores of
:mod:`ckptdiff.dynamics.robust`: robust standard deviations from what the neighbours on the branch
say. An event has a score of 6 or more in magnitude in some module or in total.

| kind | measure | floor | counts |
| --- | --- | ---: | --- |
| ``update_norm_jump`` | log of the update norm by ``interval ** H`` | 0.1 | up and down |
| ``norm_jump`` | growth of log norm, by interval | 0.005, half the usual | up and down |
| ``abs_max_jump`` | growth of log max abs(w), by interval | 0.05, half the usual | up and down |
| ``loss_of_direction`` | cosine of an update and the one before it | 0.05 | down, lowest of 3 |
| ``turning_point`` | cosine of ``w_t - w_{t-2}`` and ``w_{t+2} - w_t`` | 0.05 | down, lowest of 5 |

Intervals are those of the series' clock (steps where they are known, else tokens), by their median.
The usual growth is the median of its magnitude around. ``H`` is half the row's diffusion exponent,
between 0 and 1: how a distance grows with the time it took. Neighbours are of the same stage, as
the learning rate changes with it; for turning points they go through stages, since a new stage is
where one looks for a turn. A bend is seen from the checkpoints beside it as well, so the lowest
counts. Copies and checkpoints that diverged (:mod:`ckptdiff.dynamics.aside`) have no score and are
no neighbours.

Two kinds are facts, and their score is infinite: ``stage_boundary``, at the first checkpoint of a
stage, and ``first_nonfinite``, at the first checkpoint of its branch at which a tensor holds a NaN
or an infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ckptdiff.dynamics.aside import Aside
from ckptdiff.dynamics.clock import Clock
from ckptdiff.dynamics.data import ROOT, Floats, SeriesCheckpoint, SeriesData, SeriesLevel
from ckptdiff.dynamics.robust import Branches, Scores, robust_scores
from ckptdiff.dynamics.trajectory import Trajectory, cosine_of_vectors

__all__ = ["KINDS", "THRESHOLD", "Event", "find_events"]

#: From which score on something is an event.
THRESHOLD = 6.0

#: The kinds of events, in the order in which those of one checkpoint are listed.
KINDS = (
    "stage_boundary",
    "first_nonfinite",
    "update_norm_jump",
    "norm_jump",
    "abs_max_jump",
    "loss_of_direction",
    "turning_point",
)

_TURN_REACH = 2
_TENSORS_NAMED = 5
# A tensor is named where its score is at least this part of what makes an event.
_INVOLVED = 0.5

Booleans: TypeAlias = npt.NDArray[np.bool_]
Evidence: TypeAlias = Mapping[str, float | str | int]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened between a checkpoint's parent and it.

    ``score`` is how many robust standard deviations it is away from what was expected, infinite for
    a fact. ``evidence`` has the numbers behind it, by name, and ``tensors`` those that were most
    involved, the foremost first.
    """

    kind: str
    checkpoint: int
    score: float
    evidence: Evidence
    tensors: tuple[str, ...]


def find_events(data: SeriesData) -> tuple[Event, ...]:
    """Every event of a series, in the order of the checkpoints and of :data:`KINDS`."""
    if not data.checkpoints:
        return ()
    views = _Views(data)
    events = [
        *_stage_boundaries(data.checkpoints, views["total"].trajectory),
        *_first_nonfinite(data),
    ]
    for signal in _SIGNALS:
        events += _unusual(views, signal)
    return tuple(sorted(events, key=lambda event: (event.checkpoint, KINDS.index(event.kind))))


# -- facts ----------------------------------------------------------------------------------------


def _stage_boundaries(
    checkpoints: Sequence[SeriesCheckpoint], trajectory: Trajectory
) -> list[Event]:
    events = []
    told: set[tuple[int, int | None, int | None]] = set()
    for index, checkpoint in enumerate(checkpoints):
        if checkpoint.parent == ROOT:
            continue
        # the one behind a first that diverged has the same parent, and is of the same branch
        way = checkpoint.parent, checkpoint.stage, checkpoint.ingredient
        if way in told and not checkpoint.is_soup:
            continue
        told.add(way)
        parent = checkpoints[checkpoint.parent]
        if checkpoint.stage is None or parent.stage is None or checkpoint.stage == parent.stage:
            continue
        evidence: dict[str, float | str | int] = {
            "stage_before": parent.stage,
            "stage": checkpoint.stage,
            "last_before": parent.label,
            "relative_update": float(trajectory.relative_update[index, 0]),
            "cosine_of_updates": float(trajectory.cosine_of_updates[index, 0]),
        }
        if checkpoint.ingredient is not None:
            evidence["ingredient"] = checkpoint.ingredient
        events.append(Event("stage_boundary", index, math.inf, evidence, ()))
    return events


def _first_nonfinite(data: SeriesData) -> list[Event]:
    level = data.levels["tensor"]
    shape = (len(data.checkpoints), len(level.names))
    counts = {name: level.stats.get(name, np.zeros(shape)) for name in _NONFINITE}
    total = sum(counts.values(), np.zeros(shape))
    seen = np.zeros(shape, bool)
    events = []
    for index, parent in enumerate(data.parents):
        before = np.zeros(shape[1], bool) if parent == ROOT else seen[parent]
        new = (total[index] > 0) & ~before
        seen[index] = before | new
        if not new.any():
            continue
        # the tensors with most of them first, ties in natural order
        rows = np.flatnonzero(new)
        rows = rows[np.argsort(-total[index, rows], kind="stable")]
        evidence: dict[str, float | str | int] = {"tensors": len(rows)}
        evidence |= {name: int(counts[name][index, rows].sum()) for name in _NONFINITE}
        names = tuple(level.names[row] for row in rows[:_TENSORS_NAMED])
        events.append(Event("first_nonfinite", index, math.inf, evidence, names))
    return events


_NONFINITE = ("nan", "pos_inf", "neg_inf")


# -- what is judged by the series itself ----------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """One level of a series, with what the measures are made of."""

    level: SeriesLevel
    trajectory: Trajectory
    #: Linked along their branches, without those that stand aside.
    checkpoints: Sequence[SeriesCheckpoint]
    #: Intervals by their median, 1 where they are not known.
    interval: Floats

    @classmethod
    def of(cls, data: SeriesData, level: str) -> _View:
        aside = Aside.of(data.levels[level], data.checkpoints)
        interval = Clock.of(data.checkpoints, aside.copies).interval
        interval[[index for index in range(len(interval)) if index in aside]] = np.nan
        known = interval[np.isfinite(interval)]
        if known.size:
            interval = np.where(np.isfinite(interval), interval / np.median(known), 1.0)
        else:
            interval = np.ones(len(data.checkpoints))
        trajectory = Trajectory.of(data.levels[level], data.checkpoints)
        return cls(data.levels[level], trajectory, aside.linked(data.checkpoints), interval)

    @property
    def abs_max(self) -> Floats:
        missing = np.full(self.trajectory.norm.shape, np.nan)
        return np.asarray(self.level.stats.get("abs_max", missing), dtype=np.float64)

    def growth(self, values: Floats) -> Floats:
        """By how much the logarithm grew since the parent, by interval."""
        logs = _log(values)
        before = np.full(logs.shape, np.nan)
        for index, checkpoint in enumerate(self.checkpoints):
            if checkpoint.parent != ROOT:
                before[index] = logs[checkpoint.parent]
        return np.asarray((logs - before) / self.interval[:, None])

    def log_update_rate(self) -> Floats:
        """Log of the update norm, of an interval of the median length."""
        exponent = np.clip(self.trajectory.diffusion_exponent / 2, 0, 1)
        # a row without an exponent is taken for a random walk
        exponent = np.where(np.isnan(exponent), 0.5, exponent)
        by_interval = np.log(self.interval)[:, None] * exponent
        return np.asarray(_log(self.trajectory.update_norm) - by_interval)

    def cosine_of_ways(self) -> Floats:
        """The cosine of the way to each checkpoint and the way on from it."""
        branches = Branches.through_stages(self.checkpoints)
        result = np.full(self.trajectory.norm.shape, np.nan)
        for index in range(len(self.checkpoints)):
            before = branches.before(index, _TURN_REACH)
            after = branches.after(index, _TURN_REACH)
            if len(before) == _TURN_REACH == len(after):
                result[index] = cosine_of_vectors(
                    self.level.gram, branches.previous, (before[-1], index), (index, after[-1])
                )
        return result


@dataclass(frozen=True, slots=True)
class _Jump:
    """A kind of event that is a quantity's logarithm out of line, up or down."""

    kind: str
    measure: Callable[[_View], Floats]
    #: The quantity itself, in its own units.
    value: Callable[[_View], Floats]
    floor: float
    #: The least scale, as a part of the measure's median magnitude; for one that is a rate.
    floor_of_median: float = 0.0
    branches: Callable[[Sequence[SeriesCheckpoint]], Branches] = Branches.within_stages

    def counts(self, measure: Floats, scores: Scores, branches: Branches) -> Booleans:
        """Where there is an event; comparisons with NaN are false."""
        del measure, branches
        return np.abs(scores.score) >= THRESHOLD

    def comparison(self, before: float, excess: float, expected: float) -> dict[str, float]:
        """What the value is held against."""
        del expected
        return {"before": before, "ratio": math.exp(excess)}


@dataclass(frozen=True, slots=True)
class _Bend:
    """A kind of event that is a cosine far below what is expected.

    One bend is seen from the checkpoints in reach, too: that with the lowest cosine is it.
    """

    kind: str
    value: Callable[[_View], Floats]
    floor: float
    branches: Callable[[Sequence[SeriesCheckpoint]], Branches]
    reach: int
    floor_of_median: float = 0.0

    def measure(self, view: _View) -> Floats:
        """The cosine itself."""
        return self.value(view)

    def counts(self, measure: Floats, scores: Scores, branches: Branches) -> Booleans:
        """Where there is an event."""
        counts = scores.score <= -THRESHOLD
        for index in range(len(measure)):
            near = branches.before(index, self.reach), branches.after(index, self.reach)
            for other in chain(*near):
                counts[index] &= ~(measure[other] < measure[index])
        return counts

    def comparison(self, before: float, excess: float, expected: float) -> dict[str, float]:
        """What the value is held against."""
        del before, excess
        return {"expected": expected}


_SIGNALS = (
    _Jump(
        "update_norm_jump",
        measure=_View.log_update_rate,
        value=lambda view: view.trajectory.update_norm,
        floor=0.1,
    ),
    _Jump(
        "norm_jump",
        measure=lambda view: view.growth(view.trajectory.norm),
        value=lambda view: view.trajectory.norm,
        floor=0.005,
        floor_of_median=0.5,
    ),
    _Jump(
        "abs_max_jump",
        measure=lambda view: view.growth(view.abs_max),
        value=lambda view: view.abs_max,
        floor=0.05,
        floor_of_median=0.5,
    ),
    _Bend(
        "loss_of_direction",
        value=lambda view: view.trajectory.cosine_of_updates,
        floor=0.05,
        branches=Branches.within_stages,
        reach=1,
    ),
    _Bend(
        "turning_point",
        value=_View.cosine_of_ways,
        floor=0.05,
        branches=Branches.through_stages,
        reach=_TURN_REACH,
    ),
)


class _Views:
    """The views of a series by the name of their level, made when they are asked for."""

    def __init__(self, data: SeriesData) -> None:
        self._data = data
        self._views: dict[str, _View] = {}

    def __getitem__(self, level: str) -> _View:
        if level not in self._views:
            self._views[level] = _View.of(self._data, level)
        return self._views[level]


def _unusual(views: _Views, signal: _Jump | _Bend) -> list[Event]:
    """The events of one kind: at each checkpoint, the worst score of the modules and the total."""
    total, modules = views["total"], views["module"]
    branches = signal.branches(total.checkpoints)
    of_total = _Judged.of(total, signal, branches)
    of_modules = _Judged.of(modules, signal, branches)
    of_tensors: _Judged | None = None
    events = []
    for index in range(len(total.checkpoints)):
        hits = int(of_modules.counts[index].sum())
        if not hits and not of_total.counts[index].any():
            continue
        worst = max((of_total, of_modules), key=lambda judged: judged.worst(index)[1])
        row, _ = worst.worst(index)
        score = float(worst.scores.score[index, row])
        evidence: dict[str, float | str | int] = {
            "row": worst.view.level.names[row],
            "value": float(worst.value[index, row]),
            **worst.comparison(index, row),
            "modules": hits,
            "of_modules": len(modules.level.names),
        }
        if of_tensors is None:
            of_tensors = _Judged.of(views["tensor"], signal, branches)
        tensors = of_tensors.involved(index, score)
        events.append(Event(signal.kind, index, score, evidence, tensors))
    return events


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """The scores of a level for one signal, and where they make an event."""

    view: _View
    signal: _Jump | _Bend
    measure: Floats
    value: Floats
    scores: Scores
    counts: Booleans

    @classmethod
    def of(cls, view: _View, signal: _Jump | _Bend, branches: Branches) -> _Judged:
        measure = signal.measure(view)
        scores = robust_scores(measure, branches, signal.floor, signal.floor_of_median)
        counts = signal.counts(measure, scores, branches)
        return cls(view, signal, measure, signal.value(view), scores, counts)

    def worst(self, index: int) -> tuple[int, float]:
        """The row with the largest score that counts, and its magnitude; (0, -1) for none."""
        magnitudes = np.where(self.counts[index], np.abs(self.scores.score[index]), -1.0)
        row = int(np.argmax(magnitudes))
        return row, float(magnitudes[row])

    def comparison(self, index: int, row: int) -> dict[str, float]:
        """What the value is held against."""
        expected = float(self.scores.expected[index, row])
        excess = float(self.measure[index, row]) - expected
        before = float(self.value[self.view.checkpoints[index].parent, row])
        return self.signal.comparison(before, excess, expected)

    def involved(self, index: int, score: float) -> tuple[str, ...]:
        """The rows with the largest scores of the same sign, the largest first."""
        signed = self.scores.score[index] * math.copysign(1, score)
        rows = np.flatnonzero(signed >= _INVOLVED * THRESHOLD)
        # ties in natural order
        rows = rows[np.argsort(-signed[rows], kind="stable")]
        return tuple(self.view.level.names[row] for row in rows[:_TENSORS_NAMED])


def _log(values: Floats) -> Floats:
    """The logarithm, NaN of what is not positive."""
    return np.log(np.where(values > 0, values, np.nan))
