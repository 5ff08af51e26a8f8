"""A map brings the tensors of one checkpoint under the names, and into the shapes, of another's.

Both sides are taken apart into parts (see :mod:`ckptdiff.naming.parts`), and each tensor of the
target whose parts the other side has, wherever and however it stores them, is put together of
those. What has a partner of its own name already is left as it is, and so is what no layout knows,
but for the wrappers around its name. Nothing is read: the outcome is a manifest of the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ckptdiff._core import Pairing
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.naming.hugging_face import HUGGING_FACE
from ckptdiff.naming.olmo import OLMO
from ckptdiff.naming.olmo_core import OLMO_CORE
from ckptdiff.naming.parts import Layout, Model, Part, Shape, Stored, turned, whole

__all__ = [
    "LAYOUTS",
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


class _Held(NamedTuple):
    """A part, and the tensor that has it."""

    tensor: int
    part: Part


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
    """The layout of a model's tensors, by the names of its blocks; None for any other model."""
    counts = dict.fromkeys(LAYOUTS, 0)
    for name in model.stripped:
        for layout in LAYOUTS:
            if layout.block.match(name):
                counts[layout] += 1
                break
    best = max(LAYOUTS, key=lambda layout: counts[layout])
    return best if counts[best] else None


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
    stored_a = {index: _stored(model_a, index, layout_a) for index in left_a}
    held = _held(stored_a)
    made: list[tuple[Item, tuple[_Held, ...]]] = []
    only_wrappers = True
    for index, stored in _wanted(model_b, left_b, layout_b):
        parts = tuple(held[part.name] for part in stored.parts if part.name in held)
        if len(parts) < len(stored.parts):
            continue
        item = _made(model_b.names[index], stored, parts, model_a)
        if item is None:
            continue
        made.append((item, parts))
        if model_a.stripped[parts[0].tensor] != model_b.stripped[index]:
            only_wrappers = False
    if not made:
        return None
    used: dict[int, set[str]] = {}
    for _, parts in made:
        for index, part in parts:
            used.setdefault(index, set()).add(part.name)
    items: list[Item] = []
    origins: dict[str, str] = {}
    for item, parts in made:
        items.append(item)
        origin = model_a.names[parts[0].tensor]
        if item[0] != origin or len(item) > 2:
            origins[item[0]] = origin
    for index, name in enumerate(model_a.names):
        if index not in used:
            items.append((name, index))
            continue
        for rest in _left_over(name, index, stored_a[index], used[index]):
            items.append(rest)
            origins[rest[0]] = name
    name = (
        _WRAPPERS
        if only_wrappers or layout_a is None or layout_b is None
        else f"{layout_a.name}-to-{layout_b.name}"
    )
    return NameMap(name, tuple(items), origins, len(made))


def mapped(checkpoint: Checkpoint, name_map: NameMap) -> Checkpoint:
    """The checkpoint with the tensors that the map makes of its own; the map was made for it."""
    return checkpoint.deriving(name_map.items, name_map.origins)


def _stored(model: Model, index: int, layout: Layout | None) -> Stored:
    """What is in a tensor; where no layout knows it, itself."""
    name, (_, shape) = model.stripped[index], model.tensors[index]
    stored = None if layout is None else layout.stored(name, shape, model)
    return whole(f"={name}", shape) if stored is None else stored


def _held(stored: Mapping[int, Stored]) -> dict[str, _Held]:
    """Where each part is, but for those that are in two tensors: which is meant cannot be told."""
    held: dict[str, _Held] = {}
    twice: set[str] = set()
    for index, tensor in stored.items():
        for part in tensor.parts:
            if part.name in held:
                twice.add(part.name)
            held[part.name] = _Held(index, part)
    for name in twice:
        del held[name]
    return held


def _wanted(
    model: Model, indices: Iterable[int], layout: Layout | None
) -> list[tuple[int, Stored]]:
    """The tensors to be found, but for those that want a part which another wants as well."""
    wanted = {index: _stored(model, index, layout) for index in indices}
    once = _held(wanted)
    return [
        (index, stored)
        for index, stored in wanted.items()
        if all(part.name in once for part in stored.parts)
    ]


def _made(name: str, stored: Stored, parts: Sequence[_Held], model: Model) -> Item | None:
    """The tensor ``name`` of the parts that another model has; None where they do not fit."""
    shapes = [
        turned(held.part.shape, wanted.orientation)
        for held, wanted in zip(parts, stored.parts, strict=True)
    ]
    shape = stored.shape_of(shapes)
    dtypes = {model.tensors[held.tensor][0] for held in parts}
    if shape is None or len(dtypes) > 1:
        return None
    first = parts[0]
    if (
        len(parts) == 1
        and first.part.orientation is stored.parts[0].orientation
        and model.tensors[first.tensor][1] == shape
    ):
        return name, first.tensor
    if not dtypes <= _PLAIN:
        return None
    return (
        name,
        shape,
        tuple(_taken(held, wanted) for held, wanted in zip(parts, stored.parts, strict=True)),
    )


def _taken(held: _Held, wanted: Part) -> Taken:
    index, part = held
    turn = part.orientation is not wanted.orientation and len(part.shape) > 1
    axes = tuple(reversed(range(len(part.shape)))) if turn else None
    return index, part.first, part.stored_shape, axes


def _left_over(name: str, index: int, stored: Stored, used: set[str]) -> list[Item]:
    """The parts of a tensor that were not used, each as a tensor of its own."""
    rest: list[Item] = []
    for part in stored.parts:
        if part.name not in used:
            shape = part.stored_shape
            here = f"{name}[{part.first}:{part.first + part.numel}]"
            rest.append((here, shape, ((index, part.first, shape, None),)))
    return rest
