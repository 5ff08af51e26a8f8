"""The list of attacks, and the decorator that fills it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Maker = Callable[[Path], Path]


class Attack(NamedTuple):
    """A hostile checkpoint: how it is made and what the message must say of it."""

    name: str
    make: Maker
    #: Texts that the message must contain, all of them: parts of file names, tensor names.
    says: tuple[str, ...]
    #: Commands that must refuse it; the others may do with it what they can.
    commands: tuple[str, ...]


ATTACKS: list[Attack] = []

EVERY_COMMAND = ("diff a", "diff b", "stats", "ls")
READING_COMMANDS = ("diff a", "diff b", "stats")


def attack(*says: str, commands: tuple[str, ...] = EVERY_COMMAND) -> Callable[[Maker], Maker]:
    def register(make: Maker) -> Maker:
        ATTACKS.append(Attack(make.__name__, make, says, commands))
        return make

    return register
