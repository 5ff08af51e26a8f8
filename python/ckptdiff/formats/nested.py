"""Nested values of a checkpoint as tensors by dotted name, and its plain values as metadata.

A training checkpoint is dictionaries, lists and objects around tensors. Flattened, the tensor at
``value["model"]["layers.0.weight"]`` is ``model.layers.0.weight``. By default only weights count:
subtrees that hold the state of training are left out and counted. They are known by their keys
(``optimizer``, ``optim``, ``optimizer_states``, ``lr_scheduler``, ``grad_scaler``, ``rng_state``,
``train_state``, ``dataloader`` …), or by their shape, a dictionary of ``state`` and
``param_groups``, as every torch optimizer writes. What is opened itself, or selected by a key, is
never left out.

A pickle of a megabyte can hold containers that contain each other, or that are used a thousand
times over. Depth, the entries looked at, the tensors found, the text of all names and the steps it
takes to name an optimizer's state are bounded by the length of the pickle, which an honest one
stays far below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeAlias

from ckptdiff.errors import InvalidCheckpointError
from ckptdiff.formats.inert import DType, IdentityKey, InertObject, StoredTensor, UnsupportedTensor
from ckptdiff.formats.optimizer import (
    Holder,
    Parameters,
    Steps,
    is_optimizer_state,
    parameter_names,
    parameters_of,
)
from ckptdiff.formats.options import OpenOptions

__all__ = ["Flattened", "Tensor", "flatten", "is_training_state_key", "models_in", "plain_text"]

Tensor: TypeAlias = StoredTensor | UnsupportedTensor

_DEPTH_AT_MOST = 100
_METADATA_ENTRIES_AT_MOST = 10_000
_METADATA_TEXT_AT_MOST = 1000
_LIST_SHOWN_AT_MOST = 16
_NAMED_AT_MOST = 6
_SELECTED_AT_MOST = 1000
# How much an empty pickle may yield: entries, characters of names, and tensors in bytes of what a
# pickle says of one. The shortest that is no other one has 60 bytes, and two more a dimension.
_FREE_ENTRIES = 1000
_FREE_CHARACTERS = 1 << 20
_FREE_TENSOR_BYTES = 1 << 16
_BYTES_OF_A_TENSOR = 6
# Steps of a microsecond in which state is held against weights, beside one for each byte.
_FREE_STEPS = 1 << 20
_LONE_TENSOR = "tensor"

# Keys of dictionaries whose values are no weights.
_TRAINING_STATE = re.compile(
    r"([^.]*_)?(optim|optimizer)s?(_states?)?(_dicts?)?(_\d+)?"
    r"|([^.]*_)?schedulers?(_states?)?(_dicts?)?(_\d+)?"
    r"|(grad_|loss_)?scaler(_states?)?(_dict)?"
    r"|train(er|ing)?_states?(_dict)?"
    r"|([^.]*_)?data_?(loader|iterator|sampler)s?(_states?)?(_dicts?)?"
    r"|([^.]*_)?rng(_[^.]*)?",
    re.IGNORECASE,
)
_GENERATOR_STATE = re.compile(r"([^.]*_)?rng(_[^.]*)?", re.IGNORECASE)


@dataclass(slots=True)
class Flattened:
    """Tensors in the order of the file, plain values as text, and how many tensors were left out.

    ``left_out`` counts the tensors of the state of training.
    """

    tensors: list[tuple[str, Tensor]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    left_out: int = 0


def flatten(
    value: object,
    *,
    source: str,
    options: OpenOptions,
    pickle_bytes: int,
    shape_of: Callable[[StoredTensor], tuple[int, ...] | None],
    models: Sequence[Parameters] = (),
) -> Flattened:
    """Flatten what a pickle of ``pickle_bytes`` stands for.

    ``shape_of`` gives the shape of a tensor, or None for one that breaks its format; it serves to
    tell which parameter an optimizer's state belongs to, beside ``models``, the weights of other
    files that it may be of.

    Raises ValueError for a key that is not there, InvalidCheckpointError for values nested or used
    over and over beyond all measure.
    """
    walk = _Walk(source, pickle_bytes, shape_of, models)
    name = ""
    if options.key is not None:
        name, value = _select(value, options.key, source, 2 * pickle_bytes + _FREE_ENTRIES)
    if isinstance(value, (StoredTensor, UnsupportedTensor)):
        walk.found.tensors.append((name or _LONE_TENSOR, value))
        return walk.found
    if _is_training_state(name, value):
        # asked for by its key
        walk.include_training_state()
    walk.visit(value, "", 0)
    left_out = walk.include_training_state()
    weights = walk.found
    if left_out:
        if options.optimizer:
            walk.visit_postponed(left_out)
        else:
            walk.found = Flattened()
            walk.visit_postponed(left_out)
            weights.left_out = len(walk.found.tensors)
    return weights


def models_in(
    value: object,
    *,
    source: str,
    pickle_bytes: int,
    shape_of: Callable[[StoredTensor], tuple[int, ...] | None],
) -> list[Parameters]:
    """The weights of each dictionary that holds some, in the order that the file has them in."""
    walk = _Walk(source, pickle_bytes, shape_of, ())
    walk.visit(value, "", 0)
    return walk.models()


class _Postponed(NamedTuple):
    """A part that is the state of training, to be looked at when all weights are known."""

    name: str
    value: object
    depth: int


class _Walk:
    """One flattening: what it has found, and what it may still look at."""

    def __init__(
        self,
        source: str,
        pickle_bytes: int,
        shape_of: Callable[[StoredTensor], tuple[int, ...] | None],
        models: Sequence[Parameters],
    ) -> None:
        self.found = Flattened()
        self._source = source
        self._shape_of = shape_of
        self._entries = 2 * pickle_bytes + _FREE_ENTRIES
        self._characters = 4 * pickle_bytes + _FREE_CHARACTERS
        self._tensor_bytes = pickle_bytes + _FREE_TENSOR_BYTES
        self._steps = Steps(pickle_bytes + _FREE_STEPS)
        # the weights that an optimizer may be of, of other files and then of this one
        self._models = list(models)
        # dictionaries that hold tensors, and have not been looked at for parameters
        self._holders: list[Holder] = []
        # None where nothing is postponed any more
        self._postponed: list[_Postponed] | None = []

    def include_training_state(self) -> list[_Postponed]:
        """Postpone nothing from here on; what was postponed so far comes back."""
        postponed = self._postponed or []
        self._postponed = None
        return postponed

    def models(self) -> list[Parameters]:
        """The parameters of other files, and in each dictionary of weights that was found."""
        while self._holders:
            parameters = parameters_of(self._holders.pop(), self._shape_of)
            if parameters:
                self._models.append(parameters)
        return self._models

    def visit_postponed(self, parts: list[_Postponed]) -> None:
        for part in parts:
            self._visit_item(part.value, part.name, part.depth)

    def visit(self, value: object, prefix: str, depth: int) -> None:
        """Flatten a container or object; ``prefix`` is its name and a dot, or empty."""
        if depth > _DEPTH_AT_MOST:
            raise self._too_much(f"nested more than {_DEPTH_AT_MOST} deep", prefix)
        if is_optimizer_state(value):
            assert isinstance(value, dict)
            self._visit_optimizer(value, prefix, depth)
            return
        holds_tensors = False
        postponed = self._postponed
        for key, item in self._spend(_entries_of(value)):
            name = self._name(prefix, key)
            if postponed is not None and _is_training_state(key, item):
                postponed.append(_Postponed(name, item, depth + 1))
            elif isinstance(item, StoredTensor):
                self._add_tensor(name, item)
                holds_tensors = True
            else:
                self._visit_item(item, name, depth + 1)
        if holds_tensors and isinstance(value, dict):
            self._holders.append(value)

    def _visit_optimizer(self, value: dict[object, object], prefix: str, depth: int) -> None:
        names = parameter_names(value, self.models(), self._shape_of, self._steps)
        for key, item in self._spend(_entries_of(value)):
            name = self._name(prefix, key)
            if key != "state":
                self._visit_item(item, name, depth + 1)
                continue
            for parameter, state in self._spend(_entries_of(item)):
                shown = self._name(f"{name}.", names.get(parameter, parameter))
                self._visit_item(state, shown, depth + 2)

    def _visit_item(self, item: object, name: str, depth: int) -> None:
        if isinstance(item, (StoredTensor, UnsupportedTensor)):
            self._add_tensor(name, item)
            return
        if isinstance(item, (list, tuple)):
            self._entries -= len(item)
        if item is None:
            return
        text = plain_text(item)
        if text is not None:
            if len(self.found.metadata) < _METADATA_ENTRIES_AT_MOST:
                self._characters -= len(text)
                self.found.metadata[name] = text
        elif isinstance(item, (dict, list, tuple, InertObject)):
            self.visit(item, f"{name}.", depth)

    def _add_tensor(self, name: str, tensor: Tensor) -> None:
        shape = tensor.shape
        self._tensor_bytes -= _BYTES_OF_A_TENSOR
        if isinstance(shape, (list, tuple)):
            self._tensor_bytes -= len(shape)
        if self._tensor_bytes < 0:
            raise self._too_much("that are one tensor over and over", name)
        self.found.tensors.append((name, tensor))

    def _spend(self, entries: Iterable[tuple[object, object]]) -> Iterator[tuple[object, object]]:
        for entry in entries:
            self._entries -= 1
            if self._entries < 0:
                raise self._too_much("in containers that are used over and over", "")
            yield entry

    def _name(self, prefix: str, key: object) -> str:
        name = prefix + (key if isinstance(key, str) else _key_text(key))
        self._characters -= len(name)
        if self._characters < 0:
            raise self._too_much("with names of more text than the file has", prefix)
        return name

    def _too_much(self, what: str, prefix: str) -> InvalidCheckpointError:
        where = f" at {prefix[:60]!r}" if prefix else ""
        return InvalidCheckpointError(f"{self._source}: holds values {what}{where}")


def is_training_state_key(key: str) -> bool:
    """Whether a dictionary's value under this key is the state of training, and no weights."""
    return len(key) < 100 and _TRAINING_STATE.fullmatch(key) is not None


