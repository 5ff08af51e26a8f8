"""Tensors of which each process holds a part: DTensor, and FSDP's ShardedTensor.

A process says which boxes of the tensor are its own to reduce, and the partials meet in the group.
A replicated tensor is reduced by the first process that has it. Groups are those of the tensors
themselves, one for each dimension of a mesh, so processes that hold other tensors (a pipeline) need
not take part.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch

from ckptdiff.backends.torch.boxes import Box
from ckptdiff.backends.torch.codes import Tensor

__all__ = [
    "Held",
    "gathered",
    "groups_of",
    "held_boxes",
    "is_sharded",
    "mesh_of",
    "placed_alike",
    "placement_of",
]


class Held(NamedTuple):
    """A box of a tensor, and its elements."""

    box: Box
    tensor: Tensor


def _class(module: str, name: str) -> type | tuple[()]:
    """A class of torch where somebody has imported it: without it, no object can be one."""
    found: type | tuple[()] = getattr(sys.modules.get(module), name, ())
    return found


def _is_dtensor(tensor: object) -> bool:
    return isinstance(tensor, _class("torch.distributed.tensor", "DTensor"))


def _is_sharded_tensor(tensor: object) -> bool:
    return isinstance(tensor, _class("torch.distributed._shard.sharded_tensor", "ShardedTensor"))


def is_sharded(tensor: object) -> bool:
    """Whether a tensor is spread over processes."""
    return _is_dtensor(tensor) or _is_sharded_tensor(tensor)


def held_boxes(name: str, tensor: Tensor) -> list[Held]:
    """The boxes that this process has to reduce; none where another one does.

    Raises ValueError for a tensor whose parts have yet to be added up.
    """
    if _is_sharded_tensor(tensor):
        return [
            Held(Box(tuple(shard.metadata.shard_offsets), tuple(shard.metadata.shard_sizes)),
                 shard.tensor.detach())
            for shard in tensor.local_shards()
        ]  # fmt: skip
    mesh, shape = tensor.device_mesh, tuple(tensor.shape)
    coordinate = mesh.get_coordinate()
    indices: list[Any] = [None] * len(shape)
    ours = coordinate is not None
    for dimension, placement in enumerate(tensor.placements):
        if placement.is_partial():
            raise ValueError(
                f"tensor {name!r} is placed as {placement}: its parts are still to be added up; "
                "redistribute it first (tensor.redistribute(placements=...))"
            )
        if coordinate is None:
            continue
        if placement.is_replicate():
            ours = ours and coordinate[dimension] == 0
            continue
        axis = placement.dim
        held = torch.arange(shape[axis], device="cpu") if indices[axis] is None else indices[axis]
        # a placement splits along its dimension, so the indices are to lie along it
        held = held.view([-1 if other == axis else 1 for other in range(len(shape))])
        pieces, _ = placement._split_tensor(
            held, mesh.size(dimension), with_padding=False, contiguous=True
        )
        indices[axis] = pieces[coordinate[dimension]].reshape(-1)
    if not ours:
        return []
    return list(_boxes(tensor.to_local().detach(), shape, indices))


def _boxes(local: Tensor, shape: Sequence[int], indices: Sequence[Any]) -> Iterator[Held]:
    """The boxes of a local tensor that has, in each dimension, these indices (None: all)."""
    runs = [
        [(0, 0, size)] if held is None else list(_consecutive(held.tolist()))
        for size, held in zip(shape, indices, strict=True)
    ]
    for choice in product(*runs):
        part = local
        for dimension, (position, _, length) in enumerate(choice):
            part = part.narrow(dimension, position, length)
        offsets = tuple(offset for _, offset, _ in choice)
        yield Held(Box(offsets, tuple(length for *_, length in choice)), part)


def _consecutive(indices: list[int]) -> Iterator[tuple[int, int, int]]:
    """Runs of consecutive indices as (position of the first, the first, length)."""
    start = 0
    for position in range(1, len(indices) + 1):
        if position == len(indices) or indices[position] != indices[position - 1] + 1:
            yield start, indices[start], position - start
            start = position


def groups_of(tensor: Tensor) -> tuple[Any, ...]:
    """The process groups whose members together hold the tensor, to be gathered over in turn."""
    if _is_sharded_tensor(tensor):
        return (tensor._process_group,)
    mesh = tensor.device_mesh
    return tuple(mesh.get_group(dimension) for dimension in range(mesh.ndim))


def mesh_of(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of the mesh of processes that hold a tensor, and their ranks, as each sees it."""
    if _is_sharded_tensor(tensor):
        ranks = torch.distributed.get_process_group_ranks(tensor._process_group)
        return (len(ranks),), tuple(ranks)
    mesh = tensor.device_mesh.mesh
    return tuple(mesh.shape), tuple(mesh.flatten().tolist())


def placement_of(tensor: object) -> str:
    """How a tensor is spread over processes, the same in each of them; empty where it is not."""
    if _is_dtensor(tensor):
        return " ".join(map(str, tensor.placements))  # type: ignore[attr-defined]
    return "shards" if _is_sharded_tensor(tensor) else ""


def placed_alike(a: Tensor, b: Tensor) -> bool:
    """Whether every process holds the same boxes of both; the same answer in all of them."""
    if _is_dtensor(a) and _is_dtensor(b):
        return bool(a.device_mesh == b.device_mesh and a.placements == b.placements)
    if not (_is_sharded_tensor(a) and _is_sharded_tensor(b)):
        return False
    of_a, of_b = (
        [(tuple(shard.shard_offsets), tuple(shard.shard_sizes), str(shard.placement))
         for shard in tensor.metadata().shards_metadata]
        for tensor in (a, b)
    )  # fmt: skip
    return of_a == of_b


def gathered(groups: Sequence[Any], payload: list[Any]) -> list[Any]:
    """The payloads of all members, joined in the order of their ranks; the same list in each."""
    import torch.distributed as dist

    for group in groups:
        parts: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(parts, payload, group=group)
        payload = [item for part in parts for item in part]
    return payload
