"""Holds live weights against what they were, every so many steps.

What is kept: the weights as they were at the last measurement, and the last update, from which the
cosine with the next one comes. With a baseline nothing is kept, as that is read from its file, a
chunk at a time.

*Memory.* The snapshot has the weights' own dtype by default: 2 bytes per bfloat16 parameter, 4 per
float32 one; the update has 2 bytes more (bfloat16: its rounding is relative to the update, and
moves no cosine by more than some 1e-3). ``snapshot_dtype=torch.bfloat16`` halves the snapshot of a
float32 model, and costs its meaning: an update below half a step of bfloat16, 0.2 % of the weight,
and most are, is not in w - r then, but the snapshot's rounding error is. So the live weights are
rounded too before they are compared, and what is measured is the update that a bfloat16 copy of the
weights sees: an element moves by a whole step or not at all. Its norm is then too large, by about
√(step / update) for small updates; the share of changed elements is exact either way.

*Processes.* Of a parameter that is spread over processes (a DTensor, as FSDP2 and tensor
parallelism make them) each keeps and measures the part that it holds, one of equal copies being
measured by the first process that has it. Eight numbers of each parameter are merged over the
groups of its mesh, so every process of them has the same measures, which are those of the whole.
"""

from __future__ import annotations

import fnmatch
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from ckptdiff.api import CheckpointLike
from ckptdiff.api import open as open_checkpoint
from ckptdiff.backends.torch.boxes import Box, elements_of, whole
from ckptdiff.backends.torch.shards import Held, groups_of, held_boxes, is_sharded
from ckptdiff.callbacks.processes import Failures, merge_over_processes
from ckptdiff.callbacks.sums import Sums, chunk_sums, chunks_of, in_float64, wide_dtype
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.naming.groups import layer, module
from ckptdiff.suggest import unknown

if TYPE_CHECKING:
    from ckptdiff._core import Manifest

__all__ = ["By", "Watcher"]

#: What a group of parameters is: a layer's, a module's over all layers, one, or all together.
By = Literal["layer", "module", "tensor", "total"]

_PREFIX = "ckptdiff"


@dataclass(slots=True)
class _Piece:
    """A box of a parameter, all of it or what this process holds, and what is kept of it, flat:
    what it is held against, and its last update.
    """

    box: Box
    snapshot: torch.Tensor | None = None
    update: torch.Tensor | None = None


@dataclass(slots=True)
class _Watched:
    """A parameter, its pieces here, and where it is in the baseline."""

    name: str
    parameter: torch.nn.Parameter
    pieces: list[_Piece]
    index: int = -1

    def held(self) -> Iterator[tuple[_Piece, torch.Tensor]]:
        """Each piece, and its elements as they are now."""
        now = _held(self.name, self.parameter)
        for piece, held in zip(self.pieces, now, strict=True):
            yield piece, held.tensor


