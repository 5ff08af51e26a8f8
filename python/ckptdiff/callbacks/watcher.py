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
"""

from __future__ import annotations

import fnmatch
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from ckptdiff.api import CheckpointLike
from ckptdiff.api import open as open_checkpoint
from ckptdiff.callbacks.sums import Sums, chunk_sums, chunks_of, in_float64
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
class _Watched:
    """A parameter, what it is held against, and its last update."""

    name: str
    parameter: torch.nn.Parameter
    snapshot: torch.Tensor | None
    update: torch.Tensor | None
    index: int = -1


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

    Raises ValueError where no parameter is left to watch, where one is sharded (a DTensor, or of
    DeepSpeed's stage 3: what a rank holds says nothing of the whole), and where the baseline lacks
    a parameter or has it in another shape; and what :func:`ckptdiff.open` raises.
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
        self._by = by
        self._steps = 0
        self._manifest: Manifest | None = None
        self._snapshot_dtype = snapshot_dtype
        self._update_dtype = None if baseline is not None else update_dtype
        self._device = device
        self._has_update = False
        self._watched = [
            _Watched(name, parameter, None, None)
            for name, parameter in _chosen(model, include, exclude)
        ]
        if not self._watched:
            raise ValueError("there is no trainable parameter to watch that the globs leave in")
        if baseline is None:
            self._take_snapshot()
        else:
            self._open_baseline(baseline)

    @property
    def bytes_kept(self) -> int:
        """The memory that snapshot and last update take together."""
        kept = [tensor for each in self._watched for tensor in (each.snapshot, each.update)]
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
        sums: list[torch.Tensor] = []
        owners: list[int] = []
        with torch.no_grad():
            for number, watched in enumerate(self._watched):
                for chunk in self._reduced(watched):
                    sums.append(chunk)
                    owners.append(number)
        per_parameter = [Sums() for _ in self._watched]
        for number, values in zip(owners, _in_float64(sums), strict=True):
            per_parameter[number].add(values)
        had_update = self._has_update
        self._has_update = self._update_dtype is not None
        return self._named(per_parameter, had_update)

    def _reduced(self, watched: _Watched) -> Iterator[torch.Tensor]:
        """The sums of each chunk; the snapshot is brought up to date on the way."""
        flat = watched.parameter.detach().reshape(-1)
        for chunk in chunks_of(flat.numel(), flat.device):
            now = flat[chunk]
            reference = self._reference(watched, chunk).to(now.device)
            if self._snapshot_dtype is not None and watched.snapshot is not None:
                # what the snapshot rounded away is no change
                now = now.to(self._snapshot_dtype)
            last = None if watched.update is None else watched.update[chunk].to(now.device)
            sums, difference = chunk_sums(now, reference, last if self._has_update else None)
            if watched.snapshot is not None:
                watched.snapshot[chunk] = now.to(watched.snapshot.device)
            if watched.update is not None:
                watched.update[chunk] = difference.to(watched.update.dtype).to(
                    watched.update.device
                )
            yield sums

    def _reference(self, watched: _Watched, chunk: slice) -> torch.Tensor:
        if watched.snapshot is not None:
            return watched.snapshot[chunk]
        assert self._manifest is not None
        data = bytearray(self._manifest.values(watched.index, chunk.start, chunk.stop))
        width = len(data) // (chunk.stop - chunk.start)
        values = torch.frombuffer(data, dtype=torch.float32 if width == 4 else torch.float64)
        if watched.parameter.device.type == "mps":
            values = values.to(torch.float32)
        return values

    def _take_snapshot(self) -> None:
        for watched in self._watched:
            flat = watched.parameter.detach().reshape(-1)
            dtype = flat.dtype if self._snapshot_dtype is None else self._snapshot_dtype
            place = flat.device if self._device is None else torch.device(self._device)
            watched.snapshot = flat.to(device=place, dtype=dtype, copy=True)
            if self._update_dtype is not None:
                watched.update = torch.zeros(flat.shape, dtype=self._update_dtype, device=place)

    def _open_baseline(self, baseline: CheckpointLike) -> None:
        checkpoint = open_checkpoint(_as_checkpoint(baseline))
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


def _chosen(
    model: torch.nn.Module, include: str | Iterable[str], exclude: str | Iterable[str]
) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The trainable parameters, each once, that the globs leave in."""
    including, excluding = _patterns(include), _patterns(exclude)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or not parameter.is_floating_point():
            continue
        if including and not any(pattern.match(name) for pattern in including):
            continue
        if any(pattern.match(name) for pattern in excluding):
            continue
        if hasattr(parameter, "to_local") or hasattr(parameter, "ds_id"):
            raise ValueError(
                f"parameter {name!r} is sharded over processes, and only whole ones can be watched"
            )
        yield name, parameter


def _patterns(globs: str | Iterable[str]) -> list[re.Pattern[str]]:
    texts = (globs,) if isinstance(globs, str) else tuple(globs)
    return [re.compile(fnmatch.translate(text)) for text in texts]


def _as_checkpoint(baseline: CheckpointLike) -> CheckpointLike:
    """The baseline; torch tensors of a mapping are copied, as they may be the live weights."""
    if isinstance(baseline, (str, os.PathLike, Checkpoint)):
        return baseline
    tensors: dict[str, Any] = {}
    for name, value in baseline.items():
        tensors[name] = value
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach().to("cpu", copy=True)
    return tensors


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
