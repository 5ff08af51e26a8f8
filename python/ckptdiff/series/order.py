"""Orders the checkpoints of a series, and finds the parent of each.

Training is a tree. A stage goes on where the one before it ended; several ingredients of a stage
all begin there; a soup, the mean of the ingredients, is a leaf beside them, and the next stage
begins from it where there is one. So the order is by stage, ingredient and step, and the parent of
a branch's first checkpoint is the end of the stage before.

What tells no step comes last, each as a leaf of the end of training. Where nothing tells a step,
and where the order is given, each follows the one before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ckptdiff.series.data import ROOT
from ckptdiff.suggest import unknown

__all__ = ["ORDERS", "Order", "Place", "arrange", "check_order", "with_tokens"]

Order = Literal["position", "given"]

ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True, slots=True)
class Place:
    """Where training stood at a checkpoint. What is not known is None.

    ``ingredients`` has several numbers for a soup of them, and ``is_soup`` is also true where the
    label names several steps. ``tokens`` are those since the start of the run, ``stage_tokens``
    those since the start of the stage.
    """

    stage: int | None = None
    ingredient: int | None = None
    ingredients: tuple[int, ...] = ()
    is_soup: bool = False
    step: int | None = None
    tokens: int | None = None
    stage_tokens: int | None = None
    learning_rate: float | None = None

    @property
    def branch(self) -> tuple[float, bool, tuple[int, ...]]:
        """What it is in line with: its stage and ingredient; a soup comes behind them."""
        stage = -1.0 if self.stage is None else float(self.stage)
        if self.stage is None and self.step is None:
            stage = math.inf
        ingredients = self.ingredients or (() if self.ingredient is None else (self.ingredient,))
        return stage, self.is_soup, ingredients


def check_order(order: str) -> Order:
    """``order`` if it is one, else ValueError."""
    for known in ORDERS:
        if order == known:
            return known
    raise ValueError(unknown("order", order, ORDERS))


def arrange(places: Sequence[Place], order: Order) -> tuple[list[int], list[int]]:
    """The indices of ``places`` in order, and the parent of each: an index into that order.

    Equal places keep the order in which they are given.
    """
    indices = list(range(len(places)))
    if order == "given" or all(place.step is None for place in places):
        return indices, [index - 1 if index else ROOT for index in indices]
    indices.sort(key=lambda index: _key(places[index]))
    parents: list[int] = []
    stage_ends: list[int] = []
    for at, index in enumerate(indices):
        place = places[index]
        before = places[indices[at - 1]] if at else None
        if before is None or before.branch[0] != place.branch[0]:
            # the last of a stage: a soup where there is one, else of the last ingredient
            stage_ends.append(at - 1)
        continues = before is not None and before.branch == place.branch and not place.is_soup
        is_leaf = place.is_soup or math.isinf(place.branch[0])
        parents.append(at - 1 if continues and not is_leaf else stage_ends[-1])
    return indices, parents


def _key(place: Place) -> tuple[float, bool, tuple[int, ...], float]:
    return (*place.branch, math.inf if place.step is None else float(place.step))


def with_tokens(places: Sequence[Place], parents: Sequence[int]) -> list[Place]:
    """The places in order, with tokens since the start where those of the stage can be added up.

    In OLMo 2 the tokens in a label count from the start of the stage.
    """
    known: list[Place] = []
    # tokens since the start of the run at the checkpoint that a place's branch began from
    began: list[int | None] = []
    for place, parent in zip(places, parents, strict=True):
        if parent == ROOT:
            start: int | None = 0
        elif known[parent].branch == place.branch:
            start = began[parent]
        else:
            start = known[parent].tokens
        began.append(start)
        if place.tokens is None and place.stage_tokens is not None and start is not None:
            place = replace(place, tokens=start + place.stage_tokens)
        known.append(place)
    return known
