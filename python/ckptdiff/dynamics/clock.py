"""How long training took from one checkpoint to another: in steps, tokens and learning rate.

Steps are counted along a branch. A stage may begin to count anew, as OLMo 2's second stage does,
or go on: where the stage changes and the step is not larger than the parent's, it began at 0.
Steps are exact where labels round tokens to a billion, so lags are measured in steps where those
are known, in tokens otherwise, and in checkpoints where neither is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from ckptdiff.dynamics.data import ROOT, Floats, SeriesCheckpoint

__all__ = ["Clock"]

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
    def of(cls, checkpoints: Sequence[SeriesCheckpoint]) -> Clock:
        """The clock of a series, parents before children."""
        steps = _intervals(checkpoints, _steps_between)
        tokens = _intervals(checkpoints, _tokens_between)
        inner = np.array([checkpoint.parent != ROOT for checkpoint in checkpoints], bool)
        unit: Literal["steps", "tokens", "checkpoints"] = "checkpoints"
        interval = np.where(inner, 1.0, np.nan)
        # tokens only where they tell of more intervals
        known = np.isfinite(steps).sum(), np.isfinite(tokens).sum()
        if known[0] and known[0] >= known[1]:
            unit, interval = "steps", steps
        elif known[1]:
            unit, interval = "tokens", tokens
        rates = _intervals(checkpoints, _mean_learning_rate)
        return cls(
            unit=unit,
            position=_positions(checkpoints, interval),
            interval=interval,
            steps=steps,
            tokens=tokens,
            learning_rate=steps * rates,
        )


def _intervals(checkpoints: Sequence[SeriesCheckpoint], between: Between) -> Floats:
    """``between(parent, child)`` of each checkpoint, NaN at roots and where it is not positive."""
    result = np.full(len(checkpoints), np.nan)
    for index, checkpoint in enumerate(checkpoints):
        if checkpoint.parent != ROOT:
            amount = between(checkpoints[checkpoint.parent], checkpoint)
            if amount is not None and amount > 0:
                result[index] = amount
    return result


def _steps_between(parent: SeriesCheckpoint, child: SeriesCheckpoint) -> float | None:
    if parent.step is None or child.step is None:
        return None
    began_anew = parent.stage != child.stage and child.step <= parent.step
    return child.step if began_anew else child.step - parent.step


def _tokens_between(parent: SeriesCheckpoint, child: SeriesCheckpoint) -> float | None:
    if parent.tokens is None or child.tokens is None:
        return None
    return child.tokens - parent.tokens


def _mean_learning_rate(parent: SeriesCheckpoint, child: SeriesCheckpoint) -> float | None:
    if parent.learning_rate is None or child.learning_rate is None:
        return None
    return (parent.learning_rate + child.learning_rate) / 2


def _positions(checkpoints: Sequence[SeriesCheckpoint], interval: Floats) -> Floats:
    """The intervals added up along each branch; a root stands at 0."""
    result = np.zeros(len(checkpoints))
    for index, checkpoint in enumerate(checkpoints):
        if checkpoint.parent != ROOT:
            result[index] = result[checkpoint.parent] + interval[index]
    return result
