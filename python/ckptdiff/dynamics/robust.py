"""How unusual a value of a series is, by the values around it: what an event is judged by.

For a measure ``x_t``, with the neighbours of t being up to 5 checkpoints before and 5 after it on
its branch:

1. ``expected_t`` is what the neighbours, t left out, say of t: the line of Theil and Sen through
   them (the slope is the median of the slopes of all pairs, the level the median of what remains),
   so that a trend is not unusual and no single neighbour decides. At the end of a branch this
   extrapolates; the residual ``x_t - expected_t`` is divided by ``sqrt((1 + 1/n + m^2/S) / 1.1)``
   there, where m is the mean of the n neighbours' offsets and S the sum of their squares about it:
   by how much less is known than in the middle.
2. ``scale_t`` is 1.4826 times the median of the magnitudes of the residuals of up to 25 checkpoints
   to each side and of t (a MAD, which is the standard deviation where noise is Gaussian), times ``1
   + 5/n`` for its n values, since the median of few is often too small, and not less than a floor:
   a constant, and for a rate a part of its median magnitude at these checkpoints. A rate follows
   the learning rate, and a warm-up is no line: where weights grow by 3 % from one checkpoint to the
   next, 5 % is nothing unusual, and it is where they grow by nothing.
3. ``score_t = residual_t / scale_t``.

A checkpoint with fewer than 2 neighbours before it or 5 in all has no score, and neither has one
with fewer than 5 residuals around it: the first updates of a run are large, and nothing before them
says how large they should be.

Theil, "A rank-invariant method of linear and polynomial regression analysis", 1950; Sen, "Estimates
of the regression coefficient based on Kendall's tau", 1968.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ckptdiff.dynamics.data import ROOT, Floats, SeriesCheckpoint

__all__ = ["Branches", "Scores", "robust_scores"]

_NEIGHBOURS = 5
_FEWEST_BEFORE = 2
_FEWEST = 5
_SCALE_NEIGHBOURS = 25
_MAD_OF_A_GAUSSIAN = 1.4826
_FEW = 5


@dataclass(frozen=True, slots=True)
class Branches:
    """Which checkpoint comes before and after each, :data:`ROOT` for none.

    Where several follow one, the first that is of its stage comes after it, or the first of all.
    """

    previous: tuple[int, ...]
    following: tuple[int, ...]

    @classmethod
    def through_stages(cls, checkpoints: Sequence[SeriesCheckpoint]) -> Branches:
        """Along the branches as they are."""
        parents = [checkpoint.parent for checkpoint in checkpoints]
        following = [ROOT] * len(parents)
        for child, parent in enumerate(parents):
            if parent == ROOT:
                continue
            chosen = following[parent]
            stage = checkpoints[parent].stage
            if chosen == ROOT or (
                checkpoints[chosen].stage != stage and checkpoints[child].stage == stage
            ):
                following[parent] = child
        return cls(tuple(parents), tuple(following))

    @classmethod
    def within_stages(cls, checkpoints: Sequence[SeriesCheckpoint]) -> Branches:
        """Along the branches, none of which goes from one stage to another."""
        whole = cls.through_stages(checkpoints)

        def cut(others: Sequence[int]) -> tuple[int, ...]:
            return tuple(
                other if other != ROOT and checkpoints[other].stage == checkpoint.stage else ROOT
                for checkpoint, other in zip(checkpoints, others, strict=True)
            )

        return cls(cut(whole.previous), cut(whole.following))

    def before(self, index: int, count: int) -> list[int]:
        """Up to ``count`` checkpoints before one, the nearest first."""
        return _walk(self.previous, index, count)

    def after(self, index: int, count: int) -> list[int]:
        """Up to ``count`` checkpoints after one, the nearest first."""
        return _walk(self.following, index, count)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Arrays of the shape (N, R), NaN where too little is around."""

    score: Floats
    expected: Floats
    scale: Floats


