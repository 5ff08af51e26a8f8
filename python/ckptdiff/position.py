"""Where training stood when a checkpoint was written: stage, ingredient, step, tokens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ckptdiff.naming.revisions import parse_revision

__all__ = ["TrainingPosition", "position_of"]


@dataclass(frozen=True, slots=True)
class TrainingPosition:
    """Where training stood; what nothing tells is None.

    ``tokens`` are those since the start of the run, ``stage_tokens`` since the start of the stage.
    ``sources`` has, for each field that is known, what it was read from; ``conflicts`` a sentence
    for each field on which two sources disagree.
    """

    path: str
    label: str | None = None
    stage: int | None = None
    phase: str | None = None
    ingredient: int | None = None
    ingredients: tuple[int, ...] = ()
    step: int | None = None
    steps: tuple[int, ...] = ()
    tokens: int | None = None
    stage_tokens: int | None = None
    learning_rate: float | None = None
    index: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()

    @property
    def is_soup(self) -> bool:
        """Whether this is an average of several checkpoints."""
        return len(self.ingredients) > 1 or len(self.steps) > 1


def position_of(path: str) -> TrainingPosition:
    """Read the training position of the checkpoint at ``path``."""
    revision = parse_revision(os.path.basename(os.path.abspath(path)))
    return TrainingPosition(
        path=path,
        label=revision.label,
        stage=revision.stage,
        ingredient=revision.ingredient,
        ingredients=revision.ingredients,
        step=revision.step,
        steps=revision.steps,
        index=revision.index,
    )