class Watcher:
    """Measures how the weights of a module change from one measurement to the next.

    ``model``: a torch module. Its trainable parameters are watched.
    ``every``: how many steps there are between measurements.
    ``baseline``: a checkpoint (a path, an opened one, a mapping of names to tensors) to measure
    against every time, instead of the weights at the last measurement. There is no cosine then.
    ``by``: a row of measures for each ``module`` (the same one of all layers), ``layer``,
    ``tensor`` (parameter), or for the ``total`` alone, which is always there. ``include``,
    ``exclude``: globs of the parameters' names. ``snapshot_dtype``: None for that of each
    parameter; see above for what bfloat16 costs. ``update_dtype``: in which the last update is
    kept; None keeps none, and there is no cosine. ``device``: where both are kept: None for where
    each parameter is, or ``"cpu"``.

    Where parameters are DTensors, every process that holds a part makes a watcher, and measures
    when the others do.

    Raises ValueError where no parameter is left to watch, where one is sharded in a way that does
    not tell which part a rank holds (FSDP's first version, DeepSpeed's stage 3), and where the
    baseline lacks a parameter or has it in another shape; and what :func:`ckptdiff.open` raises.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        every: int = 100,
        baseline: CheckpointLike | None = None,
        by: By = "module",
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        snapshot_dtype: torch.dtype | None = None,
        update_dtype: torch.dtype | None = torch.bfloat16,
        device: str | torch.device | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be 1 or more, not {every}")
        if by not in get_args(By):
            raise ValueError(unknown("grouping", by, get_args(By)))
        self._every = every
        self._model = model
        self._by = by
        self._steps = 0
        self._manifest: Manifest | None = None
        self._snapshot_dtype = snapshot_dtype
        self._update_dtype = None if baseline is not None else update_dtype
        self._device = device
        self._has_update = False
        self._watched = [
            _Watched(name, parameter, [_Piece(held.box) for held in _held(name, parameter)])
            for name, parameter in _chosen(model, include, exclude)
        ]
        self._groups: dict[tuple[Any, ...], list[int]] = {}
        for number, watched in enumerate(self._watched):
            if is_sharded(watched.parameter):
                self._groups.setdefault(groups_of(watched.parameter), []).append(number)
        if not self._watched:
            raise ValueError("there is no trainable parameter to watch that the globs leave in")
        if baseline is None:
            # a tensor made in that mode could not be written to outside of it
            with torch.inference_mode(False), torch.no_grad():
                self._take_snapshot()
        else:
            self._open_baseline(baseline)

    @property
    def bytes_kept(self) -> int:
        """The memory that snapshot and last update take together, in this process."""
        pieces = [piece for watched in self._watched for piece in watched.pieces]
        kept = [tensor for piece in pieces for tensor in (piece.snapshot, piece.update)]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept if tensor is not None)

    def step(self) -> dict[str, float]:
        """Count a step; at every so many, the measures, and else an empty dictionary.

        To be called when the optimizer has made its step. See :meth:`measure` for what is in it.
        """
        self._steps += 1
        return self.measure() if self._steps % self._every == 0 else {}

    def measure(self) -> dict[str, float]:
        """Measure now, whatever was counted, and keep the weights for the next time.

        Keys are ``ckptdiff/MEASURE`` for all parameters and ``ckptdiff/MEASURE/GROUP`` for each
        group:

        - ``relative_update``: ‖w - r‖ / ‖r‖, for r the weights at the last measurement or the
          baseline; 0 where nothing changed and infinite where only r is 0,
        - ``cosine``: of this update with the last one; from the second measurement on, where
          neither is zero,
        - ``changed_bf16``: the share of elements that differ once both are rounded to bfloat16,
        - ``nan``, ``inf``: how many elements are not finite now; norms are over the others.
        """
        per_parameter = [Sums() for _ in self._watched]
        failures = Failures()
        if not self._groups:
            self._measure_here(per_parameter)
        else:
            with failures.kept():
                self._measure_here(per_parameter)
            merge_over_processes(per_parameter, self._groups, failures)
        had_update = self._has_update
        self._has_update = self._update_dtype is not None
        return self._named(per_parameter, had_update)

    def _measure_here(self, per_parameter: list[Sums]) -> None:
        """Add the sums of all pieces of this process."""
        self._look_up()
        sums: list[torch.Tensor] = []
        owners: list[int] = []
        with torch.no_grad():
            for number, watched in enumerate(self._watched):
                for piece, tensor in watched.held():
                    for chunk in self._reduced(watched, piece, tensor):
                        sums.append(chunk)
                        owners.append(number)
        for number, values in zip(owners, _in_float64(sums), strict=True):
            per_parameter[number].add(values)

    def _look_up(self) -> None:
        """Find each parameter by its name: the model may have another object there by now."""
        now = dict(self._model.named_parameters(remove_duplicate=False))
        for watched in self._watched:
            parameter = now.get(watched.name)
            if parameter is None or parameter.shape != watched.parameter.shape:
                found = "is gone" if parameter is None else f"is {list(parameter.shape)} now"
                raise ValueError(
                    f"parameter {watched.name!r} {found}; it was {list(watched.parameter.shape)} "
                    "when the watcher was made"
                )
            watched.parameter = parameter

    def _reduced(
        self, watched: _Watched, piece: _Piece, tensor: torch.Tensor
    ) -> Iterator[torch.Tensor]:
        """The sums of each chunk; the snapshot is brought up to date on the way."""
        for chunk in chunks_of(piece.box.numel, tensor.device):
            now = elements_of(tensor, chunk.start, chunk.stop)
            reference = self._reference(watched, piece, chunk).to(now.device)
            if self._snapshot_dtype is not None and piece.snapshot is not None:
                # what the snapshot rounded away is no change
                now = now.to(self._snapshot_dtype)
            last = None if piece.update is None else piece.update[chunk].to(now.device)
            sums, difference = chunk_sums(now, reference, last if self._has_update else None)
            if piece.snapshot is not None:
                piece.snapshot[chunk] = now.to(piece.snapshot.device)
            if piece.update is not None:
                piece.update[chunk] = difference.to(piece.update.dtype).to(piece.update.device)
            yield sums

    def _reference(self, watched: _Watched, piece: _Piece, chunk: slice) -> torch.Tensor:
        if piece.snapshot is not None:
            return piece.snapshot[chunk]
        assert self._manifest is not None
        data = bytearray()
        for first, last in piece.box.runs(watched.parameter.shape, chunk.start, chunk.stop):
            data += self._manifest.values(watched.index, first, last)
        width = len(data) // (chunk.stop - chunk.start)
        values = torch.frombuffer(data, dtype=torch.float32 if width == 4 else torch.float64)
        if wide_dtype(watched.parameter.device) == torch.float32:
            values = values.to(torch.float32)
        return values

    def _take_snapshot(self) -> None:
        for piece, tensor in (held for watched in self._watched for held in watched.held()):
            flat = elements_of(tensor, 0, piece.box.numel)
            dtype = flat.dtype if self._snapshot_dtype is None else self._snapshot_dtype
            place = flat.device if self._device is None else torch.device(self._device)
            piece.snapshot = flat.to(device=place, dtype=dtype, copy=True)
            if self._update_dtype is not None:
                piece.update = torch.zeros(flat.shape, dtype=self._update_dtype, device=place)

    def _open_baseline(self, baseline: CheckpointLike) -> None:
        names = [watched.name for watched in self._watched]
        checkpoint = open_checkpoint(_as_checkpoint(baseline, names))
        where = "the baseline" if checkpoint.path is None else checkpoint.path
        self._manifest = checkpoint.manifest
        for watched in self._watched:
            index = self._manifest.find(watched.name)
            if index is None:
                raise ValueError(
                    f"{where}: there is no tensor {watched.name!r}, which the model has"
                )
            shape = tuple(checkpoint.tensor_at(index).shape)
            if shape != tuple(watched.parameter.shape):
                raise ValueError(
                    f"{where}: tensor {watched.name!r} has the shape {list(shape)}, "
                    f"the model's parameter {list(watched.parameter.shape)}"
                )
            dtype = checkpoint.tensor_at(index).dtype
            if dtype in ("C64", "C128"):
                raise ValueError(
                    f"{where}: tensor {watched.name!r} is {dtype}, the model's parameter is real"
                )
            watched.index = index

    def _named(self, sums: list[Sums], had_update: bool) -> dict[str, float]:
        total = Sums()
        groups: dict[str, Sums] = {}
        for watched, each in zip(self._watched, sums, strict=True):
            total.merge(each)
            if self._by != "total":
                groups.setdefault(self._group(watched.name), Sums()).merge(each)
        logs = {f"{_PREFIX}/{key}": value for key, value in _measures(total, had_update)}
        for group, of_group in groups.items():
            for key, value in _measures(of_group, had_update):
                logs[f"{_PREFIX}/{key}/{group}"] = value
        return logs

    def _group(self, name: str) -> str:
        if self._by == "tensor":
            return name
        return layer(name) if self._by == "layer" else module(name)


def _measures(sums: Sums, had_update: bool) -> Iterator[tuple[str, float]]:
    change, reference = math.sqrt(sums.square_difference), math.sqrt(sums.square_reference)
    yield "relative_update", change / reference if reference else math.inf if change else 0.0
    if had_update and sums.square_previous > 0 and sums.square_difference > 0:
        cosine = sums.dot / (change * math.sqrt(sums.square_previous))
        yield "cosine", max(-1.0, min(1.0, cosine))
    yield "changed_bf16", sums.changed / sums.numel if sums.numel else 0.0
    yield "nan", sums.nan
    yield "inf", sums.inf


def _held(name: str, parameter: torch.nn.Parameter) -> list[Held]:
    """The boxes of a parameter that this process has to measure."""
    if is_sharded(parameter):
        return held_boxes(name, parameter)
    return [Held(whole(parameter.shape), parameter.detach())]


def _chosen(
    model: torch.nn.Module, include: str | Iterable[str], exclude: str | Iterable[str]
) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The trainable parameters, each once, that the globs leave in."""
    including, excluding = _patterns(include), _patterns(exclude)
    flat = sys.modules.get("torch.distributed.fsdp")
    if flat is not None and any(
        isinstance(module, flat.FullyShardedDataParallel) for module in model.modules()
    ):
        raise ValueError(
            "the model is sharded by FullyShardedDataParallel, which does not tell what part of a "
            "parameter a process holds; shard it with fully_shard (FSDP2)"
        )
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or not parameter.is_floating_point():
            continue
        if including and not any(pattern.match(name) for pattern in including):
            continue
        if any(pattern.match(name) for pattern in excluding):
            continue
        if hasattr(parameter, "ds_id"):
            raise ValueError(
                f"parameter {name!r} is sharded by DeepSpeed, which does not tell what part of it "
                "a process holds; only whole ones and DTensors can be watched"
            )
        yield name, parameter


