"""Where training was unstable or turned: events, each with a robust score and its evidence.

What counts as unusual is judged by the series itself, per module and in total. For a measure ``x_t``
(below), with the neighbours of t being up to 5 checkpoints before and 5 after it on its branch and in
its stage:

1. ``expected_t`` is what the neighbours, t left out, say of t: the line of Theil and Sen through them
   (slope: the median of the slopes of all pairs; level: the median of what remains), so that a trend
   is no event and no single neighbour decides. At the end of a branch this extrapolates, and the
   residual is divided by ``sqrt((1 + 1/n + m^2/S) / (1 + 1/10))``, where m is the mean of the
   neighbours' offsets and S their sum of squares about it: how much less certain that is.
2. ``scale_t`` is 1.4826 times the median of ``|x_s - expected_s|`` over up to 25 checkpoints to each
   side (the MAD, which is the standard deviation where the noise is Gaussian), times ``1 + 5/n`` of
   its n values, since a median of few is often too small, and not less than a floor.
3. ``score_t = (x_t - expected_t) / scale_t``. An event has a score of 6 or more in magnitude.

A checkpoint with fewer than 2 neighbours before it or 5 in all has no score: the first updates of a
run are large, and nothing before them says how large they should be.

| kind | measure | floor | counts |
| --- | --- | ---: | --- |
| ``update_norm_jump`` | log of the update norm by ``interval ** H`` | 0.1 | up and down |
| ``norm_jump`` | growth of log norm, by interval | 0.005 | up and down |
| ``abs_max_jump`` | growth of log max abs(w), by interval | 0.05 | up and down |
| ``loss_of_direction`` | cosine of an update and the one before it | 0.05 | down |
| ``turning_point`` | cosine of the ways from t - 2 to t and from t to t + 2 | 0.05 | down, lowest |

Intervals are those of the series' clock (steps where they are known, else tokens); ``H`` is half the
row's diffusion exponent, between 0 and 1: how a distance grows with the time it took. The ways of a
turning point and its neighbours go through the boundaries of stages, since a turn is often one.

Two kinds are facts, and their score is infinite: ``stage_boundary``, at the first checkpoint of a
stage, and ``first_nonfinite``, at the first checkpoint of its branch at which a tensor holds a NaN or
an infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from ckptdiff.series.clock import Clock
from ckptdiff.series.data import ROOT, Floats, SeriesCheckpoint, SeriesData, SeriesLevel
from ckptdiff.series.trajectory import Trajectory, cosine_of_vectors

__all__ = ["KINDS", "THRESHOLD", "Event", "find_events", "robust_scores"]

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

_NEIGHBOURS = 5
_FEWEST_BEFORE = 2
_FEWEST = 5
_SCALE_NEIGHBOURS = 25
_MAD_OF_A_GAUSSIAN = 1.4826
_TURN_REACH = 2
_TENSORS_NAMED = 5

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
    clock = Clock.of(data.checkpoints)
    events = [*_stage_boundaries(data), *_first_nonfinite(data)]
    for signal in _SIGNALS:
        events += _unusual(data, clock, signal)
    return tuple(sorted(events, key=lambda event: (event.checkpoint, KINDS.index(event.kind))))


# -- facts ----------------------------------------------------------------------------------------


def _stage_boundaries(data: SeriesData) -> list[Event]:
    trajectory = Trajectory.of(data.total, data.checkpoints)
    events = []
    for index, checkpoint in enumerate(data.checkpoints):
        if checkpoint.parent == ROOT:
            continue
        parent = data.checkpoints[checkpoint.parent]
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
        rows = sorted(np.flatnonzero(new), key=lambda row: -total[index, row])
        evidence: dict[str, float | str | int] = {"tensors": len(rows)}
        evidence |= {name: int(counts[name][index, rows].sum()) for name in _NONFINITE}
        names = tuple(level.names[row] for row in rows[:_TENSORS_NAMED])
        events.append(Event("first_nonfinite", index, math.inf, evidence, names))
    return events


_NONFINITE = ("nan", "pos_inf", "neg_inf")


# -- what is judged by the series itself ----------------------------------------------------------

# What is measured of each row: (N, R), NaN where it is not defined.
Measure: TypeAlias = Callable[[SeriesLevel, Sequence[SeriesCheckpoint], Clock], Floats]


@dataclass(frozen=True, slots=True)
class _Signal:
    """A measure, and which of its scores is an event."""

    kind: str
    measure: Measure
    floor: float
    side: Literal["both", "down", "lowest"]
    #: From the measure to what a reader is told: a ratio, or the cosine as it is.
    spoken: Callable[[float], float]


def _log_update_rate(
    level: SeriesLevel, checkpoints: Sequence[SeriesCheckpoint], clock: Clock
) -> Floats:
    trajectory = Trajectory.of(level, checkpoints)
    exponent = np.clip(trajectory.diffusion_exponent / 2, 0, 1)
    # of a row with no exponent, as of a random walk
    exponent = np.where(np.isnan(exponent), 0.5, exponent)
    interval = _known(clock.interval)
    return _log(trajectory.update_norm) - np.log(interval)[:, None] * exponent


def _norm_growth(
    level: SeriesLevel, checkpoints: Sequence[SeriesCheckpoint], clock: Clock
) -> Floats:
    return _growth(_log(Trajectory.of(level, checkpoints).norm), checkpoints, clock)


def _abs_max_growth(
    level: SeriesLevel, checkpoints: Sequence[SeriesCheckpoint], clock: Clock
) -> Floats:
    missing = np.full((len(checkpoints), len(level.names)), np.nan)
    return _growth(_log(level.stats.get("abs_max", missing)), checkpoints, clock)


def _cosine_of_updates(
    level: SeriesLevel, checkpoints: Sequence[SeriesCheckpoint], clock: Clock
) -> Floats:
    del clock
    return Trajectory.of(level, checkpoints).cosine_of_updates


def _cosine_of_ways(
    level: SeriesLevel, checkpoints: Sequence[SeriesCheckpoint], clock: Clock
) -> Floats:
    del clock
    parents = [checkpoint.parent for checkpoint in checkpoints]
    result = np.full((len(checkpoints), len(level.names)), np.nan)
    branches = _Branches(checkpoints)
    for index in range(len(checkpoints)):
        before = branches.before(index, _TURN_REACH, within_stage=None)
        after = branches.after(index, _TURN_REACH, within_stage=None)
        if len(before) == _TURN_REACH == len(after):
            ways = (before[-1], index), (index, after[-1])
            result[index] = cosine_of_vectors(level.gram, parents, *ways)
    return result


_SIGNALS = (
    _Signal("update_norm_jump", _log_update_rate, 0.1, "both", math.exp),
    _Signal("norm_jump", _norm_growth, 0.005, "both", math.exp),
    _Signal("abs_max_jump", _abs_max_growth, 0.05, "both", math.exp),
    _Signal("loss_of_direction", _cosine_of_updates, 0.05, "down", float),
    _Signal("turning_point", _cosine_of_ways, 0.05, "lowest", float),
)


def robust_scores(
    measure: Floats, checkpoints: Sequence[SeriesCheckpoint], floor: float
) -> tuple[Floats, Floats, Floats]:
    raise NotImplementedError


def _unusual(data: SeriesData, clock: Clock, signal: _Signal) -> list[Event]:
    raise NotImplementedError
