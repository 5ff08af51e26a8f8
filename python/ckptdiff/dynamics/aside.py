"""Checkpoints that say nothing of how training moved, and stand aside where that counts.

A copy equals its parent in every element: no training lies between the two, whatever its label
says, so its child began at the original. A diverged checkpoint has no place among the others: too
few of its elements are finite, and its Gram products are NaN. Both keep their place in the order
and what is known of themselves, and neither is a neighbour, an event's baseline or a
representative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ckptdiff.dynamics.data import ROOT, SeriesCheckpoint, SeriesLevel

__all__ = ["Aside"]


@dataclass(frozen=True, slots=True)
class Aside:
    """Which of N checkpoints stand aside, by index.

    ``originals`` has what each checkpoint is a copy of, itself where it is none, and ``parents``
    the original of each checkpoint's parent, :data:`ROOT` for none.
    """

    copies: frozenset[int]
    diverged: frozenset[int]
    originals: tuple[int, ...]
    parents: tuple[int, ...]

    @classmethod
    def of(cls, level: SeriesLevel, checkpoints: Sequence[SeriesCheckpoint]) -> Aside:
        """Those of a series, which any of its levels tells: its rows are of all tensors."""
        rows = range(len(checkpoints)) if level.names else ()
        # where nothing is finite, nothing is known of what moved
        changed = level.diffs.get("changed") if level.finite.any() else None
        copies = frozenset(
            index
            for index in rows
            if changed is not None
            and checkpoints[index].parent != ROOT
            and (changed[index] == 0).all()
        )
        diverged = frozenset(index for index in rows if np.isnan(level.gram[:, index, index]).all())
        originals: list[int] = []
        parents: list[int] = []
        for index, checkpoint in enumerate(checkpoints):
            parents.append(ROOT if checkpoint.parent == ROOT else originals[checkpoint.parent])
            originals.append(parents[index] if index in copies else index)
        return cls(copies - diverged, diverged, tuple(originals), tuple(parents))

    def __contains__(self, index: int) -> bool:
        return index in self.copies or index in self.diverged

    def ends(self) -> tuple[int, int]:
        """The first and the last checkpoint that has a place among the others."""
        there = [index for index in range(len(self.parents)) if index not in self.diverged]
        return (there[0], there[-1]) if there else (0, len(self.parents) - 1)

    def linked(self, checkpoints: Sequence[SeriesCheckpoint]) -> list[SeriesCheckpoint]:
        """The checkpoints, each with its original parent, and those aside linked to none."""
        return [
            replace(checkpoint, parent=ROOT if index in self else self.parents[index])
            for index, checkpoint in enumerate(checkpoints)
        ]