def _patterns(globs: str | Iterable[str]) -> list[re.Pattern[str]]:
    texts = (globs,) if isinstance(globs, str) else tuple(globs)
    return [re.compile(fnmatch.translate(text)) for text in texts]


def _as_checkpoint(baseline: CheckpointLike, names: Iterable[str]) -> CheckpointLike:
    """The baseline; what is in memory is copied, as it may be the live weights."""
    if isinstance(baseline, torch.nn.Module):
        baseline = baseline.state_dict()
    if isinstance(baseline, (str, os.PathLike)):
        return baseline
    if isinstance(baseline, Checkpoint):
        return baseline if baseline.path is not None else _copied(baseline, names)
    return {name: _copy(value) for name, value in baseline.items()}


def _copied(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, Any]:
    """The tensors of these names, of a checkpoint in memory."""
    import numpy

    tensors: dict[str, Any] = {}
    for name in names:
        if name in checkpoint.device_tensors:
            tensors[name] = _copy(checkpoint.device_tensors[name])
            continue
        index = checkpoint.manifest.find(name)
        if index is None:
            continue
        tensor = checkpoint.tensor_at(index)
        numel = tensor.numel
        if tensor.dtype in ("C64", "C128"):
            # refused by name
            tensors[name] = numpy.zeros(tensor.shape, f"c{tensor.bytes // max(numel, 1)}")
            continue
        data = bytearray(checkpoint.manifest.values(index, 0, numel))
        kind = "<f4" if len(data) == 4 * numel else "<f8"
        tensors[name] = numpy.frombuffer(data, kind).reshape(tensor.shape)
    return tensors


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    return value.copy() if hasattr(value, "copy") else value


def _in_float64(sums: list[torch.Tensor]) -> list[list[float]]:
    """The sums as floats, in their order; those of a device come by one transfer."""
    of_device: dict[torch.device, list[int]] = {}
    for number, each in enumerate(sums):
        of_device.setdefault(each.device, []).append(number)
    values: list[list[float]] = [[]] * len(sums)
    for numbers in of_device.values():
        together = in_float64([sums[number] for number in numbers])
        for number, value in zip(numbers, together, strict=True):
            values[number] = value
    return values
