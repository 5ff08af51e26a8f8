"""How long training took from one checkpoint to another: in steps, tokens and learning rate.

Steps are counted along a branch. A stage may begin to count anew, as OLMo 2's second stage does,
or go on. It began at 0 where a step of the stage is not larger than the last one before it, where
its tokens by its steps are what they were before, as tokens of a stage are counted from its start,
or where its first step is its interval; else it went on.
Steps are exact where labels round tokens to a billion, so lags are measured in steps where those
are known, in tokens otherwise, and in checkpoints where neither is. Nothing is trained between a
checkpoint and its copy, so the interval of a copy's child begins at the original.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np

from ckptdiff.dynamics.data import ROOT, Floats, SeriesCheckpoint

__all__ = ["Clock"]

# Tokens per step of two stages that differ by less than this are the same, and rounded.
_ALIKE = 0.1

# What lies between a parent and its child, None where it is not known.
Between: TypeAlias = Callable[[SeriesCheckpoint, SeriesCheckpoint], float | None]


@dataclass(frozen=True, slots=True, eq=False)
class Clock:
    """Arrays of the shape (N,), NaN where something is not known, and at roots for what is between.

    ``position`` is where on its branch a checkpoint stands, in ``unit``; ``interval`` how far that
    is from its parent; ``steps`` and ``tokens`` the same in these units; ``learning_rate`` the sum
    of the learning rate over the steps from the parent, by the trapezoid rule. An interval is
    positive; where the numbers say otherwise it is NaN.
    """

    unit: Literal["steps", "tokens", "checkpoints"]
    position: Floats
    interval: Floats
    steps: Floats
    tokens: Floats
    learning_rate: Floats

    @classmethod
    def of(
        cls, checkpoints: Sequence[SeriesCheckpoint], copies: Collection[int] = frozenset()
    ) -> Clock:
        """The clock of a series, parents before children; ``copies`` are their parents again."""
        ways = [_way(checkpoints, index, copies) for index in range(len(checkpoints))]
        steps = _intervals(checkpoints, ways, _steps_between(_stages_anew(checkpoints)))
        tokens = _intervals(checkpoints, ways, _tokens_between)
        inner = np.array([checkpoint.parent != ROOT for checkpoint in checkpoints], bool)
        unit: Literal["steps", "tokens", "checkpoints"] = "checkpoints"
        interval = np.where(inner, 1.0, np.nan)
        # tokens only where they tell of more intervals
        known = np.isfinite(steps).sum(), np.isfinite(tokens).sum()
        if known[0] and known[0] >= known[1]:
            unit, interval = "steps", steps
        elif known[1]:
            unit, interval = "tokens", tokens
        # from the original itself
        direct = [[way[0], way[-1]] for way in ways]
        rates = _intervals(checkpoints, direct, _mean_learning_rate)
        return cls(
            unit=unit,
            position=_positions(ways, interval),
            interval=interval,
            steps=steps,
            tokens=tokens,
            learning_rate=steps * rates,
        )


def _way(checkpoints: Sequence[SeriesCheckpoint], index: int, copies: Collection[int]) -> list[int]:
    """From a checkpoint's parent, or the original of that, to itself; a root alone."""
    way = [index]
    while checkpoints[way[0]].parent != ROOT:
        way.insert(0, checkpoints[way[0]].parent)
        if way[0] not in copies:
            break
    return way


def _intervals(
    checkpoints: Sequence[SeriesCheckpoint], ways: Sequence[Sequence[int]], between: Between
) -> Floats:
    """``between`` added up along each way, NaN at roots and where it is not positive."""
    result = np.full(len(checkpoints), np.nan)
    for index, way in enumerate(ways):
        amounts = [between(checkpoints[a], checkpoints[b]) for a, b in pairwise(way)]
        known = [amount for amount in amounts if amount is not None]
        if checkpoints[index].parent != ROOT and len(known) == len(amounts) and sum(known) > 0:
            result[index] = sum(known)
    return result


def _stages_anew(checkpoints: Sequence[SeriesCheckpoint]) -> frozenset[int | None]:
    """The stages that count their steps from 0."""
    first: dict[int | None, list[tuple[SeriesCheckpoint, SeriesCheckpoint]]] = {}
    gaps: dict[int | None, list[int]] = {}
    for child in checkpoints:
        # a soup may tell the sum of its parts' steps
        if child.parent == ROOT or child.is_soup or child.step is None:
            continue
        parent = checkpoints[child.parent]
        if parent.step is None:
            continue
        if parent.stage != child.stage:
            first.setdefault(child.stage, []).append((parent, child))
        else:
            gaps.setdefault(child.stage, []).append(child.step - parent.step)
    return frozenset(
        stage
        for stage, pairs in first.items()
        if any(_begins_anew(parent, child, gaps.get(stage, [])) for parent, child in pairs)
    )


def _begins_anew(parent: SeriesCheckpoint, child: SeriesCheckpoint, gaps: Sequence[int]) -> bool:
    """Whether the first checkpoint of a stage counts from the start of it."""
    assert parent.step is not None
    assert child.step is not None
    if child.step <= parent.step:
        return True
    if parent.step and parent.stage_tokens and child.stage_tokens:
        before, now = parent.stage_tokens / parent.step, child.stage_tokens / child.step
        return abs(now / before - 1) < _ALIKE
    usual = int(np.median(gaps)) if gaps else 0
    return child.step == usual != child.step - parent.step


def _steps_between(anew: Collection[int | None]) -> Between:
    def between(parent: SeriesCheckpoint, child: SeriesCheckpoint) -> float | None:
        if parent.step is None or child.step is None:
            return None
        began_anew = parent.stage != child.stage and (
            child.stage in anew or child.step <= parent.step
        )
        return child.step if began_anew else child.step - parent.step

    return between


def _tokens_between(parent: SeriesCheckpoint, child: SeriesCheckpoint) -> float | None:
    if parent.tokens is not None and child.tokens is not None:
        return child.tokens - parent.tokens
    if child.stage_tokens is None:
        return None
    if parent.stage != child.stage:
        # as steps are counted: whether the parent was the end of its stage is not known
        return child.stage_tokens
    return None if parent.stage_tokens is None else child.stage_tokens - parent.stage_tokens


def _mean_learning_rate(parent: SeriesCheckpoint, child: SeriesCheckpoint) -> float | None:
    if parent.learning_rate is None or child.learning_rate is None:
        return None
    return (parent.learning_rate + child.learning_rate) / 2


def _positions(ways: Sequence[Sequence[int]], interval: Floats) -> Floats:
    """The intervals added up along each branch; a root stands at 0."""
    result = np.zeros(len(ways))
    for index, way in enumerate(ways):
        if len(way) > 1:
            result[index] = result[way[0]] + interval[index]
    return result
