"""The result of a diff: what changed in each pair, and what had no partner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Self

from ckptdiff._core import Table
from ckptdiff.checkpoint import Checkpoint, TensorRef
from ckptdiff.coverage import SideCoverage
from ckptdiff.lazy import LazySequence
from ckptdiff.options import DiffOptions
from ckptdiff.pairing import Sides
from ckptdiff.report import NotCompared, Report, not_compared
from ckptdiff.rows import Rows

if TYPE_CHECKING:
    from ckptdiff.config import ConfigDifference

__all__ = ["VERDICTS", "DiffReport", "ShapeMismatch"]

# From the same bits to a difference that counts.
VERDICTS = ("bit_identical", "equal", "within_tolerance", "different")


class ShapeMismatch(NamedTuple):
    """Two tensors of one name whose shapes differ, so that they cannot be compared."""

    name: str
    a: TensorRef
    b: TensorRef


class DiffReport(Report):
    """What changed from A to B, a row per tensor that both have in one shape and known dtypes.

    Made by :func:`ckptdiff.diff`; see the module for how reports chain.
    """

    def __init__(
        self,
        table: Table,
        *,
        sides: Sides,
        options: DiffOptions,
        notes: tuple[str, ...],
        seconds: float,
        config_differences: tuple[ConfigDifference, ...] = (),
    ) -> None:
        super().__init__(table, notes, seconds, sides.pairing.bytes_read)
        self._a = sides.a
        self._b = sides.b
        self._pairing = sides.pairing
        self._named_a = sides.named_a
        self._named_b = sides.named_b
        self._map = sides.map
        self._remarks = sides.remarks
        self._options = options
        self._config_differences = config_differences

    @property
    def a(self) -> Checkpoint:
        """The baseline; after a map, in the tensors that the map has made of its own."""
        return self._a

    @property
    def b(self) -> Checkpoint:
        """The other: ``d = b - a``."""
        return self._b

    @property
    def options(self) -> DiffOptions:
        """What the diff was asked for."""
        return self._options

    @property
    def config_differences(self) -> tuple[ConfigDifference, ...]:
        """The fields of the configs beside A and B that differ; empty where one has no config."""
        return self._config_differences

    @property
    def map(self) -> str | None:
        """The map that brought A's tensors under B's names, by its name or file; None for none."""
        return self._map

    @property
    def remarks(self) -> tuple[str, ...]:
        """How names were brought together, a sentence each: a map, a tied weight's twin."""
        return self._remarks

    @cached_property
    def verdicts(self) -> dict[str, int]:
        """How many tensors have each of the four verdicts."""
        counts = Counter(self._all_rows.values("verdict"))
        return {verdict: counts[verdict] for verdict in VERDICTS}

    @property
    def identical(self) -> bool:
        """Whether both hold the same tensors with the same bits (left-out tensors aside)."""
        return self.verdicts["bit_identical"] == len(self._all_rows) and not self._unpaired

    @property
    def matches(self) -> bool:
        """Whether every tensor has a partner, was compared, and is within the tolerance."""
        return self.verdicts["different"] == 0 and not self._unpaired

    @property
    def exit_status(self) -> int:
        """What the command exits with: 0 if both match, else 1."""
        return 0 if self.matches else 1

    @property
    def _unpaired(self) -> int:
        return sum(
            map(len, (self.only_in_a, self.only_in_b, self.shape_mismatch, self.unsupported))
        )

    @cached_property
    def only_in_a(self) -> Sequence[TensorRef]:
        """The tensors that only A has, under the names that rename rules gave them."""
        return LazySequence(self._pairing.only_in_a, self._tensor_of_a)

    @cached_property
    def only_in_b(self) -> Sequence[TensorRef]:
        """The tensors that only B has."""
        return LazySequence(self._pairing.only_in_b, self._b.tensor_at)

    @cached_property
    def shape_mismatch(self) -> Sequence[ShapeMismatch]:
        """The pairs whose shapes differ."""

        def mismatch(pair: tuple[int, int]) -> ShapeMismatch:
            a = self._tensor_of_a(pair[0])
            return ShapeMismatch(a.name, a, self._b.tensor_at(pair[1]))

        return LazySequence(self._pairing.shape_mismatch, mismatch)

    @cached_property
    def unsupported(self) -> Sequence[tuple[TensorRef, TensorRef]]:
        """The pairs of a shape that were not compared, as a dtype cannot be decoded.

        Where every pair is such a one, there is no report, but an InvalidCheckpointError.
        """
        return LazySequence(
            self._pairing.unsupported,
            lambda pair: (self._tensor_of_a(pair[0]), self._b.tensor_at(pair[1])),
        )

    @cached_property
    def excluded(self) -> Sequence[NotCompared]:
        """The tensors of both sides that were left out, by the globs or for a dtype."""
        return (
            *not_compared("a", self._named_a, self._a),
            *(NotCompared("a", a.name, "unsupported_dtype") for a, _ in self.unsupported),
            *not_compared("b", self._named_b, self._b),
            *(NotCompared("b", b.name, "unsupported_dtype") for _, b in self.unsupported),
        )

    @property
    def left_out(self) -> int:
        """How many tensors of both sides the globs left out."""
        return self._named_a.left_out + self._named_b.left_out

    @property
    def coverage(self) -> dict[str, SideCoverage]:
        """How much of A (``"a"``) and of B (``"b"``) was compared."""
        pairs = len(self._all_rows)
        return {
            side: SideCoverage(
                tensors=len(checkpoint),
                tensors_compared=pairs,
                elements=checkpoint.elements,
                elements_compared=self._pairing.elements,
                bytes=checkpoint.bytes,
                bytes_compared=compared,
            )
            for side, checkpoint, compared in (
                ("a", self._a, self._pairing.bytes_a),
                ("b", self._b, self._pairing.bytes_b),
            )
        }

    def only_changed(self) -> Self:
        """The rows in which a value changed, in the order at hand."""
        changed = self._rows.values("changed")
        rows = self._rows.where(lambda index: changed[index] > 0)
        return self._showing(rows, replace(self._selection, only_changed=True))

    def _tensor_of_a(self, index: int) -> TensorRef:
        names = self._named_a.names
        return self._a.tensor_at(index, name=None if names is None else names[index])

    @cached_property
    def nonfinite_rows(self) -> list[int]:
        """Which of the run's rows have a NaN or an infinity that the other side lacks."""
        mismatch = self._all_rows.values("nonfinite_mismatch")
        return [index for index, count in enumerate(mismatch) if count]

    def _by_attention(self) -> Rows:
        mismatch = self._rows.values("nonfinite_mismatch")
        changed = self._rows.values("changed")
        relative = self._rows.values("rel_l2")

        def tier(index: int) -> int:
            return 0 if mismatch[index] else 1 if changed[index] else 2

        def number(index: int) -> float:
            value = relative[index]
            return value if value == value else 0.0

        return self._rows.tiered(tier, number)
