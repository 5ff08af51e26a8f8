"""A map of names that the user has written: a TOML file of rules, applied in their order.

::

    [names]                              # first: single tensors, old name = new name
    "wte" = "model.embed_tokens.weight"

    [[rule]]                             # anywhere in the name, as --rename does
    rename = '^blocks\\.(\\d+)\\.'
    to = 'model.layers.\\1.'

    [[rule]]                             # along the first dimension; without sizes in equal parts
    split = '(.*)\\.qkv\\.weight'
    to = ['\\1.q.weight', '\\1.k.weight', '\\1.v.weight']
    sizes = [4096, 1024, 1024]

    [[rule]]                             # along the first dimension, in this order
    concatenate = '(.*)\\.gate\\.weight'
    with = ['\\1.up.weight']
    to = '\\1.gate_up.weight'

    [[rule]]                             # axes as numpy.transpose has them, reversed without
    transpose = '(.*)\\.kernel'
    to = '\\1.weight'

Each rule sees what those before it have made. The expressions of the last three must match the
whole name. A rule that does not fit a tensor is an error that names file, rule and tensor.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.naming.mapping import Item
from ckptdiff.naming.parts import Shape
from ckptdiff.naming.rules import parse_rename

__all__ = ["SCHEMA", "Applied", "MapFile", "read_map"]

SCHEMA = "ckptdiff.map/1"

_MORE_PARTS_THAN_ANY_MODEL = 4096


class Applied(NamedTuple):
    """A checkpoint under the names of a map. ``changed`` counts the tensors that are called or cut
    otherwise; ``unmatched`` says which rules found nothing.
    """

    checkpoint: Checkpoint
    changed: int
    unmatched: tuple[str, ...]


class _Made(NamedTuple):
    """A tensor that a rule makes, and the one that its name says it comes from."""

    item: Item
    origin: str


class _Tensors:
    """The tensors that a rule sees, by name."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.names = checkpoint.names()
        self._manifest = checkpoint.manifest

    def index(self, name: str) -> int | None:
        return self._manifest.find(name)

    def shape(self, index: int) -> Shape:
        return self._manifest.tensors([index])[0][2]


@dataclass(frozen=True, slots=True)
class _Rule(ABC):
    """``where`` names file and rule, for messages; ``pattern`` matches whole names."""

    where: str
    pattern: re.Pattern[str]

    @abstractmethod
    def make(self, name: str, index: int, match: re.Match[str], tensors: _Tensors) -> list[_Made]:
        """The tensors that come of one which the pattern matches. Raises ValueError."""

    def used(self, match: re.Match[str]) -> tuple[str, ...]:
        """Other tensors that the rule uses up with this one."""
        del match
        return ()

    def refuse(self, name: str, problem: str) -> ValueError:
        """The error for a tensor that does not fit."""
        return ValueError(f"{self.where}: tensor {name!r} {problem}")


