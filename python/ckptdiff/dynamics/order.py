"""Orders the checkpoints of a series, and finds the parent of each.

Training is a tree. A stage goes on where the one before it ended; several ingredients of a stage
all begin there; a soup, the mean of the ingredients, is a leaf beside them, and the next stage
begins from it where there is one. So the order is by stage, ingredient and step, and the parent of
a branch's first checkpoint is the end of the stage before.

Names of a first stage often tell no stage, as nobody knew of a second one when they were given. So
what has a step and no stage is of stage 1 where others are of a later one.

What tells a stage that has ingredients and is of none of them is taken for their soup, and so is
what is called ``main``, as the branch of a repository with the final model is: the published ones
are soups. Where several steps are of no ingredient, they are a branch of their own.

A stage that has a name and no number, as those in which SmolLM3 learns long contexts, comes after
the numbered ones. What tells no step comes last, each as a leaf of the end of training. Where
nothing tells a step, and where the order is given, each follows the one before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ckptdiff.dynamics.data import ROOT
from ckptdiff.dynamics.natural import NaturalKey, natural_key
from ckptdiff.suggest import unknown

__all__ = [
    "ORDERS",
    "Order",
    "Place",
    "arrange",
    "check_order",
    "first_stage",
    "soups",
    "with_tokens",
]

Order = Literal["position", "given"]

ORDERS: tuple[Order, ...] = get_args(Order)

# Stages that have only a name come after those that are numbered, and what has no step after all.
_NAMED_STAGE = 1e18
_LAST = math.inf


@dataclass(frozen=True, slots=True)
class Place:
    """Where training stood at a checkpoint. What is not known is None.

    ``phase`` is the name of a stage that has no number. ``ingredients`` has several numbers for a
    soup of them, and ``is_soup`` is also true of other soups. ``index`` counts
    checkpoints, where a label does that instead of steps. ``tokens`` are those since the start of
    the run, ``stage_tokens`` those since the start of the stage; ``tokens_unit`` is what a label
    rounded these to, None where they were counted or computed. ``is_end`` is true where it is known
    that the stage ended here.
    """

    stage: int | None = None
    phase: str | None = None
    ingredient: int | None = None
    ingredients: tuple[int, ...] = ()
    is_soup: bool = False
    step: int | None = None
    index: int | None = None
    tokens: int | None = None
    stage_tokens: int | None = None
    tokens_unit: int | None = None
    learning_rate: float | None = None
    is_end: bool = False

    @property
    def count(self) -> int | None:
        """The step, or the number of the checkpoint where that is all that is known."""
        return self.index if self.step is None else self.step

    @property
    def stage_key(self) -> tuple[float, NaturalKey]:
        """What orders stages; an unknown one is before the first, or, without a step, last."""
        if self.stage is not None:
            return self.stage, ()
        if self.phase is not None:
            return _NAMED_STAGE, natural_key(self.phase)
        return (_LAST if self.count is None else -1.0), ()

    @property
    def branch(self) -> tuple[tuple[float, NaturalKey], bool, tuple[int, ...]]:
        """What it is in line with: its stage and ingredient; a soup comes behind them."""
        ingredients = self.ingredients or (() if self.ingredient is None else (self.ingredient,))
        return self.stage_key, self.is_soup, ingredients


def check_order(order: str) -> Order:
    """``order`` if it is one, else ValueError."""
    for known in ORDERS:
        if order == known:
            return known
    raise ValueError(unknown("order", order, ORDERS))


def first_stage(places: Sequence[Place]) -> list[int]:
    """The indices of those that must be of stage 1, as they tell a step and others a later stage.

    What tells an ingredient, or is a soup, is not of a first stage.
    """
    if not any(place.stage is not None and place.stage > 1 for place in places):
        return []
    return [
        index
        for index, place in enumerate(places)
        if place.stage is None
        and place.phase is None
        and place.count is not None
        and place.ingredient is None
        and not place.ingredients
        and not place.is_soup
    ]


def soups(labels: Sequence[str], places: Sequence[Place]) -> dict[int, int]:
    """Those that must be soups of ingredients though nothing calls them so, and of which stage."""
    ingredients: dict[int, set[int]] = {}
    for place in places:
        if place.stage is not None and place.ingredient is not None:
            ingredients.setdefault(place.stage, set()).add(place.ingredient)
    several = {stage for stage, those in ingredients.items() if len(those) > 1}
    if not several:
        return {}
    found: dict[int, list[int]] = {}
    for index, (label, place) in enumerate(zip(labels, places, strict=True)):
        if place.is_soup or place.ingredients or place.ingredient is not None:
            continue
        is_main = label.rpartition("/")[2] == "main" and place.count is None
        stage = max(several) if is_main and place.stage is None else place.stage
        if stage in several:
            assert stage is not None
            found.setdefault(stage, []).append(index)
    return {
        index: stage
        for stage, indices in found.items()
        for index in indices
        if len({places[one].count for one in indices} - {None}) < 2
    }


def arrange(places: Sequence[Place], order: Order) -> tuple[list[int], list[int]]:
    """The indices of ``places`` in order, and the parent of each: an index into that order.

    Equal places keep the order in which they are given.
    """
    indices = list(range(len(places)))
    if order == "given" or all(place.count is None for place in places):
        return indices, [index - 1 if index else ROOT for index in indices]
    indices.sort(key=lambda index: _key(places[index]))
    parents: list[int] = []
    stage_end = ROOT
    before: Place | None = None
    for at, index in enumerate(indices):
        place = places[index]
        if before is None or before.stage_key != place.stage_key:
            # the last of the stage before: a soup where there is one, else of the last ingredient
            stage_end = at - 1
        is_leaf = place.is_soup or place.stage_key[0] == _LAST
        continues = before is not None and before.branch == place.branch and not is_leaf
        parents.append(at - 1 if continues else stage_end)
        before = place
    return indices, parents


def _key(place: Place) -> tuple[object, ...]:
    return (*place.branch, math.inf if place.count is None else place.count)


def with_tokens(places: Sequence[Place], parents: Sequence[int]) -> list[Place]:
    """The places in order, with tokens since the start where those of the stage can be added up.

    In OLMo 2 the tokens in a label count from the start of the stage. A stage began with the tokens
    of the one before only where that is known to have ended at its last checkpoint that is here:
    where a config or the trainer's state says so, or as a soup is the last of its stage. Otherwise
    the tokens of a later stage are not known, unless something counts them through.
    """
    known: list[Place] = []
    # tokens since the start of the run at the checkpoint that a place's branch began from
    began: list[int | None] = []
    for place, parent in zip(places, parents, strict=True):
        start: int | None = None
        if parent == ROOT:
            is_first = place.phase is None and (place.stage is None or place.stage <= 1)
            start = 0 if is_first else None
        elif known[parent].branch == place.branch:
            start = began[parent]
        elif known[parent].is_end or known[parent].is_soup:
            start = known[parent].tokens
        if start is None and place.tokens is not None and place.stage_tokens is not None:
            start = place.tokens - place.stage_tokens
        began.append(start)
        if place.tokens is None and place.stage_tokens is not None and start is not None:
            place = replace(place, tokens=start + place.stage_tokens)
        known.append(place)
    return known
