"""What a caller of :func:`ckptdiff.series` means: paths, lists, or labelled tensors in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, cast

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.dynamics.discover import Found, Search, find, read_list, tell_apart
from ckptdiff.dynamics.problems import Problem

if TYPE_CHECKING:
    from ckptdiff.api import CheckpointLike

__all__ = ["Candidate", "candidates_of"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint that may become part of a series: where it was found, and how to open it."""

    found: Found
    open: Callable[[], Checkpoint]


def candidates_of(
    checkpoints: CheckpointLike | Iterable[CheckpointLike] | Mapping[str, CheckpointLike],
    lists: str | PathLike[str] | Iterable[str | PathLike[str]],
    open_one: Callable[[CheckpointLike], Checkpoint],
) -> tuple[list[Candidate], list[Problem]]:
    """The checkpoints that are meant, and what is odd about them.

    Raises what :func:`~ckptdiff.dynamics.discover.find` and
    :func:`~ckptdiff.dynamics.discover.read_list` do, TypeError for a single checkpoint that is no
    path, and ValueError where two have one label.
    """
    labelled: list[tuple[str, CheckpointLike]] = []
    paths: list[str] = []
    if isinstance(checkpoints, (str, PathLike)):
        paths = [os.fspath(checkpoints)]
    elif isinstance(checkpoints, Checkpoint):
        raise TypeError("a series has several checkpoints, not one")
    elif isinstance(checkpoints, Mapping):
        labelled = list(cast("Mapping[str, CheckpointLike]", checkpoints).items())
    else:
        given = list(checkpoints)
        paths = [os.fspath(one) for one in given if isinstance(one, (str, PathLike))]
        if len(paths) < len(given):
            # the order in which they are given may be all that there is to order them by
            labelled = [(_label(one, at), one) for at, one in enumerate(given)]
            paths = []
    search = Search()
    find(paths, search)
    for file in [lists] if isinstance(lists, (str, PathLike)) else lists:
        read_list(os.fspath(file), search)
    tell_apart(search)
    candidates = [
        *(
            Candidate(Found(label, _path_of(one)), partial(open_one, one))
            for label, one in labelled
        ),
        *(Candidate(found, partial(open_one, found.path)) for found in search.found),
    ]
    seen: set[str] = set()
    for candidate in candidates:
        label = candidate.found.label
        if label in seen:
            raise ValueError(f"two checkpoints have the label {label!r}")
        seen.add(label)
    return candidates, search.problems


def _path_of(checkpoint: CheckpointLike) -> str:
    """The path of a checkpoint, empty in memory."""
    if isinstance(checkpoint, (str, PathLike)):
        return os.fspath(checkpoint)
    return (checkpoint.path or "") if isinstance(checkpoint, Checkpoint) else ""


def _label(checkpoint: CheckpointLike, at: int) -> str:
    """What to call a checkpoint that was given without a label: its file's name, or its number."""
    return os.path.basename(_path_of(checkpoint).rstrip("/")) or f"#{at}"
