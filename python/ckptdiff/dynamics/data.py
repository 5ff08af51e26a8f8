"""What one read of a series leaves: a Gram matrix, stats and diffs per tensor, and per group.

The checkpoints are a tree: stage 2 branches from the end of stage 1, once for each ingredient, so
each has a parent, the checkpoint before it along its branch. With ``u_t = w_t - w_parent(t)``, and
``u_t = w_t`` for a root, the Gram matrix ``G[i, j] = <u_i, u_j>`` holds every distance, norm and
angle between checkpoints and between updates. It adds up over tensors, so a layer, a module and the
whole model have one as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["GROUPINGS", "ROOT", "Floats", "SeriesCheckpoint", "SeriesData", "SeriesLevel"]

Floats = npt.NDArray[np.float64]

#: The parent of a checkpoint that has none.
ROOT = -1

#: What the rows of a level are, from the finest to the coarsest.
GROUPINGS = ("tensor", "layer", "module", "total")


@dataclass(frozen=True, slots=True)
class SeriesCheckpoint:
    """One checkpoint of a series, and where training stood.

    ``tokens`` are those that the model had seen since the start of the run, along its branch;
    ``stage_tokens`` those since the start of its stage, as labels of OLMo 2 count them. What is not
    known is None. ``parent`` is an index into the series, :data:`ROOT` for none. ``is_soup`` is
    true of an average of several checkpoints: a leaf, to which no training led.
    """

    label: str
    path: str
    format: str
    parent: int
    stage: int | None = None
    ingredient: int | None = None
    step: int | None = None
    tokens: int | None = None
    stage_tokens: int | None = None
    learning_rate: float | None = None
    is_soup: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class SeriesLevel:
    """The rows of one grouping: R rows of N checkpoints.

    ``gram`` has the shape (R, N, N) and is of the elements at which all N checkpoints are finite,
    but for those that diverged, whose products are NaN,
    ``finite`` (R,) counts them, ``numel`` (R,) all. ``stats`` and ``diffs`` are the numeric columns
    of :func:`ckptdiff.stats` and :func:`ckptdiff.diff`, each of the shape (N, R): ``diffs`` at t is
    from the parent of t to t, and NaN at a root. ``diffs["changed_bf16"]`` counts the elements that
    differ when both sides are rounded to bf16.
    """

    names: tuple[str, ...]
    numel: npt.NDArray[np.int64]
    finite: npt.NDArray[np.int64]
    gram: Floats
    stats: Mapping[str, Floats]
    diffs: Mapping[str, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class SeriesData:
    """A series that was read: its checkpoints in order, parents before children, and its levels.

    ``levels`` has a :class:`SeriesLevel` for each of :data:`GROUPINGS`; ``total`` has one row.
    """

    checkpoints: tuple[SeriesCheckpoint, ...]
    levels: Mapping[str, SeriesLevel]

    @property
    def parents(self) -> tuple[int, ...]:
        """The parent of each checkpoint."""
        return tuple(checkpoint.parent for checkpoint in self.checkpoints)

    @property
    def total(self) -> SeriesLevel:
        """The one row of the whole model."""
        return self.levels["total"]
