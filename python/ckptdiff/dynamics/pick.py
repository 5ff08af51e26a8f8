"""Which few checkpoints represent a series: ends of stages, events, then those far from the rest.

The ends of stages come first (of the last stage, that is the last checkpoint), then the checkpoints
of events, the highest scores first (not those just before or after one of a higher score, which are
its echo). The others are chosen one at a time, each the one whose distance to the nearest chosen
before it is the largest (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance",
which covers a set within twice the best radius). On a single branch that comes close to equal arcs
of the path, and it needs no other rule where branches part. A checkpoint with the very weights of a
chosen one adds nothing and is not taken, nor is a copy of its parent or one that diverged. The
choice of K checkpoints is the beginning of the choice of K + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ckptdiff.dynamics.aside import Aside
from ckptdiff.dynamics.data import Floats, SeriesData
from ckptdiff.dynamics.events import Event
from ckptdiff.dynamics.trajectory import Trajectory

__all__ = ["Picked", "pick"]


@dataclass(frozen=True, slots=True)
class Picked:
    """A checkpoint of the series, and why it was chosen."""

    index: int
    reason: str


def pick(data: SeriesData, count: int, events: Sequence[Event]) -> tuple[Picked, ...]:
    """Up to ``count`` checkpoints, the most important first; distances are of the whole model.

    Fewer where there are no more, or where the rest have the weights of those chosen. Raises
    ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"the number of checkpoints to pick must be 1 or more, not {count}")
    if not data.checkpoints:
        return ()
    distances = Trajectory.of(data.total, data.checkpoints).distances[0]
    chosen: list[Picked] = []
    # where nothing is finite there are no distances, and the ends and events are all there is
    nearest = np.full(len(data.checkpoints), np.inf)
    aside = Aside.of(data.total, data.checkpoints)
    nearest[[index for index in range(len(nearest)) if index in aside]] = np.nan
    for picked in (*_ends(data, aside), *_of_events(events, aside.parents)):
        if len(chosen) < count and nearest[picked.index] > 0:
            chosen.append(picked)
            nearest = _with(nearest, distances, picked.index)
    while len(chosen) < count and np.nanmax(nearest) > 0:
        index = int(np.argmax(np.where(np.isnan(nearest), -1.0, nearest)))
        if not np.isfinite(nearest[index]):
            break
        chosen.append(Picked(index, _far(data, distances, chosen, index)))
        nearest = _with(nearest, distances, index)
    return tuple(chosen)


def _ends(data: SeriesData, aside: Aside) -> Iterator[Picked]:
    """The last checkpoint, and the last of each stage that another one begins from."""
    last = aside.originals[aside.ends()[1]]
    yield Picked(last, "the last of the series")
    seen = {last}
    for index, checkpoint in enumerate(data.checkpoints):
        parent = aside.parents[index]
        if parent < 0 or parent in seen or checkpoint.stage is None:
            continue
        stage = data.checkpoints[parent].stage
        if stage is not None and stage != checkpoint.stage:
            seen.add(parent)
            yield Picked(parent, f"the end of stage {stage}")


def _of_events(events: Sequence[Event], parents: Sequence[int]) -> Iterator[Picked]:
    """The checkpoints of events, but for those beside one with a higher score: its echo."""
    ordered = sorted(events, key=lambda event: (-abs(event.score), event.checkpoint))
    seen: set[int] = set()
    for event in ordered:
        beside = {other for other in seen if parents[other] == event.checkpoint}
        if event.kind == "stage_boundary" or beside or parents[event.checkpoint] in seen:
            continue
        seen.add(event.checkpoint)
        what = event.kind.replace("_", " ")
        if np.isfinite(event.score):
            row = event.evidence.get("row", "total")
            yield Picked(event.checkpoint, f"{what}, score {event.score:.1f} in {row}")
        else:
            where = f" in {event.tensors[0]}" if event.tensors else ""
            yield Picked(event.checkpoint, f"{what}{where}")


def _far(data: SeriesData, distances: Floats, chosen: Sequence[Picked], index: int) -> str:
    """How far a checkpoint is from the nearest that was chosen before it."""
    others = [picked.index for picked in chosen]
    nearest = min(others, key=lambda other: (distances[index, other], other))
    label = data.checkpoints[nearest].label
    return f"the farthest from those above: {distances[index, nearest]:.3g} from {label}"


def _with(nearest: Floats, distances: Floats, index: int) -> Floats:
    """The distance of each checkpoint to the nearest chosen one, when one more is chosen."""
    result = np.minimum(nearest, np.where(np.isnan(distances[index]), np.inf, distances[index]))
    result[index] = 0
    return result
