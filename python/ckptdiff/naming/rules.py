"""Which tensors are compared, and under which name.

Rename rules bring A's names to B's: each is a regular expression and a replacement, applied in
order wherever it is found in the name, as :func:`re.sub` does. Then globs choose: with ``include``
a name must match one of them, and it must match none of ``exclude``. Globs see the name after
renaming, ``*`` crosses dots, and case counts.

A rule that matches nothing is most often a slip of the pen, so :func:`apply_rules` reports it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

__all__ = ["CHOICES", "Named", "Rename", "Rules", "apply_rules", "parse_rename", "unmatched"]


@dataclass(frozen=True, slots=True)
class Rename:
    """Replace what ``pattern`` finds in a name by ``replacement`` (``\\1`` is the first group)."""

    pattern: re.Pattern[str]
    replacement: str

    def __str__(self) -> str:
        return f"{self.pattern.pattern}={self.replacement}"


def parse_rename(rule: str | tuple[str, str]) -> Rename:
    r"""Make a rule of ``REGEX=REPLACEMENT``, or of the two as a pair.

    The text is split at its last ``=``, so that a regular expression may hold one, as
    ``(?=...)`` does; a replacement with ``=`` needs the pair.

    >>> rename = parse_rename(r"^blocks\.(\d+)=model.layers.\1")
    >>> rename.pattern.sub(rename.replacement, "blocks.7.w")
    'model.layers.7.w'

    Raises ValueError where there is no ``=``, where the expression does not compile and where the
    replacement refers to a group that does not exist.
    """
    if isinstance(rule, str):
        expression, equals, replacement = rule.rpartition("=")
        if not equals:
            raise ValueError(f"rename {rule!r} has no '=': it is REGEX=REPLACEMENT")
    else:
        expression, replacement = rule
    if not expression:
        raise ValueError(f"rename {rule!r} has an empty regular expression")
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ValueError(f"rename {expression!r} is no regular expression: {error}") from error
    try:
        pattern.sub(replacement, "")
    except (re.error, IndexError) as error:
        message = f"rename {expression!r} has the bad replacement {replacement!r}: {error}"
        raise ValueError(message) from error
    return Rename(pattern, replacement)


@dataclass(frozen=True, slots=True)
class Rules:
    """The globs and rename rules of one run. ``renames`` apply to A's names only."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    renames: tuple[Rename, ...] = ()

    @classmethod
    def of(
        cls,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        rename: str | Iterable[str | tuple[str, str]] = (),
    ) -> Rules:
        """Rules from what a caller gives: one string or several of each kind."""
        return cls(
            include=_as_tuple(include),
            exclude=_as_tuple(exclude),
            renames=tuple(
                parse_rename(rule) for rule in ([rename] if isinstance(rename, str) else rename)
            ),
        )


#: Why a tensor is left out, or not, by the codes of :attr:`Named.choices`. The last is no choice of
#: the globs: its dtype cannot be decoded.
CHOICES = ("kept", "not_included", "excluded", "unsupported_dtype")
_UNSUPPORTED = CHOICES.index("unsupported_dtype")


