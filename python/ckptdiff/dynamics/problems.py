"""What is wrong, or only worth knowing, about a series: one line each, and what it is about.

A problem makes the series unsound: something is missing, damaged, twice there or not what its label
says, and what is concluded from the numbers may be wrong. A note is neither an error nor silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["KINDS", "PROBLEM_KINDS", "Problem", "in_order", "is_sound"]

#: The kinds that make a series unsound, and what each says.
PROBLEM_KINDS: dict[str, str] = {
    "not_found": "a checkpoint that was listed is not there",
    "damaged": "a checkpoint that cannot be opened or read; it is left out",
    "architecture": "a checkpoint of another architecture; it is left out",
    "missing_step": "a step that the interval of its branch promises and that is not there",
    "duplicate": "checkpoints that are byte-identical under different labels",
    "label_mismatch": "a label that does not fit what the checkpoint says of itself",
    "unreadable": "a file beside the weights, which tells of the training, cannot be read",
    "not_common": "a tensor that not all checkpoints have in one shape; it is left out",
}

#: All kinds in the order in which they are shown: problems, then notes.
KINDS: dict[str, str] = {
    **PROBLEM_KINDS,
    "uneven_interval": "steps that are not at the interval of their branch",
    "listed_twice": "a checkpoint that was given more than once; it is read once",
    "no_position": "a checkpoint of which no step is known",
    "stage_assumed": "checkpoints of which no stage is known, taken for those of stage 1",
    "soup_assumed": "a checkpoint that tells no ingredient where others do, taken for their soup",
    "tokens_restart": "fewer tokens than an earlier checkpoint of the branch",
    "mapped": "a checkpoint whose tensors have other names, which are mapped to those of most",
    "tied": "checkpoints that do not store a head which others do; its tied twin is compared",
    "not_a_member": "a checkpoint beside the series that is no part of it",
    "diverged": "a checkpoint of which more than 1 % is not finite; it is compared with no other",
    "unmatched_rule": "a glob that matches no tensor",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. ``kind`` is a key of :data:`KINDS`, ``text`` one line that stands alone.

    ``labels`` are the checkpoints that it is about, those too that are left out of the series.
    """

    kind: str
    text: str
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind

    @property
    def is_note(self) -> bool:
        """Whether the series is sound in spite of it."""
        return self.kind not in PROBLEM_KINDS


def is_sound(problems: Iterable[Problem]) -> bool:
    """Whether there are notes at most."""
    return all(problem.is_note for problem in problems)


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems before notes, by kind; those of a kind as they were found."""
    rank = {kind: number for number, kind in enumerate(KINDS)}
    return tuple(sorted(problems, key=lambda problem: rank[problem.kind]))
