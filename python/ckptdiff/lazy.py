"""A sequence whose items are made when they are asked for, so that its length costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Generic, TypeVar, overload

__all__ = ["LazySequence"]

Key = TypeVar("Key")
Item = TypeVar("Item")

_SHOWN = 3


class LazySequence(Sequence[Item], Generic[Key, Item]):
    """``make(key)`` for each of some keys; a slice is as lazy as the whole."""

    __slots__ = ("_keys", "_make")

    def __init__(self, keys: Sequence[Key], make: Callable[[Key], Item]) -> None:
        self._keys = keys
        self._make = make

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> LazySequence[Key, Item]: ...
    def __getitem__(self, index: int | slice) -> Item | LazySequence[Key, Item]:
        if isinstance(index, slice):
            return LazySequence(self._keys[index], self._make)
        return self._make(self._keys[index])

    def __repr__(self) -> str:
        shown = [repr(item) for item in islice(self, _SHOWN)]
        rest = len(self) - len(shown)
        if rest:
            shown.append(f"... and {rest:,} more")
        return f"[{', '.join(shown)}]"
