"""Brings the checkpoints of a series under one set of names, whoever wrote each of them.

A run can have checkpoints of a trainer and of a library: OLMo-core's own steps and their exports
for Hugging Face. The names that most of them have stay, and a checkpoint of another layout is
mapped to those, as :mod:`ckptdiff.naming.mapping` does for a diff. Nothing is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ckptdiff.checkpoint import Checkpoint

__all__ = ["under_one_set_of_names"]


def under_one_set_of_names(
    checkpoints: Sequence[Checkpoint],
) -> tuple[list[Checkpoint], dict[int, str]]:
    """The checkpoints, mapped where that gives more tensors a partner, and which were, and how."""
    names = [tuple(checkpoint.names()) for checkpoint in checkpoints]
    counts = Counter(names)
    if len(counts) < 2:
        return list(checkpoints), {}
    from ckptdiff.naming.mapping import find_map, mapped

    # of two as frequent, the first
    most = checkpoints[names.index(counts.most_common(1)[0][0])]
    result = []
    told: dict[int, str] = {}
    for index, checkpoint in enumerate(checkpoints):
        name_map = None if checkpoint is most else find_map(checkpoint, most)
        if name_map is not None:
            checkpoint = mapped(checkpoint, name_map)
            told[index] = f"{name_map.name} ({name_map.found:,} tensors)"
        result.append(checkpoint)
    return result, told
