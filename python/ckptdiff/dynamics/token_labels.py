"""Labels whose tokens do not fit those of the others: ``tokens199B`` where four say 168.

A label without a config has nothing to be held against but the other labels. Training sees as many
tokens in each step, so of a stage's labels most agree on one number of tokens per step, and each
allows a range of it: its tokens, rounded up or down to its unit, or short of a batch, by its steps.
The range that most labels share is what the stage's step has. A label outside it is wrong, if more
than half are in it, and two at least.

Where that is not so nothing is said: the batch may have grown all along, or tokens be counted from
the start of the run. And where the batch changes once, the labels behind the change are outside
together, and agree on another number among themselves: those are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ckptdiff.dynamics.order import Place
from ckptdiff.dynamics.problems import Problem

__all__ = ["without_wrong_tokens"]

_FEWEST_OF_A_BRANCH = 3
# Of the tokens of a label: less than this is nothing that a curve over tokens would show, and a
# trainer that was started anew can have lost as much.
_SLACK = 1e-3


@dataclass(frozen=True, slots=True)
class _Span:
    """From ``low`` to ``high`` tokens per step."""

    low: float
    high: float

    def and_(self, other: _Span) -> _Span | None:
        """What both have; None for nothing."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        return _Span(low, high) if low <= high else None


@dataclass(frozen=True, slots=True)
class _Label:
    """What a label says, and which place it is of."""

    index: int
    step: int
    tokens: int
    unit: int

    @property
    def error(self) -> float:
        """By how much its tokens may be off."""
        return max(self.unit, _SLACK * self.tokens)

    @property
    def tokens_per_step(self) -> _Span:
        """What it allows, with the last batch or without."""
        low = min((self.tokens - self.error) / self.step, self.tokens / (self.step + 1))
        high = (self.tokens + self.error) / self.step
        return _Span(low, max(high, self.tokens / max(self.step - 1, 1)))

    def tokens_per_step_since(self, before: _Label) -> _Span:
        """What it and the label before it allow for the steps between them."""
        steps, tokens = self.step - before.step, self.tokens - before.tokens
        error = self.unit + before.unit + _SLACK * tokens
        return _Span((tokens - error) / steps, (tokens + error) / steps)


def without_wrong_tokens(
    names: Sequence[str], places: Sequence[Place]
) -> tuple[list[Place], list[Problem]]:
    """The places, those of which the label's tokens are wrong without any; and a problem for each.

    ``names`` are what the places are called.
    """
    result = list(places)
    problems = []
    for branch, rest in _groups(places):
        common = _common([label.tokens_per_step for label in branch])
        if common is None:
            continue
        for label in rest if rest is not None else branch:
            if label.tokens_per_step.and_(common) is not None:
                continue
            if rest is None and _is_behind_a_change(label, branch, common):
                continue
            rate = (common.low + common.high) / 2
            known = _Span(common.low * label.step, common.high * label.step)
            about = _rounded(rate * label.step, _precision(known))
            text = (
                f"{names[label.index]}: tokens is {label.tokens:,} by label, but about {about:,} "
                f"at the {_rounded(rate, _precision(common)):,} a step of the other labels"
            )
            problems.append(Problem("label_mismatch", text, (names[label.index],)))
            result[label.index] = replace(result[label.index], tokens=None, stage_tokens=None)
    return result, problems


def _groups(places: Sequence[Place]) -> list[tuple[list[_Label], list[_Label] | None]]:
    """(labels that agree or not, those to be held against them, None for the same).

    A branch is held against itself where it can be, since ingredients may have another batch, else
    against its whole stage.
    """
    branches: dict[object, list[_Label]] = {}
    stages: dict[object, list[_Label]] = {}
    for index, place in enumerate(places):
        if not place.step or place.stage_tokens is None or place.tokens_unit is None:
            continue
        label = _Label(index, place.step, place.stage_tokens, place.tokens_unit)
        stages.setdefault(place.stage_key, []).append(label)
        if not place.is_soup:
            branches.setdefault(place.branch, []).append(label)
    groups: list[tuple[list[_Label], list[_Label] | None]] = []
    judged: set[int] = set()
    for branch in branches.values():
        branch.sort(key=lambda label: label.step)
        if len(branch) >= _FEWEST_OF_A_BRANCH:
            groups.append((branch, None))
            judged |= {label.index for label in branch}
    for stage in stages.values():
        left = [label for label in stage if label.index not in judged]
        if left and len(stage) >= _FEWEST_OF_A_BRANCH:
            groups.append((stage, left))
    return groups


def _common(spans: Sequence[_Span]) -> _Span | None:
    """What more than half of the spans have in common, and two at least; None for nothing."""
    # of equal numbers, what begins comes before what ends
    bounds = [(span.low, 0) for span in spans] + [(span.high, 1) for span in spans]
    bounds.sort()
    best, most, open_spans = None, 0, 0
    for at, (bound, ends) in enumerate(bounds):
        open_spans += -1 if ends else 1
        if open_spans > most:
            # the next bound ends one of them, or there are more there
            best, most = _Span(bound, bounds[at + 1][0]), open_spans
    return best if most > 1 and 2 * most > len(spans) else None


def _is_behind_a_change(label: _Label, branch: Sequence[_Label], common: _Span) -> bool:
    """Whether the batch changed before this label, to one that all labels from there on have."""
    fitting = [at for at, one in enumerate(branch) if one.tokens_per_step.and_(common)]
    behind = branch[fitting[-1] + 1 :]
    if label not in behind or len(behind) < 2 or behind[0].step == branch[fitting[-1]].step:
        return False
    other: _Span | None = _Span(0.0, float("inf"))
    for before, after in pairwise(behind):
        if after.step > before.step and other is not None:
            other = other.and_(after.tokens_per_step_since(before))
    if other is None:
        return False
    # the batch was the one, then the other
    between = behind[0].tokens_per_step_since(branch[fitting[-1]])
    either = _Span(min(common.low, other.low), max(common.high, other.high))
    return between.and_(either) is not None


def _precision(span: _Span) -> int:
    """The power of ten below which nothing is known of a number in this span."""
    precision = 1
    while precision * 10 <= span.high - span.low:
        precision *= 10
    return precision


def _rounded(value: float, unit: int) -> int:
    return max(1, round(value / unit)) * unit