def _is_training_state(key: object, item: object) -> bool:
    if isinstance(item, (StoredTensor, UnsupportedTensor)):
        # a weight may be called scaler; a generator's state is a tensor of its own
        return isinstance(key, str) and _GENERATOR_STATE.fullmatch(key) is not None
    if not isinstance(item, (dict, list, tuple, InertObject)):
        return False
    if isinstance(key, str) and is_training_state_key(key):
        return True
    return is_optimizer_state(item)


def _entries_of(value: object) -> Iterable[tuple[object, object]]:
    """Keys and values of a container, or of the attributes of an object."""
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, (list, tuple)):
        return enumerate(value)
    if isinstance(value, InertObject) and isinstance(value.state, dict):
        return value.state.items()
    return ()


def _key_text(key: object) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, IdentityKey):
        key = key.value
        if isinstance(key, tuple) and len(key) <= _NAMED_AT_MOST:
            return ".".join(str(part)[:100] for part in key if isinstance(part, (str, int)))
    if isinstance(key, bytes):
        return key.decode("latin-1")
    if isinstance(key, (int, float)) or key is None:
        return str(key)
    return f"<{type(key).__name__}>"


def plain_text(value: object) -> str | None:
    """The text of a number, a string, or a list of such; None for anything else."""
    if isinstance(value, str):
        return _shortened(value)
    if isinstance(value, DType):
        return value.name
    if isinstance(value, (bool, int, float, complex)):
        return _number_text(value)
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if not all(item is None or isinstance(item, (bool, int, float, str)) for item in value):
        return None
    shown = [
        repr(item[:_METADATA_TEXT_AT_MOST]) if isinstance(item, str) else _number_text(item)
        for item in value[:_LIST_SHOWN_AT_MOST]
    ]
    if len(value) > len(shown):
        shown.append(f"… {len(value):,} in all")
    return _shortened(f"[{', '.join(shown)}]")


