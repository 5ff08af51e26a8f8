"""Which parameter a part of an optimizer's state belongs to.

torch keeps an optimizer's state by number: ``state[17]["exp_avg"]`` is of the seventeenth of the
parameters that ``param_groups`` counts through. Their names are in ``param_groups`` where the
optimizer was made with named parameters (``param_names``). Otherwise the order tells, where it can
tell only one thing: the optimizer has a single group, and the checkpoint holds one list of weights
as long, with the same shapes in the same order. (``torch.optim.AdamW(model.parameters())`` beside
``model.state_dict()`` is that case. Two groups, one with weight decay and one without, are not:
which layer's weight is meant could only be guessed.) Where it cannot be told, numbers stay numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ckptdiff.formats.inert import DType, Storage, StoredTensor

__all__ = ["Holder", "is_optimizer_state", "parameter_names"]

# A dictionary that holds tensors, and perhaps more.
Holder: TypeAlias = dict[object, object]

Shape: TypeAlias = tuple[int, ...]
ShapeOf: TypeAlias = Callable[[StoredTensor], Shape | None]

# Entries of a state_dict that are no parameters, though they are floats.
_BUFFERS = ("running_mean", "running_var", "inv_freq", "original_inv_freq")
_NO_PARAMETERS = ("int", "uint", "bool")


def is_optimizer_state(value: object) -> bool:
    """Whether this is what ``torch.optim.Optimizer.state_dict()`` gives."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("state"), dict)
        and isinstance(value.get("param_groups"), (list, tuple))
    )


def parameter_names(
    optimizer: dict[object, object], holders: list[Holder], shape_of: ShapeOf
) -> dict[object, str]:
    """The name of each key of ``optimizer["state"]``, as far as it is certain.

    ``holders`` are the dictionaries of weights of the same checkpoint, ``shape_of`` gives the shape
    of a tensor, or None for a broken one.
    """
    groups = optimizer["param_groups"]
    state = optimizer["state"]
    assert isinstance(groups, (list, tuple))
    assert isinstance(state, dict)
    named: dict[object, str] = {}
    for group in groups:
        if not isinstance(group, dict):
            return {}
        numbers, names = group.get("params"), group.get("param_names")
        if isinstance(numbers, list) and isinstance(names, list) and len(numbers) == len(names):
            for number, name in zip(numbers, names, strict=True):
                if isinstance(number, int) and isinstance(name, str):
                    named[number] = name
    if named:
        # two numbers of one name would make two tensors of one name
        return named if len(set(named.values())) == len(named) else {}
    return _names_by_order(groups, state, holders, shape_of)


def _names_by_order(
    groups: list[object] | tuple[object, ...],
    state: dict[object, object],
    holders: list[Holder],
    shape_of: ShapeOf,
) -> dict[object, str]:
    if len(groups) != 1 or not isinstance(groups[0], dict):
        return {}
    numbers = groups[0].get("params")
    if not isinstance(numbers, list) or numbers != list(range(len(numbers))):
        return {}
    shapes: list[Shape | None] = []
    for number in numbers:
        held = state.get(number)
        shape = None
        if held is not None:
            shape = _parameter_shape(held, shape_of)
            if shape is None:
                return {}
        shapes.append(shape)
    candidates = {
        names
        for holder in holders
        if (names := _matching_names(holder, shapes, shape_of)) is not None
    }
    if len(candidates) != 1:
        return {}
    return dict(zip(numbers, candidates.pop(), strict=True))


def _parameter_shape(held: object, shape_of: ShapeOf) -> Shape | None:
    """The shape of the parameter whose state this is: of all tensors in it but the step."""
    if not isinstance(held, dict):
        return None
    shapes = {
        shape_of(value)
        for key, value in held.items()
        if isinstance(value, StoredTensor) and key != "step"
    }
    return shapes.pop() if len(shapes) == 1 else None


def _matching_names(
    holder: Holder, shapes: list[Shape | None], shape_of: ShapeOf
) -> tuple[str, ...] | None:
    """The names of the parameters among these weights, if they have those shapes in that order."""
    if len(holder) < len(shapes):
        return None
    names: list[str] = []
    seen: set[tuple[str, object, Shape | None]] = set()
    for key, tensor in holder.items():
        if not isinstance(tensor, StoredTensor):
            continue
        storage = tensor.storage
        if not isinstance(key, str) or not isinstance(storage, Storage):
            return None
        dtype = tensor.dtype if isinstance(tensor.dtype, DType) else storage.kind.dtype
        if dtype is None or dtype.name.startswith(_NO_PARAMETERS):
            continue
        if key.rpartition(".")[2] in _BUFFERS:
            continue
        shape = shape_of(tensor)
        offset = tensor.offset if isinstance(tensor.offset, int) else None
        if (storage.key, offset, shape) in seen and shape is not None and 0 not in shape:
            # a tied weight is one parameter
            continue
        seen.add((storage.key, offset, shape))
        position = len(names)
        if position >= len(shapes) or shapes[position] not in (None, shape):
            return None
        names.append(key)
    return tuple(names) if len(names) == len(shapes) else None