@dataclass(frozen=True, slots=True)
class Named:
    """The outcome for one checkpoint.

    ``names[i]`` is the name under which tensor ``i`` is compared, None if it is left out; the
    whole list is None where no name was changed. ``choices[i]`` is what
    the globs made of tensor ``i``, as an index of :data:`CHOICES`; it is empty where all are kept,
    a byte each elsewhere, as there can be a million. ``renames`` are those the names went through.
    ``matched`` holds the rules (as text) that matched at least one name.
    """

    names: list[str | None] | None
    choices: bytes = b""
    renames: tuple[Rename, ...] = ()
    matched: frozenset[str] = frozenset()

    @property
    def for_core(self) -> list[str | None] | bytes | None:
        """What the core needs to know: names where there are new ones, else which are kept."""
        return self.names if self.names is not None else self.choices or None

    @property
    def left_out(self) -> int:
        """How many tensors the globs leave out."""
        return len(self.choices) - self.choices.count(0) - self.choices.count(_UNSUPPORTED)

    def keeps(self, index: int) -> bool:
        """Whether the globs leave tensor ``index`` in."""
        return not self.choices or self.choices[index] == 0

    def without_unsupported(self, unsupported: Sequence[int], tensors: int) -> Named:
        """The same, but for tensors whose dtype cannot be decoded, of the ``tensors`` there are.

        Where that would leave none it is as it was, so that reading fails with the first of them.
        Names must be those of the checkpoint.
        """
        choices = bytearray(self.choices or bytes(tensors))
        for index in unsupported:
            if choices[index] == 0:
                choices[index] = _UNSUPPORTED
        return replace(self, choices=bytes(choices)) if 0 in choices else self

    def reasons(self, stored: Sequence[str]) -> Iterator[tuple[str, str]]:
        """(reason, name that the globs saw) of each tensor left out, of the names ``stored``."""
        for choice, name in zip(self.choices, stored, strict=False):
            if choice:
                yield CHOICES[choice], _renamed(name, self.renames)


def apply_rules(stored: Sequence[str], rules: Rules, renames: Sequence[Rename]) -> Named:
    """Rename ``stored`` by ``renames``, then choose by the globs of ``rules``.

    Raises ValueError where two tensors would be compared under one name.
    """
    matched: set[str] = set()
    renamed = _rename(stored, renames, matched) if renames else stored
    include = [(glob, re.compile(fnmatch.translate(glob))) for glob in rules.include]
    exclude = [(glob, re.compile(fnmatch.translate(glob))) for glob in rules.exclude]
    names: list[str | None] | None = [] if renames else None
    choices = bytearray()
    for name in renamed:
        # every glob is tried, not only the first that matches: an unused one is reported
        including = [glob for glob, pattern in include if pattern.match(name)]
        excluding = [glob for glob, pattern in exclude if pattern.match(name)]
        matched.update(f"include {glob}" for glob in including)
        matched.update(f"exclude {glob}" for glob in excluding)
        choice = "excluded" if excluding else "kept" if including or not include else "not_included"
        choices.append(CHOICES.index(choice))
        if names is not None:
            names.append(name if choice == "kept" else None)
    if names is not None:
        _refuse_collisions(stored, names)
    return Named(names, bytes(choices), tuple(renames), frozenset(matched))


def unmatched(rules: Rules, *outcomes: Named) -> list[str]:
    """One line for each glob or rename rule that matched no name of any outcome."""
    matched = frozenset[str]().union(*(outcome.matched for outcome in outcomes))
    wanted = [
        *(f"include {glob}" for glob in rules.include),
        *(f"exclude {glob}" for glob in rules.exclude),
        *(f"rename {rename}" for rename in rules.renames),
    ]
    lines = []
    for rule in wanted:
        if rule not in matched:
            kind, _, text = rule.partition(" ")
            lines.append(f"{kind} {text!r} matches no tensor")
    return lines


def _rename(stored: Sequence[str], renames: Sequence[Rename], matched: set[str]) -> list[str]:
    names = list(stored)
    for rename in renames:
        pattern, replacement = rename.pattern, rename.replacement
        found = 0
        for index, name in enumerate(names):
            names[index], count = pattern.subn(replacement, name)
            found += count
        if found:
            matched.add(f"rename {rename}")
    return names


def _renamed(name: str, renames: Iterable[Rename]) -> str:
    for rename in renames:
        name = rename.pattern.sub(rename.replacement, name)
    return name


def _refuse_collisions(stored: Sequence[str], names: Sequence[str | None]) -> None:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name is None:
            continue
        other = first.setdefault(name, index)
        if other != index:
            raise ValueError(
                f"rename makes {name!r} of both {stored[other]!r} and {stored[index]!r}"
            )


def _as_tuple(globs: str | Iterable[str]) -> tuple[str, ...]:
    return (globs,) if isinstance(globs, str) else tuple(globs)
