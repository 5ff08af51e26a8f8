"""A map brings the tensors of one checkpoint under the names, and into the shapes, of another's.

Both sides are taken apart into parts (see :mod:`ckptdiff.naming.parts`), and each tensor of the
target whose parts the other side has, wherever and however it stores them, is put together of
those. What has a partner of its own name already is left as it is, and so is what no layout knows,
but for the wrappers around its name. Nothing is read: the outcome is a manifest of the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from ckptdiff._core import Pairing
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.naming.hugging_face import HUGGING_FACE
from ckptdiff.naming.olmo import OLMO
from ckptdiff.naming.olmo_core import OLMO_CORE
from ckptdiff.naming.parts import Layout, Model, Part, Shape, Stored, turned, whole

__all__ = [
    "LAYOUTS",
    "AnyMap",
    "Item",
    "NameMap",
    "Taken",
    "find_map",
    "layouts_of",
    "mapped",
    "named_maps",
    "recognised",
]

LAYOUTS = (OLMO, OLMO_CORE, HUGGING_FACE)

#: (index, first element, shape, axes): a run of a tensor's elements, as ``Manifest.derived`` has it
Taken: TypeAlias = tuple[int, int, Shape, tuple[int, ...] | None]

#: A tensor as it is, under a name; or one of a shape, made of runs.
Item: TypeAlias = tuple[str, int] | tuple[str, Shape, tuple[Taken, ...]]

_WRAPPERS = "wrappers"

_TWICE = -1

#: Dtypes of which any run of elements is a run of bytes.
_PLAIN = frozenset(
    {
        *("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"),
        *("F16", "BF16", "F32", "F64", "C64", "C128"),
        *("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"),
    }
)


@dataclass(frozen=True, slots=True)
class NameMap:
    """What the tensors of a checkpoint become: made for it, and for :func:`mapped`.

    ``name`` says which map it is. ``items`` are all tensors that there are afterwards, for
    ``Manifest.derived``; ``origins`` gives for each that is called otherwise now, or is a part of
    what it was, what it is in the checkpoint. ``found`` counts the tensors that the map made.
    """

    name: str
    items: tuple[Item, ...]
    origins: Mapping[str, str]
    found: int

    def applied_to(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint, which is the one that the map was made for, in other tensors."""
        return checkpoint.deriving(self.items, self.origins)


