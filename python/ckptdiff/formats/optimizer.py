"""Which parameter a part of an optimizer's state belongs to.

torch keeps an optimizer's state by number: ``state[17]["exp_avg"]`` is of the seventeenth of the
parameters that ``param_groups`` counts through. Their names are in ``param_groups`` where the
optimizer was made with named parameters (``param_names``). Otherwise the order tells, where it can
tell only one thing.

With a single group (``torch.optim.AdamW(model.parameters())``) that is so where the checkpoint
holds one list of weights as long, with the same shapes in the same order. With several groups, as
transformers' trainer and many others make them (weights that decay, then biases and norms that do
not), each group keeps the order of the model, so that the list of weights is the groups' shapes,
merged like two decks of cards. Names are taken where there is one such merge and no other, and
where the weights sorted by name, as some trainers have them, do not fit as well. Where it cannot be
told, or not in a number of steps that the length of the pickle bounds, numbers stay numbers: a
group, a state and a list of weights can each be used thousands of times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from ckptdiff.formats.inert import DType, Storage, StoredTensor

__all__ = [
    "Holder",
    "Parameters",
    "Steps",
    "is_optimizer_state",
    "parameter_names",
    "parameters_of",
]

# A dictionary that holds tensors, and perhaps more.
Holder: TypeAlias = dict[object, object]

Shape: TypeAlias = tuple[int, ...]
ShapeOf: TypeAlias = Callable[[StoredTensor], Shape | None]

# The parameters of a model in its own order. None is the shape of a broken tensor.
Parameters: TypeAlias = list[tuple[str, Shape | None]]

# Entries of a state_dict that are no parameters, though they are floats.
_BUFFERS = ("running_mean", "running_var", "inv_freq", "original_inv_freq")
_NO_PARAMETERS = ("int", "uint", "bool")

# Groups, and ways to merge them that are followed at once. More ways than a few mean that shapes do
# not tell; and a file can have thousands of groups, to make following them take hours.
_GROUPS_AT_MOST = 8
_MERGES_AT_MOST = 8
# A shape of many dimensions takes as long to check as these.
_STEPS_OF_A_SHAPE = 8


class Steps:
    """How many steps may still be taken to name the state of all optimizers of a file."""

    __slots__ = ("_left",)

    def __init__(self, at_most: int) -> None:
        self._left = at_most

    def take(self, count: int) -> bool:
        """Take so many steps, if there are as many left."""
        if count > self._left:
            return False
        self._left -= count
        return True


def is_optimizer_state(value: object) -> bool:
    """Whether this is what ``torch.optim.Optimizer.state_dict()`` gives."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("state"), dict)
        and isinstance(value.get("param_groups"), (list, tuple))
    )


def parameters_of(holder: Holder, shape_of: ShapeOf) -> Parameters:
    """What of a dictionary of weights is a parameter, as far as that can be told.

    Buffers are left out, and a tied weight counts once, as ``named_parameters()`` has it.
    """
    parameters: Parameters = []
    # By text: hashes of integers and tuples can be chosen.
    seen: set[str] = set()
    for key, tensor in holder.items():
        if not isinstance(tensor, StoredTensor):
            continue
        storage = tensor.storage
        if not isinstance(key, str) or not isinstance(storage, Storage):
            return []
        dtype = tensor.dtype if isinstance(tensor.dtype, DType) else storage.kind.dtype
        if dtype is None or dtype.name.startswith(_NO_PARAMETERS):
            continue
        if key.rpartition(".")[2] in _BUFFERS:
            continue
        shape = shape_of(tensor)
        offset = tensor.offset if isinstance(tensor.offset, int) else None
        view = f"{offset} {shape} {storage.key}"
        if view in seen and shape is not None and 0 not in shape:
            continue
        seen.add(view)
        parameters.append((key, shape))
    return parameters


