"""Sums of parameters that are spread over processes, merged so that every process has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ckptdiff.backends.processes import in_a_line
from ckptdiff.backends.torch.shards import gathered
from ckptdiff.callbacks.sums import Sums

__all__ = ["Failures", "merge_over_processes"]

#: Parameters by number, of each tuple of process groups that together hold them.
Groups = Mapping[tuple[Any, ...], Sequence[int]]


class Failures:
    """What went wrong here while others are at work that they will want to merge."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep an error of the block, to be raised when the others know."""
        try:
            yield
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            self.error = error


def merge_over_processes(sums: list[Sums], groups: Groups, failures: Failures) -> None:
    """Replace the sums of what each process holds by those of whole parameters.

    Parts are added up in the order of ranks, so that all processes have the very same numbers.

    Raises the error that was kept; ValueError, with its words, where it was another process's.
    """
    message = None if failures.error is None else in_a_line(failures.error)
    for members, numbers in groups.items():
        own: list[Sums] | str = message or [sums[number] for number in numbers]
        for group in members:
            own = _merged(gathered((group,), [own]))
        if isinstance(own, str):
            message = message or own
            continue
        for number, merged in zip(numbers, own, strict=True):
            sums[number] = merged
    if failures.error is not None:
        raise failures.error
    if message is not None:
        raise ValueError(f"another process failed with {message}")


def _merged(parts: Sequence[list[Sums] | str]) -> list[Sums] | str:
    """The sums of all members, or the first failure."""
    of_all: list[list[Sums]] = []
    for part in parts:
        if isinstance(part, str):
            return part
        of_all.append(part)
    merged = []
    for of_parameter in zip(*of_all, strict=True):
        total = Sums()
        for each in of_parameter:
            total.merge(each)
        merged.append(total)
    return merged