def _number_text(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _shortened(text: str) -> str:
    if not text.isascii():
        # half a character takes six
        text = text[: _METADATA_TEXT_AT_MOST + 1].encode("utf-8", "backslashreplace").decode()
    if len(text) > _METADATA_TEXT_AT_MOST:
        text = text[: _METADATA_TEXT_AT_MOST - 1] + "…"
    return text


def _select(value: object, path: str, source: str, entries: int) -> tuple[str, object]:
    """The value at a dotted path, and the last key on the way; keys may contain dots themselves.

    No more than ``entries`` are looked at: keys of one text can hold one dictionary, all of them.
    """
    matches: list[tuple[str, object]] = []
    open_ends: list[tuple[object, str]] = [(value, path)]
    while open_ends and len(open_ends) < _SELECTED_AT_MOST:
        holder, rest = open_ends.pop()
        for key, item in _entries_of(holder):
            entries -= 1
            if entries < 0:
                raise InvalidCheckpointError(
                    f"{source}: holds values in containers that are used over and over, on the "
                    f"way to key {path!r}"
                )
            text = _key_text(key)
            if rest == text:
                matches.append((text, item))
            elif rest.startswith(text) and rest.startswith(".", len(text)):
                open_ends.append((item, rest[len(text) + 1 :]))
    if len(matches) == 1:
        name, found = matches[0]
        if isinstance(found, (dict, list, tuple, InertObject, StoredTensor, UnsupportedTensor)):
            return name, found
        raise ValueError(f"{source}: key {path!r} is no subtree but a single value")
    if matches:
        raise ValueError(f"{source}: key {path!r} can mean {len(matches)} things here")
    keys = [_key_text(key)[:40] for key, _ in islice(_entries_of(value), _NAMED_AT_MOST + 1)]
    listing = ", ".join(keys[:_NAMED_AT_MOST]) + (" …" if len(keys) > _NAMED_AT_MOST else "")
    raise ValueError(f"{source}: no key {path!r}; there is {listing or 'nothing nested'}")