def parameter_names(
    optimizer: dict[object, object],
    models: Iterable[Parameters],
    shape_of: ShapeOf,
    steps: Steps,
) -> dict[object, str]:
    """The name of each key of ``optimizer["state"]``, as far as it is certain.

    ``models`` are the weights that the state may be of, ``shape_of`` gives the shape of a tensor,
    or None for a broken one. No names where it takes more ``steps`` than there are.
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
        if not steps.take(1 + len(numbers) if isinstance(numbers, list) else 1):
            return {}
        if isinstance(numbers, list) and isinstance(names, list) and len(numbers) == len(names):
            for number, name in zip(numbers, names, strict=True):
                if isinstance(number, int) and isinstance(name, str):
                    named[number] = name
    if named:
        # two numbers of one name would make two tensors of one name
        return named if len(set(named.values())) == len(named) else {}
    return _names_by_order(groups, state, models, shape_of, steps)


def _names_by_order(
    groups: list[object] | tuple[object, ...],
    state: dict[object, object],
    models: Iterable[Parameters],
    shape_of: ShapeOf,
    steps: Steps,
) -> dict[object, str]:
    shapes_of_groups: list[list[Shape | None]] = []
    count = 0
    for group in groups:
        numbers = group.get("params") if isinstance(group, dict) else None
        if not isinstance(numbers, list) or numbers != list(range(count, count + len(numbers))):
            return {}
        count += len(numbers)
        shapes: list[Shape | None] = []
        for number in numbers:
            held = state.get(number)
            shape = None
            if held is not None:
                if isinstance(held, dict) and not steps.take(_STEPS_OF_A_SHAPE * len(held)):
                    return {}
                shape = _parameter_shape(held, shape_of)
                if shape is None:
                    return {}
            shapes.append(shape)
        # an empty group takes no part
        if shapes:
            shapes_of_groups.append(shapes)
    if not 0 < len(shapes_of_groups) <= _GROUPS_AT_MOST:
        return {}
    candidates: set[tuple[str, ...]] = set()
    for parameters in models:
        if not steps.take(1):
            return {}
        if len(parameters) != count:
            continue
        orders = [parameters]
        if len(shapes_of_groups) > 1:
            if not steps.take(len(parameters)):
                return {}
            orders.append(sorted(parameters, key=lambda parameter: parameter[0]))
        for order in orders:
            merges = _merges(order, shapes_of_groups, steps)
            if merges is None:
                return {}
            candidates.update(merges)
    if len(candidates) != 1:
        return {}
    return dict(enumerate(candidates.pop()))


def _merges(
    parameters: Parameters, groups: list[list[Shape | None]], steps: Steps
) -> list[tuple[str, ...]] | None:
    """The names by number where the parameters are the groups merged, in each a run of its own.

    Empty where there is no such merge, None where there are several, or too many to follow.
    """
    # How many of each group have been used -> the group that the last parameter is in, and how
    # many ways there are, of which more than one are two.
    states: dict[tuple[int, ...], int] = {(0,) * len(groups): 1}
    trail: list[dict[tuple[int, ...], int]] = []
    for _, shape in parameters:
        following: dict[tuple[int, ...], int] = {}
        came_from: dict[tuple[int, ...], int] = {}
        if not steps.take(len(states) * len(groups)):
            return None
        for used, ways in states.items():
            for group, shapes in enumerate(groups):
                at = used[group]
                if at == len(shapes) or (shapes[at] is not None and shapes[at] != shape):
                    continue
                after = (*used[:group], at + 1, *used[group + 1 :])
                following[after] = min(2, following.get(after, 0) + ways)
                came_from[after] = group
        if not following:
            return []
        if len(following) > _MERGES_AT_MOST:
            return None
        trail.append(came_from)
        states = following
    ((used, ways),) = states.items()
    if ways > 1:
        return None
    names: list[list[str]] = [[] for _ in groups]
    for (name, _), came_from in zip(reversed(parameters), reversed(trail), strict=True):
        group = came_from[used]
        names[group].append(name)
        used = (*used[:group], used[group] - 1, *used[group + 1 :])
    return [tuple(name for group in names for name in reversed(group))]


def _parameter_shape(held: object, shape_of: ShapeOf) -> Shape | None:
    """The shape of the parameter whose state this is: of all tensors in it but the step."""
    if not isinstance(held, dict):
        return None
    found: Shape | None = None
    for key, value in held.items():
        if isinstance(value, StoredTensor) and key != "step":
            shape = shape_of(value)
            if shape is None or found not in (None, shape):
                return None
            found = shape
    return found
