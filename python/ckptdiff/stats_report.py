"""The result of stats: what is in each tensor of one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from ckptdiff._core import Table
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.coverage import SideCoverage
from ckptdiff.naming.rules import Named
from ckptdiff.options import StatsOptions
from ckptdiff.report import NotCompared, Report, not_compared
from ckptdiff.rows import Rows

__all__ = ["StatsReport"]


class StatsReport(Report):
    """What is in one checkpoint, a row per tensor. Made by :func:`ckptdiff.stats`."""

    def __init__(
        self,
        table: Table,
        *,
        a: Checkpoint,
        named: Named,
        options: StatsOptions,
        notes: tuple[str, ...],
        seconds: float,
    ) -> None:
        super().__init__(table, notes, seconds, a.manifest.bytes_read(named.for_core))
        self._a = a
        self._named = named
        self._options = options

    @property
    def a(self) -> Checkpoint:
        """The checkpoint."""
        return self._a

    @property
    def options(self) -> StatsOptions:
        """What the stats were asked for."""
        return self._options

    @cached_property
    def excluded(self) -> Sequence[NotCompared]:
        """The tensors that were left out, by the globs or for a dtype that cannot be decoded."""
        return tuple(not_compared("a", self._named, self._a))

    @property
    def left_out(self) -> int:
        """How many tensors the globs left out."""
        return self._named.left_out

    @cached_property
    def coverage(self) -> SideCoverage:
        """How much of the checkpoint was looked at; ``compared`` means reduced here."""
        return SideCoverage(
            tensors=len(self._a),
            tensors_compared=len(self._all_rows),
            elements=self._a.elements,
            elements_compared=sum(self._all_rows.values("numel")),
            bytes=self._a.bytes,
            bytes_compared=sum(self._all_rows.values("bytes")),
        )

    @cached_property
    def nonfinite_rows(self) -> list[int]:
        """Which of the run's rows have a NaN or an infinity."""
        columns = [self._all_rows.values(name) for name in ("nan", "pos_inf", "neg_inf")]
        return [index for index, counts in enumerate(zip(*columns, strict=True)) if any(counts)]

    def _by_attention(self) -> Rows:
        """Those with values that are not finite first, then those with saturated ones."""
        nonfinite = [self._rows.values(name) for name in ("nan", "pos_inf", "neg_inf")]
        saturated = self._rows.values("saturated")

        def tier(index: int) -> int:
            if any(counts[index] for counts in nonfinite):
                return 0 if saturated[index] else 1
            return 2 if saturated[index] else 3

        return self._rows.tiered(tier)
