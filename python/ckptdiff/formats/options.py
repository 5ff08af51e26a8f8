"""What is wanted of a checkpoint that holds more than weights: the options of opening one."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WEIGHTS", "OpenOptions"]


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """Which part of a checkpoint is meant.

    ``key`` is the dotted path of a subtree of nested dictionaries (``model``), whose tensors are
    then named from there. ``optimizer`` includes optimizer state, which is left out otherwise.
    """

    key: str | None = None
    optimizer: bool = False

    def refuse_key(self, path: str, format: str) -> None:  # noqa: A002
        """For a format that has tensors by name and nothing nested: raise ValueError for a key."""
        if self.key is not None:
            raise ValueError(
                f"{path}: {format} has names and nothing nested, so no key {self.key!r} to select"
            )


#: The weights of the whole checkpoint.
WEIGHTS = OpenOptions()
