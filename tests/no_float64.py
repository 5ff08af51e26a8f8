"""The CPU as if it were a device without float64 that takes subnormals for zeros, as MPS does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from ckptdiff.backends.torch import run
from ckptdiff.backends.torch.diff_single import SingleDiffKernel
from ckptdiff.backends.torch.stats_single import SingleStatsKernel


@contextmanager
def without_float64() -> Iterator[dict[str, int]]:
    """Reduce as on such a device; counts the chunks of it, and those brought to the CPU again."""
    chunks = {"reduced": 0, "at risk": 0}
    again = run._reduced_on_cpu

    def flushing(reduce: Any) -> Any:
        def wrapped(self: Any, *arguments: Any) -> Any:
            chunks["reduced"] += 1
            torch.set_flush_denormal(True)
            try:
                chunk = reduce(self, *arguments)
            finally:
                torch.set_flush_denormal(False)
            dtypes = {chunk.sums.dtype, chunk.counts.dtype}
            assert dtypes == {torch.float32, torch.int32}, dtypes
            return chunk

        return wrapped

    def counted(*arguments: Any) -> Any:
        chunks["at risk"] += 1
        return again(*arguments)

    with (
        patch.object(run, "has_float64", lambda device: False),
        patch.object(run, "_reduced_on_cpu", counted),
        patch.object(SingleDiffKernel, "reduce", flushing(SingleDiffKernel.reduce)),
        patch.object(SingleStatsKernel, "reduce", flushing(SingleStatsKernel.reduce)),
    ):
        yield chunks
