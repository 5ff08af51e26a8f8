"""Which few checkpoints represent a series: ends of stages, events, then those far from the rest.

First come the last checkpoint, the ends of stages and the checkpoints of events, the highest scores
first. The others are chosen one at a time, each the one whose distance to the nearest that was chosen
before is the largest (Gonzalez 1985, which covers a set within twice the best radius). On a single
branch that comes close to equal arcs, and it needs no other rule where branches part. The choice of K
is the beginning of the choice of K + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckptdiff.series.data import SeriesData
from ckptdiff.series.events import Event

__all__ = ["Picked", "pick"]


@dataclass(frozen=True, slots=True)
class Picked:
    """A checkpoint of the series, and why it was chosen."""

    index: int
    reason: str


def pick(data: SeriesData, count: int, events: Sequence[Event]) -> tuple[Picked, ...]:
    """Up to ``count`` checkpoints, the most important first.

    Fewer where there are no more, or where the rest have the very weights of those chosen. Raises
    ValueError for a count below 1.
    """
    raise NotImplementedError