def robust_scores(
    measure: Floats, branches: Branches, floor: float, floor_of_median: float = 0.0
) -> Scores:
    """The score of each value of a measure (N, R); what is not finite is as good as not there.

    The scale is not less than ``floor``, nor than ``floor_of_median`` of the median magnitude of
    the measure around.
    """
    measure = np.where(np.isfinite(measure), measure, np.nan)
    expected = np.full(measure.shape, np.nan)
    residual = np.full(measure.shape, np.nan)
    for index in range(len(measure)):
        before = branches.before(index, _NEIGHBOURS)
        after = branches.after(index, _NEIGHBOURS)
        if len(before) < _FEWEST_BEFORE or len(before) + len(after) < _FEWEST:
            continue
        offsets = np.array([*range(-1, -len(before) - 1, -1), *range(1, len(after) + 1)], float)
        values = measure[[*before, *after]]
        enough = (np.isfinite(values[: len(before)]).sum(axis=0) >= _FEWEST_BEFORE) & (
            np.isfinite(values).sum(axis=0) >= _FEWEST
        )
        predicted, uncertainty = _line_at_zero(offsets, values)
        expected[index] = np.where(enough, predicted, np.nan)
        residual[index] = (measure[index] - expected[index]) / uncertainty
    floors = np.full(measure.shape, floor)
    if floor_of_median:
        usual = _medians_around(np.abs(measure), branches)
        floors = np.fmax(floors, floor_of_median * usual)
    scale = _scales(np.abs(residual), branches, floors)
    return Scores(score=residual / scale, expected=expected, scale=scale)


def _walk(links: Sequence[int], index: int, count: int) -> list[int]:
    way: list[int] = []
    while len(way) < count and links[index] != ROOT:
        index = links[index]
        way.append(index)
    return way


def _line_at_zero(offsets: Floats, values: Floats) -> tuple[Floats, Floats]:
    """The line of Theil and Sen of each column at offset 0, and how uncertain it is there.

    ``offsets`` has the shape (n,), ``values`` (n, R); a value that is NaN is left out.
    """
    first, second = np.triu_indices(len(offsets), k=1)
    runs = (offsets[second] - offsets[first])[:, None]
    slope = _median((values[second] - values[first]) / runs)
    level = _median(values - slope * offsets[:, None])
    there = np.isfinite(values)
    count = np.maximum(there.sum(axis=0), 1)
    mean = (offsets[:, None] * there).sum(axis=0) / count
    spread = (((offsets[:, None] - mean) * there) ** 2).sum(axis=0)
    leverage = 1 + 1 / count + mean**2 / np.where(spread > 0, spread, np.inf)
    return level, np.sqrt(np.maximum(leverage / (1 + 1 / (2 * _NEIGHBOURS)), 1))


def _around(index: int, branches: Branches) -> list[int]:
    """A checkpoint and those near it, from which a scale is taken."""
    before = branches.before(index, _SCALE_NEIGHBOURS)
    return [index, *before, *branches.after(index, _SCALE_NEIGHBOURS)]


def _medians_around(values: Floats, branches: Branches) -> Floats:
    result = [_median(values[_around(index, branches)]) for index in range(len(values))]
    return np.array(result).reshape(values.shape)


def _scales(residual: Floats, branches: Branches, floors: Floats) -> Floats:
    """The scale of each value, from the magnitudes of the residuals around it."""
    scale = np.full(residual.shape, np.nan)
    for index in range(len(residual)):
        around = _around(index, branches)
        count = np.isfinite(residual[around]).sum(axis=0)
        enough = count >= _FEWEST
        few = 1 + _FEW / np.maximum(count, 1)
        deviation = _MAD_OF_A_GAUSSIAN * _median(residual[around]) * few
        scale[index] = np.where(enough, np.maximum(deviation, floors[index]), np.nan)
    return scale


def _median(values: Floats) -> Floats:
    """The median of each column of the values that are not NaN; NaN where there are none.

    numpy's nanmedian takes a column at a time.
    """
    ordered = np.sort(values, axis=0)
    count = np.isfinite(values).sum(axis=0)
    middle = np.stack([np.maximum(count - 1, 0) // 2, count // 2])
    # of an even number both are taken, of an odd one the same one twice
    middle = np.minimum(middle, len(values) - 1)
    return np.asarray(np.take_along_axis(ordered, middle, axis=0).mean(axis=0))