@dataclass(frozen=True, slots=True)
class _Split(_Rule):
    to: tuple[str, ...]
    sizes: tuple[int, ...] | None

    def make(self, name: str, index: int, match: re.Match[str], tensors: _Tensors) -> list[_Made]:
        shape = tensors.shape(index)
        if not shape:
            raise self.refuse(name, "is a scalar, which cannot be split")
        sizes = self.sizes
        if sizes is None:
            if shape[0] % len(self.to):
                raise self.refuse(name, f"has {shape[0]} rows, not {len(self.to)} equal parts")
            sizes = (shape[0] // len(self.to),) * len(self.to)
        if sum(sizes) != shape[0]:
            raise self.refuse(name, f"has {shape[0]} rows, and the sizes add up to {sum(sizes)}")
        made, first = [], 0
        for template, rows in zip(self.to, sizes, strict=True):
            part = (rows, *shape[1:])
            run = (index, first, part, None)
            made.append(_Made((match.expand(template), part, (run,)), name))
            first += _elements(part)
        return made


@dataclass(frozen=True, slots=True)
class _Concatenate(_Rule):
    behind: tuple[str, ...]
    to: str

    def used(self, match: re.Match[str]) -> tuple[str, ...]:
        return tuple(match.expand(template) for template in self.behind)

    def make(self, name: str, index: int, match: re.Match[str], tensors: _Tensors) -> list[_Made]:
        shape = tensors.shape(index)
        if not shape:
            raise self.refuse(name, "is a scalar, which has no rows to put others behind")
        runs, rows = [(index, 0, shape, None)], shape[0]
        for other in self.used(match):
            found = tensors.index(other)
            if found is None:
                raise self.refuse(name, f"has no {other!r} to go with it")
            its_shape = tensors.shape(found)
            if its_shape[1:] != shape[1:] or not its_shape:
                raise self.refuse(
                    name, f"has shape {list(shape)}, and {other!r} has {list(its_shape)}"
                )
            runs.append((found, 0, its_shape, None))
            rows += its_shape[0]
        return [_Made((match.expand(self.to), (rows, *shape[1:]), tuple(runs)), name)]


@dataclass(frozen=True, slots=True)
class _Transpose(_Rule):
    to: str | None
    axes: tuple[int, ...] | None

    def make(self, name: str, index: int, match: re.Match[str], tensors: _Tensors) -> list[_Made]:
        shape = tensors.shape(index)
        axes = self.axes if self.axes is not None else tuple(reversed(range(len(shape))))
        if sorted(axes) != list(range(len(shape))):
            raise self.refuse(name, f"has {len(shape)} dimensions, and the axes are {list(axes)}")
        turned = tuple(shape[axis] for axis in axes)
        new = name if self.to is None else match.expand(self.to)
        return [_Made((new, turned, ((index, 0, shape, axes),)), name)]


@dataclass(frozen=True, slots=True)
class _Rename:
    where: str
    pattern: re.Pattern[str]
    to: str


@dataclass(frozen=True, slots=True)
class MapFile:
    """The rules of a file, for any checkpoint that has tensors of such names."""

    path: str
    names: Mapping[str, str]
    rules: tuple[_Rename | _Rule, ...]

    def applied_to(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint under the names of the map. Raises ValueError as :meth:`apply` does."""
        return self.apply(checkpoint, checkpoint.names()).checkpoint

    def apply(self, checkpoint: Checkpoint, names: Sequence[str]) -> Applied:
        """Apply every rule to a checkpoint whose tensors are called ``names``.

        Raises ValueError, which names file, rule and tensor, where a rule does not fit a tensor,
        or two tensors would have one name.
        """
        stored = checkpoint.names()
        unmatched = [
            f"{self.path}: [names] has {name!r}, which is no tensor"
            for name in self.names.keys() - set(names)
        ]
        unmatched.sort()
        new = [self.names.get(name, name) for name in names]
        checkpoint = _renamed(checkpoint, new, f"{self.path}: [names]")
        for rule in self.rules:
            if isinstance(rule, _Rename):
                before = checkpoint.names()
                new = [rule.pattern.sub(rule.to, name) for name in before]
                matches = new != before or any(map(rule.pattern.search, before))
                checkpoint = _renamed(checkpoint, new, rule.where)
            else:
                checkpoint, matches = _restructured(checkpoint, rule)
            if not matches:
                unmatched.append(f"{rule.where} matches no tensor")
        changed = len(set(checkpoint.names()) - set(stored))
        return Applied(checkpoint, changed, tuple(unmatched))


def read_map(path: str) -> MapFile:
    """Read a map.

    Raises FileNotFoundError and other OSErrors as :func:`open` does, and ValueError, which names
    the file and the rule and says what was expected, for anything that is no such map.
    """
    import tomllib

    with open(path, "rb") as file:
        try:
            content = tomllib.load(file)
        except ValueError as error:
            raise ValueError(f"{path}: not a map: it is no TOML: {error}") from None
    _only_keys(f"{path}: not a map", content, ("schema", "names", "rule"))
    if content.get("schema", SCHEMA) != SCHEMA:
        raise ValueError(f"{path}: expected schema {SCHEMA!r}, not {content['schema']!r}")
    names = content.get("names", {})
    if not isinstance(names, dict) or not all(isinstance(new, str) for new in names.values()):
        raise ValueError(f'{path}: [names]: expected lines of "old name" = "new name"')
    rules = content.get("rule", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise ValueError(f"{path}: 'rule': expected tables, each headed [[rule]]")
    if not names and not rules:
        raise ValueError(f"{path}: expected [names] or at least one [[rule]]; there is neither")
    return MapFile(
        path, names, tuple(_rule(path, number, rule) for number, rule in enumerate(rules, 1))
    )


Table: TypeAlias = dict[str, object]


def _rule(path: str, number: int, table: Table) -> _Rename | _Rule:
    kinds: dict[str, Callable[[str, str, Table], _Rename | _Rule]] = {
        "rename": _read_rename,
        "split": _read_split,
        "concatenate": _read_concatenate,
        "transpose": _read_transpose,
    }
    given = [kind for kind in kinds if kind in table]
    if len(given) != 1:
        raise ValueError(
            f"{path}: rule {number}: expected one of {', '.join(kinds)}, "
            f"not {' and '.join(given) or 'none of them'}"
        )
    expression = table[given[0]]
    where = f"{path}: rule {number} ({given[0]})"
    if not isinstance(expression, str):
        raise ValueError(f"{where}: expected a regular expression, not {expression!r}")
    return kinds[given[0]](where, expression, table)


def _read_rename(where: str, expression: str, table: Table) -> _Rename:
    _only_keys(where, table, ("rename", "to"))
    to = _template(where, expression, table.get("to"))
    return _Rename(where, re.compile(expression), to)


def _read_split(where: str, expression: str, table: Table) -> _Rule:
    _only_keys(where, table, ("split", "to", "sizes"))
    to = _templates(where, expression, "to", table.get("to"))
    sizes = table.get("sizes")
    if sizes is not None:
        sizes = _numbers(where, "sizes", sizes)
        if len(sizes) != len(to) or 0 in sizes:
            raise ValueError(f"{where}: expected {len(to)} sizes above 0, not {list(sizes)}")
    return _Split(where, re.compile(expression), to, sizes)


def _read_concatenate(where: str, expression: str, table: Table) -> _Rule:
    _only_keys(where, table, ("concatenate", "with", "to"))
    behind = _templates(where, expression, "with", table.get("with"))
    to = _template(where, expression, table.get("to"))
    return _Concatenate(where, re.compile(expression), behind, to)


def _read_transpose(where: str, expression: str, table: Table) -> _Rule:
    _only_keys(where, table, ("transpose", "to", "axes"))
    to, axes = table.get("to"), table.get("axes")
    return _Transpose(
        where,
        _compiled(where, expression),
        None if to is None else _template(where, expression, to),
        None if axes is None else _numbers(where, "axes", axes),
    )


def _compiled(where: str, expression: str) -> re.Pattern[str]:
    _template(where, expression, "")
    return re.compile(expression)


def _template(where: str, expression: str, value: object) -> str:
    """A replacement for what the expression matches, checked against it."""
    if not isinstance(value, str):
        raise ValueError(f"{where}: 'to': expected a name, not {value!r}")
    try:
        parse_rename((expression, value))
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('rename ')}") from None
    return value


def _templates(where: str, expression: str, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= _MORE_PARTS_THAN_ANY_MODEL:
        raise ValueError(f"{where}: {key!r}: expected a list of names, not {value!r}")
    return tuple(_template(where, expression, item) for item in value)


def _numbers(where: str, key: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise ValueError(f"{where}: {key!r}: expected a list of whole numbers, not {value!r}")
    return tuple(value)


def _only_keys(where: str, table: Table, known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            from ckptdiff.suggest import unknown

            raise ValueError(f"{where}: {unknown('key', key, known)}")


def _renamed(checkpoint: Checkpoint, names: Sequence[str], where: str) -> Checkpoint:
    before = checkpoint.names()
    if list(names) == before:
        return checkpoint
    origins = {new: old for new, old in zip(names, before, strict=True) if new != old}
    items = [(name, index) for index, name in enumerate(names)]
    return _derived(checkpoint, items, origins, where)


def _restructured(checkpoint: Checkpoint, rule: _Rule) -> tuple[Checkpoint, bool]:
    tensors = _Tensors(checkpoint)
    matches = [rule.pattern.fullmatch(name) for name in tensors.names]
    used = {name for match in matches if match is not None for name in rule.used(match)}
    items: list[Item] = []
    origins: dict[str, str] = {}
    for index, (name, match) in enumerate(zip(tensors.names, matches, strict=True)):
        if match is not None:
            for item, origin in rule.make(name, index, match, tensors):
                items.append(item)
                origins[item[0]] = origin
        elif name not in used:
            items.append((name, index))
    if not origins:
        return checkpoint, False
    return _derived(checkpoint, items, origins, rule.where), True


def _derived(
    checkpoint: Checkpoint, items: Sequence[Item], origins: Mapping[str, str], where: str
) -> Checkpoint:
    try:
        return checkpoint.deriving(items, origins)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _elements(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
