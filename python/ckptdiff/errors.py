"""What can go wrong with a checkpoint, each kind a subclass of the nearest builtin.

So ``except FileNotFoundError`` and ``except ValueError`` do what a caller expects, and a caller
who wants only ours can name it. The core raises the same classes. Every message is one line that
says which file or tensor, what was expected and what was found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff._core import CheckpointNotFoundError, CheckpointReadError, InvalidCheckpointError

if TYPE_CHECKING:
    from ckptdiff.config import ConfigDifference

__all__ = [
    "ArchitectureMismatchError",
    "CheckpointNotFoundError",
    "CheckpointReadError",
    "InvalidCheckpointError",
]


class ArchitectureMismatchError(ValueError):
    """The two checkpoints of a diff are models of different architectures, by their configs.

    ``differences`` are the fields of the architecture in which the configs differ; ``summary`` is
    the message without them.
    """

    def __init__(self, summary: str, differences: tuple[ConfigDifference, ...]) -> None:
        fields = ", ".join(f"{part.field} {part.a} and {part.b}" for part in differences)
        super().__init__(f"{summary}: {fields}")
        self.summary = summary
        self.differences = differences