class AnyMap(Protocol):
    """A map that was found, or one that was read from a file."""

    def applied_to(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with the tensors that the map makes of its own."""


class _Held(NamedTuple):
    """A part, and the tensor that has it among others, or not as it is."""

    tensor: int
    part: Part


#: What is in a tensor: one part, by its name, or more than that is to be said of.
_Content: TypeAlias = str | Stored


def named_maps() -> list[str]:
    """The maps that can be asked for by name: from one layout to another, or only wrappers off."""
    names = [layout.name for layout in LAYOUTS]
    return [f"{a}-to-{b}" for a in names for b in names if a != b] + ["hf-to-hf", _WRAPPERS]


def layouts_of(name: str) -> tuple[Layout | None, Layout | None]:
    """The layouts that a map's name says; no layouts where it only takes wrappers off."""
    layouts = {layout.name: layout for layout in LAYOUTS}
    a, _, b = name.partition("-to-")
    return layouts.get(a), layouts.get(b)


def recognised(model: Model) -> Layout | None:
    """The layout of a model's tensors, by the first name of a block; None for any other model."""
    for index, name in enumerate(model.names):
        if "blocks." in name or "layers." in name:
            stripped = model.stripped(index)
            for layout in LAYOUTS:
                if layout.block.match(stripped):
                    return layout
    return None


def find_map(
    a: Checkpoint,
    b: Checkpoint,
    *,
    names: Sequence[str] | None = None,
    pairing: Pairing | None = None,
    layouts: tuple[Layout | None, Layout | None] | None = None,
) -> NameMap | None:
    """The map from the tensors of ``a`` that have no partner to those of ``b`` that have none.

    ``names`` are those of ``a`` where they are not its own, ``pairing`` is what the two are
    without a map, ``layouts`` are those of both sides where they are not to be recognised. None
    where no tensor more would have a partner.
    """
    if pairing is None:
        pairing = Pairing(a.manifest, b.manifest, None if names is None else list(names))
    left_a, left_b = pairing.only_in_a, pairing.only_in_b
    if not left_a or not left_b:
        return None
    model_a = Model(a.names() if names is None else names, a.manifest)
    model_b = Model(b.names(), b.manifest)
    if layouts is None:
        layouts = recognised(model_a), recognised(model_b)
    layout_a, layout_b = layouts
    made: dict[int, int | _Made] = {}
    if layout_a is layout_b:
        # there can be a million of these, and what is in them is no question
        made.update(_by_stripped_name(model_a, model_b, left_a, left_b))
        alike = set(made.values())
        left_a = [index for index in left_a if index not in alike]
        left_b = [index for index in left_b if index not in made]
        del alike
    only_wrappers = True
    if left_a and left_b:
        held = _held((index, _content(model_a, index, layout_a)) for index in left_a)
        rest = _all_made(model_a, model_b, left_b, layout_b, held)
        only_wrappers = all(
            model_a.stripped(one if isinstance(one, int) else one.parts[0].tensor)
            == model_b.stripped(index)
            for index, one in rest.items()
        )
        made.update(rest)
        del held, rest
    if not made:
        return None
    items: list[Item] = []
    origins: dict[str, str] = {}
    used_whole: set[int] = set()
    used_parts: dict[int, set[str]] = {}
    item: Item
    for index_b, one in made.items():
        if isinstance(one, int):
            first, item = one, (model_b.names[index_b], one)
            used_whole.add(one)
        else:
            first, item = one.parts[0].tensor, one.item
            for index, part in one.parts:
                used_parts.setdefault(index, set()).add(part.name)
        items.append(item)
        if item[0] != model_a.names[first] or len(item) > 2:
            origins[item[0]] = model_a.names[first]
    for index, name in enumerate(model_a.names):
        if index in used_parts:
            content = _content(model_a, index, layout_a)
            for left in _left_over(name, index, content, used_parts[index]):
                items.append(left)
                origins[left[0]] = name
        elif index not in used_whole:
            items.append((name, index))
    map_name = (
        _WRAPPERS
        if only_wrappers or layout_a is None or layout_b is None
        else f"{layout_a.name}-to-{layout_b.name}"
    )
    return NameMap(map_name, tuple(items), origins, len(made))


def mapped(checkpoint: Checkpoint, name_map: AnyMap) -> Checkpoint:
    """The checkpoint with the tensors that the map makes of its own.

    Raises ValueError where the rules of a map file do not fit it.
    """
    return name_map.applied_to(checkpoint)


def _by_stripped_name(
    model: Model, target: Model, unpaired: Sequence[int], wanted: Sequence[int]
) -> dict[int, int]:
    """What each tensor of the target is but for wrappers, unless a side has two of a name."""
    places: dict[str, int] = {}
    for index in wanted:
        name = target.stripped(index)
        places[name] = _TWICE if name in places else index
    found: dict[int, int] = {}
    for index in unpaired:
        place = places.get(model.stripped(index), _TWICE)
        if place != _TWICE:
            found[place] = _TWICE if place in found else index
    return {place: index for place, index in found.items() if index != _TWICE}


def _content(model: Model, index: int, layout: Layout | None) -> _Content:
    """What is in a tensor; where no layout knows it, itself."""
    name = model.stripped(index)
    if layout is not None:
        part = layout.part(name, model)
        if part is not None:
            return part
        stored = layout.stored(name, model.tensors[index][1], model)
        if stored is not None:
            return stored
    return f"={name}"


def _held(contents: Iterable[tuple[int, _Content]]) -> dict[str, int | _Held]:
    """Where each part is, but for those that are in two tensors: which is meant cannot be told.

    A tensor that is a part is there by its index.
    """
    held: dict[str, int | _Held] = {}
    twice: set[str] = set()
    for index, content in contents:
        if isinstance(content, str):
            if content in held:
                twice.add(content)
            held[content] = index
            continue
        for part in content.parts:
            if part.name in held:
                twice.add(part.name)
            held[part.name] = _Held(index, part)
    for name in twice:
        del held[name]
    return held


class _Made(NamedTuple):
    """A tensor that is made, and of what."""

    item: Item
    parts: tuple[_Held, ...]


def _all_made(
    model: Model,
    target: Model,
    wanted: Sequence[int],
    layout: Layout | None,
    held: Mapping[str, int | _Held],
) -> dict[int, int | _Made]:
    """The tensors of the target that can be made; the index of the one that is it as it is.

    A part that two of them want is given to neither.
    """
    made: dict[int, int | _Made] = {}
    wanted_by: dict[int | _Held, int] = {}
    for index in wanted:
        content = _content(target, index, layout)
        names = [content] if isinstance(content, str) else [part.name for part in content.parts]
        found = [held[name] for name in names if name in held]
        rivals = {wanted_by.setdefault(part, index) for part in found} - {index}
        for rival in rivals:
            made.pop(rival, None)
        if len(found) < len(names) or rivals:
            continue
        if isinstance(content, str) and isinstance(found[0], int):
            made[index] = found[0]
            continue
        one = _made(target, index, content, found, model)
        if one is not None:
            made[index] = one
    return made


def _made(
    target: Model, index: int, content: _Content, found: Sequence[int | _Held], model: Model
) -> _Made | None:
    """A tensor of the target, of the parts that another model has; None where they do not fit."""
    if isinstance(content, str):
        content = whole(content, target.tensors[index][1])
    parts = tuple(
        _Held(one, Part(part.name, 0, model.tensors[one][1])) if isinstance(one, int) else one
        for one, part in zip(found, content.parts, strict=True)
    )
    pairs = list(zip(parts, content.parts, strict=True))
    shape = content.shape_of([turned(one.part.shape, part.orientation) for one, part in pairs])
    dtypes = {model.tensors[one.tensor][0] for one in parts}
    if shape is None or len(dtypes) > 1 or not dtypes <= _PLAIN:
        return None
    item = (target.names[index], shape, tuple(_taken(one, part) for one, part in pairs))
    return _Made(item, parts)


def _taken(held: _Held, wanted: Part) -> Taken:
    index, part = held
    turn = part.orientation is not wanted.orientation and len(part.shape) > 1
    axes = tuple(reversed(range(len(part.shape)))) if turn else None
    return index, part.first, part.stored_shape, axes


def _left_over(name: str, index: int, content: _Content, used: set[str]) -> list[Item]:
    """The parts of a tensor that were not used, each as a tensor of its own."""
    rest: list[Item] = []
    for part in () if isinstance(content, str) else content.parts:
        if part.name not in used:
            shape = part.stored_shape
            here = f"{name}[{part.first}:{part.first + part.numel}]"
            rest.append((here, shape, ((index, part.first, shape, None),)))
    return rest
