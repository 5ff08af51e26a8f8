"""What can go wrong with a checkpoint, each kind a subclass of the nearest builtin.

So ``except FileNotFoundError`` and ``except ValueError`` do what a caller expects, and a caller
who wants only ours can name it. The core raises the same classes. Every message is one line that
says which file or tensor, what was expected and what was found.
"""

from ckptdiff._core import CheckpointNotFoundError, CheckpointReadError, InvalidCheckpointError

__all__ = ["CheckpointNotFoundError", "CheckpointReadError", "InvalidCheckpointError"]
