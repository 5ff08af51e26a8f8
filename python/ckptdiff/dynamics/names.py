"""Brings the checkpoints of a series under one set of names, whoever wrote each of them.

A run can have checkpoints of a trainer and of a library: OLMo-core's own steps and their exports
for Hugging Face. The names that most of them have stay, and a checkpoint of another layout is
mapped to those, as :mod:`ckptdiff.pairing` does it for a diff. A tied head that some store and
others do not is there in all, as its twin. Nothing is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.dynamics.problems import Problem
from ckptdiff.naming.ties import Tie
from ckptdiff.pairing import AUTO, all_paired

__all__ = ["under_one_set_of_names"]

_NAMED_AT_MOST = 3


def under_one_set_of_names(
    labels: Sequence[str], checkpoints: Sequence[Checkpoint]
) -> tuple[list[Checkpoint], list[Problem]]:
    """The checkpoints, mapped where that gives more tensors a partner, and notes on what was done.

    ``labels`` are what they are called.
    """
    names = [tuple(checkpoint.names()) for checkpoint in checkpoints]
    counts = Counter(names)
    if len(counts) < 2:
        return list(checkpoints), []
    # of two as frequent, the first
    at = names.index(counts.most_common(1)[0][0])
    others = [index for index in range(len(checkpoints)) if index != at]
    most, tie, sides = all_paired(checkpoints[at], [checkpoints[index] for index in others], AUTO)
    result = list(checkpoints)
    result[at] = most
    ties = {} if tie is None else {at: tie}
    notes = []
    for index, one in zip(others, sides, strict=True):
        result[index] = one.a
        if one.map is not None:
            text = f"names are mapped by {one.map} ({one.map_found:,} tensors)"
            notes.append(Problem("mapped", f"{labels[index]}: {text}", (labels[index],)))
        if one.tie_a is not None:
            ties[index] = one.tie_a
    return result, notes + _tied(labels, ties)


def _tied(labels: Sequence[str], ties: Mapping[int, Tie]) -> list[Problem]:
    """A note for those together that lack the same head."""
    alike: dict[tuple[str, str], list[str]] = {}
    for index in sorted(ties):
        alike.setdefault((ties[index].name, ties[index].twin), []).append(labels[index])
    return [
        Problem(
            "tied",
            f"{_who(those)} not store {name}: its tied twin {twin} is compared, "
            "and counts as a tensor",
            tuple(those),
        )
        for (name, twin), those in alike.items()
    ]


def _who(labels: Sequence[str]) -> str:
    rest = len(labels) - _NAMED_AT_MOST
    some = ", ".join(labels[:_NAMED_AT_MOST]) + (f" and {rest:,} more" if rest > 0 else "")
    return f"{some} {'does' if len(labels) == 1 else 'do'}"
