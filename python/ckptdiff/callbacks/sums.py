"""The sums over a parameter that every measure is made of, taken where the parameter lies.

A chunk is widened to float64 (float32 on a device that has nothing wider) and reduced to eight
numbers, which stay on the device until all chunks are done: there is one transfer and one wait per
call, and the memory beside model and snapshot is that of a few chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from ckptdiff.backends.torch.run import has_float64

__all__ = ["Sums", "chunk_sums", "chunks_of", "in_float64", "wide_dtype"]

# Elements reduced at once: on a CPU as many as stay in its caches, elsewhere as keep it busy.
_CHUNK_CPU = 1 << 17
_CHUNK_DEVICE = 1 << 23


@dataclass(slots=True)
class Sums:
    """Counts and sums of squares; w is the weight now, r what it is held against, d = w - r.

    Positions where w or r is not finite are in no sum of squares. ``dot`` is that of d with the
    previous update p. NaN and infinities are counted in w.
    """

    numel: float = 0.0
    nan: float = 0.0
    inf: float = 0.0
    changed: float = 0.0
    square_difference: float = 0.0
    square_reference: float = 0.0
    square_previous: float = 0.0
    dot: float = 0.0

    def add(self, values: Sequence[float]) -> None:
        """Add what :func:`chunk_sums` gave, in float64."""
        for field, value in zip(fields(self), values, strict=True):
            setattr(self, field.name, getattr(self, field.name) + value)

    def merge(self, other: Sums) -> None:
        """Add those of another parameter."""
        self.add([getattr(other, field.name) for field in fields(other)])


def wide_dtype(device: torch.device) -> torch.dtype:
    """The widest float that a device has."""
    return torch.float64 if has_float64(device) else torch.float32


def chunks_of(numel: int, device: torch.device) -> Iterator[slice]:
    """The slices in which a parameter is reduced."""
    step = _CHUNK_CPU if device.type == "cpu" else _CHUNK_DEVICE
    for start in range(0, numel, step):
        yield slice(start, min(start + step, numel))


def chunk_sums(
    now: torch.Tensor, reference: torch.Tensor, previous: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(the sums in the order of :class:`Sums`, d), of equally long runs of elements on one device.

    d is 0 where a side is not finite. ``changed`` counts elements that differ once both sides are
    rounded to bfloat16; two NaN are equal there, as are +0 and -0.
    """
    wide = wide_dtype(now.device)
    weights, held = now.to(wide), reference.to(wide)
    difference = weights - held
    rounded, rounded_held = now.to(torch.bfloat16), reference.to(torch.bfloat16)
    differs = rounded != rounded_held
    square_difference = torch.dot(difference, difference)
    zero = torch.zeros((), dtype=wide, device=now.device)
    nan = inf = zero
    # The sum is finite only if every element is, and then nothing need be looked for. To ask that
    # of a device is to wait for it.
    if now.device.type != "cpu" or not bool(torch.isfinite(square_difference)):
        is_nan = torch.isnan(now)
        nan = is_nan.sum().to(wide)
        inf = torch.isinf(now).sum().to(wide)
        differs &= ~(is_nan & torch.isnan(reference))
        finite = torch.isfinite(weights) & torch.isfinite(held)
        difference = torch.where(finite, difference, zero)
        held = torch.where(finite, held, zero)
        square_difference = torch.dot(difference, difference)
    kept = None if previous is None else previous.to(wide)
    sums = torch.stack(
        [
            torch.full((), float(now.numel()), dtype=wide, device=now.device),
            nan,
            inf,
            differs.sum().to(wide),
            square_difference,
            torch.dot(held, held),
            zero if kept is None else torch.dot(kept, kept),
            zero if kept is None else torch.dot(kept, difference),
        ]
    )
    return sums, difference


def in_float64(sums: Sequence[torch.Tensor]) -> list[list[float]]:
    """All sums on the CPU, as Python floats, by one transfer per device."""
    if not sums:
        return []
    values: Any = torch.stack(list(sums)).cpu().to(torch.float64).tolist()
    return list(values)
