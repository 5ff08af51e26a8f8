"""Which tensor of A is held against which of B: renames, then a map of names, then globs.

1. Rename rules make A's names what the user says they are.
2. A map brings those of A's tensors that have no partner under B's names, cut up, put together and
   transposed where B stores them so. It is found where both sides' layouts are known, unless the
   user names one, gives a file, or wants none. A tied weight that one side does not store is there
   as its twin.
3. Globs see the names that come of that, on both sides.

Where all names agree, none of this costs anything.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING

from ckptdiff._core import Pairing
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.naming.rules import Named, Rules, apply_rules, unmatched

if TYPE_CHECKING:
    from ckptdiff.naming.ties import Tie

__all__ = ["AUTO", "Sides", "all_paired", "check_map", "named_as", "pair"]

AUTO = "auto"
NONE = "none"

#: Where a smaller share of a side's tensors has a partner, the user is told how to look for more.
_FEW = 0.1


@dataclass(frozen=True, slots=True)
class Sides:
    """Two checkpoints, paired. ``map`` is the map's name or file, None where there is none.

    ``map_found`` counts the tensors that it made, ``tie_a`` and ``tie_b`` are the weights that a
    side does not store and was given. ``remarks`` say all of that, ``notes`` what may be a slip of
    the user's.
    """

    a: Checkpoint
    b: Checkpoint
    named_a: Named
    named_b: Named
    pairing: Pairing
    map: str | None = None
    map_found: int = 0
    tie_a: Tie | None = None
    tie_b: Tie | None = None
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_map(choice: str | PathLike[str] | None) -> str:
    """What ``map=`` says: ``auto``, ``none``, the name of a map, or the path of a file.

    Raises ValueError, with the nearest name, for a name that is none, and FileNotFoundError for
    a path where there is no file.
    """
    if choice is None:
        return NONE
    if choice in (AUTO, NONE):
        return str(choice)
    if not isinstance(choice, str):
        return os.fsdecode(choice)
    from ckptdiff.naming.mapping import named_maps

    names = [AUTO, NONE, *named_maps()]
    if choice in names or os.path.isfile(choice):
        return choice
    if os.sep in choice or choice.endswith(".toml"):
        raise FileNotFoundError(f"{choice}: no such map file")
    from ckptdiff.suggest import unknown

    raise ValueError(unknown("map", choice, names))


def pair(
    a: Checkpoint,
    b: Checkpoint,
    rules: Rules,
    choice: str,
    *,
    called: tuple[str, str] = ("A", "B"),
) -> Sides:
    """Pair the tensors of two checkpoints by ``rules`` and a map, as :func:`check_map` returns it.

    ``called`` is what the remarks call the two.

    Raises ValueError where two tensors would have one name, and what reading a map's file raises.
    """
    sides = _by_names(a, b, rules)
    if choice == NONE:
        return sides
    names = None
    if rules.renames:
        names = apply_rules(a.names(), Rules(renames=rules.renames), rules.renames).names
    every = sides.pairing
    if rules.include or rules.exclude:
        every = Pairing(a.manifest, b.manifest, names)
    if choice == AUTO and not (every.only_in_a or every.only_in_b):
        return sides
    renamed = a.names() if names is None else [name or "" for name in names]
    return _by_map(sides, renamed, every, rules, choice, called)


def named_as(
    target: Checkpoint, parts: Sequence[Checkpoint], choice: str
) -> tuple[Checkpoint, list[Checkpoint], tuple[str, ...]]:
    """The target, the parts under its names by a map, and a remark for each thing done.

    The target too is another where it does not store a tied weight that a part does.
    """
    called = [f"part {number}" for number in range(1, len(parts) + 1)]
    target, tie, sides = all_paired(target, parts, choice, called=(called, "the target"))
    remarks = [remark for one in sides for remark in one.remarks]
    if tie is not None:
        remarks.insert(0, _tied("the target", tie))
    return target, [one.a for one in sides], tuple(remarks)


def all_paired(
    target: Checkpoint,
    parts: Sequence[Checkpoint],
    choice: str,
    *,
    called: tuple[Sequence[str], str] | None = None,
) -> tuple[Checkpoint, Tie | None, list[Sides]]:
    """Each part paired with the target as :func:`pair` does it; ``called`` is as there.

    The target too is another where it does not store a tied weight that a part does: that is then
    given to it, and to each part that does not store it either.
    """
    names, of_target = called or ([""] * len(parts), "")
    tie: Tie | None = None
    while True:
        sides = [
            pair(part, target, Rules(), choice, called=(name, of_target))
            for name, part in zip(names, parts, strict=True)
        ]
        grown = next((one for one in sides if one.b is not target), None)
        if grown is None:
            return target, tie, sides
        # there is one head only, so this comes once
        target, tie = grown.b, grown.tie_b


def _by_names(a: Checkpoint, b: Checkpoint, rules: Rules) -> Sides:
    named_a, named_b = Named(None), _chosen(b, rules)
    if rules != Rules():
        named_a = apply_rules(a.names(), rules, rules.renames)
    pairing = Pairing(a.manifest, b.manifest, named_a.for_core, named_b.for_core)
    return Sides(a, b, named_a, named_b, pairing, notes=tuple(unmatched(rules, named_a, named_b)))


def _chosen(checkpoint: Checkpoint, rules: Rules) -> Named:
    """What the globs leave of a checkpoint, under the names it has."""
    if rules.include or rules.exclude:
        return apply_rules(checkpoint.names(), rules, ())
    return Named(None)


def _by_map(
    sides: Sides,
    renamed: list[str],
    every: Pairing,
    rules: Rules,
    choice: str,
    called: tuple[str, str],
) -> Sides:
    from ckptdiff.naming.mapping import find_map, layouts_of, mapped, named_maps

    a, b = sides.a, sides.b
    by_layout = choice == AUTO or choice in named_maps()
    map_name: str | None = None
    map_found = 0
    remarks: list[str] = []
    notes: list[str] = []
    if not by_layout:
        from ckptdiff.naming.map_file import read_map

        applied = read_map(choice).apply(a, renamed)
        a, renamed, map_name = applied.checkpoint, applied.checkpoint.names(), choice
        every = Pairing(a.manifest, b.manifest)
        remarks.append(f"{called[0]} is mapped by {choice} ({_tensors(applied.changed)})")
        notes += applied.unmatched
    twins = _with_twins(a, b, renamed, every)
    tie_a = tie_b = None
    if twins is not None:
        a, b, renamed, tie_a, tie_b = twins
        remarks += [
            _tied(side, tie)
            for side, tie in zip(called, (tie_a, tie_b), strict=True)
            if tie is not None
        ]
        every = Pairing(a.manifest, b.manifest, list(renamed))
    if by_layout:
        layouts = None if choice == AUTO else layouts_of(choice)
        found = find_map(a, b, names=renamed, pairing=every, layouts=layouts)
        if found is not None:
            a, map_name, map_found = mapped(a, found), found.name, found.found
            how = f"by {found.name} ({_tensors(found.found)})"
            remarks.insert(0, f"{called[0]} is mapped to {called[1]}'s names {how}")
        elif choice != AUTO:
            notes.append(f"map {choice!r} gives no tensor a partner")
    if a is sides.a and b is sides.b:
        return replace(sides, notes=(*sides.notes, *notes, *_hint(sides, rules)))
    named_a = sides.named_a
    if a is not sides.a:
        # its names are final now, and have been through the rename rules
        renames = {rule for rule in named_a.matched if rule.startswith("rename ")}
        named_a = _chosen(a, rules)
        named_a = replace(named_a, matched=named_a.matched | renames)
    named_b = _chosen(b, rules)
    pairing = Pairing(a.manifest, b.manifest, named_a.for_core, named_b.for_core)
    made = Sides(a, b, named_a, named_b, pairing, map_name, map_found, tie_a, tie_b, tuple(remarks))
    return replace(made, notes=(*unmatched(rules, named_a, named_b), *notes, *_hint(made, rules)))


def _with_twins(
    a: Checkpoint, b: Checkpoint, renamed: list[str], every: Pairing
) -> tuple[Checkpoint, Checkpoint, list[str], Tie | None, Tie | None] | None:
    """Both sides with the tied weight that one of them does not store, A's names, each side's tie.

    None where no side lacks one.
    """
    from ckptdiff.naming.parts import Model
    from ckptdiff.naming.ties import find_tie, may_be_head, with_twin

    names_b = b.names()
    head_in_a = may_be_head(renamed, every.only_in_a)
    head_in_b = may_be_head(names_b, every.only_in_b)
    if head_in_a == head_in_b:
        return None
    model_a, model_b = Model(renamed, a.manifest), Model(names_b, b.manifest)
    if head_in_a:
        tie = find_tie(b, model_b, a, model_a, every.only_in_b)
        if tie is None:
            return None
        return a, with_twin(b, names_b, tie), renamed, None, tie
    tie = find_tie(a, model_a, b, model_b, every.only_in_a)
    if tie is None:
        return None
    a = with_twin(a, renamed, tie)
    return a, b, a.names(), tie, None


def _tied(side: str, tie: Tie) -> str:
    return (
        f"{side} does not store {tie.name}: its tied twin {tie.twin} is compared, "
        "and counts as a tensor"
    )


def _hint(sides: Sides, rules: Rules) -> list[str]:
    smaller = min(len(sides.a), len(sides.b))
    partners = len(sides.pairing) + len(sides.pairing.shape_mismatch)
    if rules.include or rules.exclude or not smaller or partners >= _FEW * smaller:
        return []
    share = "no tensor has" if not partners else f"only {_tensors(partners)} have"
    return [
        f"{share} a partner; --propose-map - prints a map, looked for by content, shape and name"
    ]


def _tensors(count: int) -> str:
    return f"{count:,} tensor{'' if count == 1 else 's'}"
