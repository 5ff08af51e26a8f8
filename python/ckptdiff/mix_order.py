"""The mean of several parts in float32, and the order in which it was summed.

Float32 addition rounds each sum, so the mean of three parts and more depends on their order, by a
representable step here and there. Who made a soup need not have summed in the order in which its
parts are named now. Where the order given is not exact the others are tried, of few parts: first on
a few tensors, which tells nearly all of them, and on all tensors only where those agree.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ckptdiff import _core
from ckptdiff.checkpoint import Checkpoint

__all__ = ["ORDERED_AT_MOST", "Mean", "Means", "compared_with_mean"]

#: Of more parts no other order is tried than the one given: there are too many.
ORDERED_AT_MOST = 4

_TENSORS_TRIED_FIRST = 3


class Mean(NamedTuple):
    """How far a tensor of the target is from the mean of the parts."""

    name: str
    numel: int
    mismatches: int
    max_ulp: int


class Means(NamedTuple):
    """``tensors`` in natural order; ``order`` has the places of the parts as they were summed.

    ``passes`` is how often all tensors were read.
    """

    tensors: Sequence[Mean]
    order: tuple[int, ...]
    passes: int


def compared_with_mean(
    checkpoints: Sequence[Checkpoint],
    names: Sequence[Sequence[str | None] | bytes | None],
    *,
    threads: int,
    isa: str | None,
    io: str,
    on_progress: Callable[[int, int], object] | None,
) -> Means:
    """Hold the target, which is the last, against the mean of the others, rounded to its dtype.

    The order of the parts is one in which every element agrees, if any of those tried is such a
    one, else the one given. ``names`` are as for the core: under which a tensor is compared, or
    whether it is. Progress is that of the pass in the order given.
    """
    count = len(checkpoints) - 1
    manifests = [checkpoint.manifest for checkpoint in checkpoints]

    def pass_over(
        names: Sequence[Sequence[str | None] | bytes | None],
        order: Sequence[int],
        on_progress: Callable[[int, int], object] | None = None,
    ) -> list[Mean]:
        rows = _core.rounded_mean(
            manifests[-1],
            [manifests[place] for place in order],
            names[-1],
            [names[place] for place in order],
            threads=threads,
            isa=isa,
            io=io,
            on_progress=on_progress,
        )
        return [Mean(*row) for row in rows]

    given = tuple(range(count))
    means = pass_over(names, given, on_progress)
    differing = sorted((mean for mean in means if mean.mismatches), key=lambda mean: mean.numel)
    passes = 1
    if differing and count <= ORDERED_AT_MOST:
        few = [mean.name for mean in differing[:_TENSORS_TRIED_FIRST]]
        only_few = [_only(few, checkpoint) for checkpoint in checkpoints]
        for order in _other_orders(count):
            if any(mean.mismatches for mean in pass_over(only_few, order)):
                continue
            passes += 1
            reordered = pass_over(names, order)
            if not any(mean.mismatches for mean in reordered):
                return Means(reordered, order, passes)
    return Means(means, given, passes)


def _other_orders(count: int) -> Iterator[tuple[int, ...]]:
    """Those in which a sum can differ from the given one; the first two are summed either way."""
    orders = itertools.permutations(range(count))
    return (
        order
        for order in orders
        if order[:2] == tuple(sorted(order[:2])) and order != tuple(range(count))
    )


def _only(names: Sequence[str], checkpoint: Checkpoint) -> bytes:
    """For the core: which tensors are left out (1), and which not."""
    choices = bytearray(b"\1" * len(checkpoint))
    for name in names:
        index = checkpoint.manifest.find(name)
        if index is not None:
            choices[index] = 0
    return bytes(choices)
