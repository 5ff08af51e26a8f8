"""What a checkpoint is made of: the combination of others that comes nearest to it.

Parts of a soup are near one another and far from zero: as they are, their Gram matrix would be
nearly singular. So the basis is the first part ``p_1``, the differences ``p_k - p_1``, and the
target is ``t - p_1``: one series whose other members all hang on the first part, and its Gram
matrix holds every inner product that the normal equations need. The coefficients of ``t ~ sum c_k
p_k`` follow, each tensor by itself, and of a group of tensors from the sum of their Gram matrices.

Least squares do not tell a mean in float32 from one that was rounded to bf16, nor either from
something near. Whether the target is exactly the mean of the parts, rounded, is compared element by
element in a pass of its own (see :mod:`ckptdiff.mix_order`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Self, TextIO

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.naming.groups import Grouping, group_key
from ckptdiff.naming.rules import Rules
from ckptdiff.report import RunReport, Selection
from ckptdiff.suggest import unknown

if TYPE_CHECKING:
    from ckptdiff._core import SeriesRun
    from ckptdiff.dynamics.data import Floats
    from ckptdiff.mix_order import Means

__all__ = ["COLUMNS", "Combination", "MixReport", "MixRow", "NotMixed", "combinations"]

#: The columns of a row that it can be sorted by.
COLUMNS = (
    "name",
    "numel",
    "finite",
    "coefficient_sum",
    "residual",
    "rel_residual",
    "mismatches",
    "max_ulp",
)


class Combination(NamedTuple):
    """``coefficients`` (K,) of the parts, ``||t - sum c_k p_k||``, and ``norm`` ``||t||``."""

    coefficients: tuple[float, ...]
    residual: float
    norm: float


class NotMixed(NamedTuple):
    """A tensor that target and parts do not all have in one shape, or that cannot be decoded.

    ``missing_in`` names where it cannot be used: ``target``, or the number of a part from 1.
    """

    name: str
    missing_in: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MixRow:
    """One tensor, or a group of ``tensors``.

    The combination is of the ``finite`` elements, those that are finite in the target and in every
    part; it is NaN where there are none. ``mismatches`` counts the elements of the target that are
    not the rounded mean of the parts, ``max_ulp`` is by how many representable steps at most.
    """

    name: str
    tensors: int
    numel: int
    finite: int
    coefficients: tuple[float, ...]
    residual: float
    #: ``residual / ||t||``; 0 where both are 0, infinite where only the norm is.
    rel_residual: float
    mismatches: int
    max_ulp: int

    @property
    def coefficient_sum(self) -> float:
        """The sum of the coefficients: 1 for any average."""
        return math.fsum(self.coefficients)


class MixReport(RunReport):
    """What a checkpoint is made of. Made by :func:`ckptdiff.mix`."""

    def __init__(
        self,
        *,
        target: Checkpoint,
        parts: Sequence[Checkpoint],
        rules: Rules,
        map_choice: str,
        run: SeriesRun,
        means: Means,
        remarks: Sequence[str],
        notes: Sequence[str],
        seconds: float,
    ) -> None:
        import numpy

        super().__init__(tuple(notes), seconds, (1 + means.passes) * run.bytes_read)
        size = len(parts) + 1
        self._target = target
        self._parts = tuple(parts)
        self._rules = rules
        self._names = tuple(run.names)
        self._numel = tuple(run.numel)
        self._finite = tuple(run.finite)
        self._gram: Floats = numpy.frombuffer(run.gram, "<f8").reshape(-1, size, size)
        self._means = {mean.name: mean for mean in means.tensors}
        self._order = means.order
        self._map = map_choice
        self._remarks = tuple(remarks)
        self._not_common = tuple(
            NotMixed(name, tuple(_side(index, len(parts)) for index in missing))
            for name, missing in run.not_common
        )
        self._all_rows = self._grouped(str)
        self._rows = self._all_rows
        self._total = self._rows_of({"total": range(len(self._names))})[0]

    # -- the run ----------------------------------------------------------------------------------

    @property
    def target(self) -> Checkpoint:
        """The checkpoint that is explained."""
        return self._target

    @property
    def parts(self) -> tuple[Checkpoint, ...]:
        """What it may be made of, in the order given."""
        return self._parts

    @property
    def rules(self) -> Rules:
        """Which tensors were looked at."""
        return self._rules

    @property
    def not_common(self) -> tuple[NotMixed, ...]:
        """The tensors that could not take part."""
        return self._not_common

    @property
    def total(self) -> MixRow:
        """All tensors as one row, whose name is ``total``."""
        return self._total

    @property
    def exact(self) -> bool:
        """Whether the target is, in every element of every tensor, the rounded mean of the parts.

        The mean is taken in float32, in the order of :attr:`order`, and rounded to the target's
        dtype, to nearest even. False where a tensor could not take part.
        """
        return not self._not_common and not self.total.mismatches

    @property
    def order(self) -> tuple[int, ...]:
        """The numbers of the parts, from 1, in the order in which their mean was summed.

        Float32 sums depend on it. Of up to four parts all orders are tried, and this is the first
        in which every element agrees, the given one first; where none does, the given one.
        """
        return tuple(place + 1 for place in self._order)

    @property
    def map(self) -> str:
        """``auto`` or ``none``, as it was asked for."""
        return self._map

    @property
    def remarks(self) -> tuple[str, ...]:
        """How names were brought together, a sentence each: a map, a tied weight's twin."""
        return self._remarks

    # -- the rows shown ---------------------------------------------------------------------------

    @property
    def rows(self) -> tuple[MixRow, ...]:
        """The rows shown, in their order."""
        return self._rows

    @property
    def all_rows(self) -> tuple[MixRow, ...]:
        """Every row of the grouping at hand, in natural order, whatever the report shows."""
        return self._all_rows

    def __len__(self) -> int:
        return len(self._rows)

    def by(self, grouping: Grouping) -> Self:
        """The tensors merged by ``layer``, ``module`` or ``total``, in natural order.

        The coefficients of a group are those of all its elements together, not a mean of its
        tensors' coefficients.
        """
        report = self._showing(self._grouped(group_key(grouping)), Selection(by=grouping))
        report._all_rows = report._rows
        return report

    def sorted(self, column: str | None = None) -> Self:
        """The same rows, numbers from the largest down, NaN last, names as they were.

        Without a column, what is least explained first: by ``mismatches``, then ``rel_residual``.
        Raises ValueError, with the nearest name, for an unknown column.
        """
        if column is not None and column not in COLUMNS:
            raise ValueError(unknown("column", column, COLUMNS))

        def key(row: MixRow) -> tuple[float, ...]:
            if column is None:
                return -row.mismatches, _descending(row.rel_residual)
            return (_descending(getattr(row, column)),)

        rows: Iterable[MixRow]
        if column == "name":
            # all rows are in natural order of their names as they are made
            shown = set(map(id, self._rows))
            rows = [row for row in self._all_rows if id(row) in shown]
        else:
            rows = sorted(self._rows, key=key)
        return self._showing(rows, replace(self._selection, sort=column))

    def head(self, count: int) -> Self:
        """The first ``count`` rows of the order at hand."""
        if count < 0:
            raise ValueError(f"the number of rows must be 0 or more, not {count}")
        return self._showing(self._rows[:count], replace(self._selection, top=count))

    # -- as text ----------------------------------------------------------------------------------

    def _write_json(self, stream: TextIO) -> None:
        from ckptdiff.render import mix

        mix.write_json(self, stream)

    def _write_csv(self, stream: TextIO) -> None:
        from ckptdiff.render import mix

        mix.write_csv(self, stream)

    def __repr__(self) -> str:
        from ckptdiff.render import mix
        from ckptdiff.render.screen import Screen

        return "\n".join(mix.table_lines(self, Screen.for_repr())).rstrip()

    def _grouped(self, key: Callable[[str], str]) -> tuple[MixRow, ...]:
        """A row for each group of tensors, in the order in which their first tensors come."""
        groups: dict[str, list[int]] = {}
        for index, name in enumerate(self._names):
            groups.setdefault(key(name), []).append(index)
        return self._rows_of(groups)

    def _rows_of(self, groups: Mapping[str, Sequence[int]]) -> tuple[MixRow, ...]:
        """A row for each group, from the sums of its tensors."""
        import numpy

        size = len(self._parts) + 1
        gram = numpy.zeros((len(groups), size, size))
        for number, members in enumerate(groups.values()):
            gram[number] = self._gram[list(members)].sum(axis=0)
        return tuple(
            self._row(name, members, found)
            for (name, members), found in zip(groups.items(), combinations(gram), strict=True)
        )

    def _row(self, name: str, members: Sequence[int], found: Combination) -> MixRow:
        numel = sum(self._numel[index] for index in members)
        finite = sum(self._finite[index] for index in members)
        if not finite:
            nowhere = (math.nan,) * len(self._parts)
            found = Combination(nowhere, math.nan, math.nan)
        means = [self._means[self._names[index]] for index in members]
        return MixRow(
            name=name,
            tensors=len(members),
            numel=numel,
            finite=finite,
            coefficients=found.coefficients,
            residual=found.residual,
            rel_residual=_relative(found.residual, found.norm),
            mismatches=sum(mean.mismatches for mean in means),
            max_ulp=max((mean.max_ulp for mean in means), default=0),
        )

    def _showing(self, rows: Iterable[MixRow], selection: Selection) -> Self:
        report = copy.copy(self)
        report._rows = tuple(rows)
        report._selection = selection
        return report


def combinations(gram: Floats) -> list[Combination]:
    """The least-squares combination of K parts for each of R tensors, from inner products.

    ``gram`` (R, K + 1, K + 1) is of ``p_1, p_2 - p_1, …, p_K - p_1, t - p_1``. Where the parts do
    not determine the coefficients (two of them are the same, say), those are given that are nearest
    to 1/K each; where float64 does not hold a product, all is NaN. The residual's own rounding is
    about 1e-8 of ``||t - p_1||``.
    """
    import numpy

    rows, parts = len(gram), gram.shape[1] - 1
    held = numpy.asarray(numpy.isfinite(gram).all(axis=(1, 2)))
    gram = numpy.where(held[:, None, None], gram, 0.0)
    inner, with_target = gram[:, :parts, :parts], gram[:, :parts, parts]
    scale = numpy.sqrt(numpy.diagonal(inner, axis1=1, axis2=2))
    unit = 1 / numpy.where(scale > 0, scale, 1)
    # of the basis scaled to length 1, in which a part that differs little is as good as any
    values, vectors = numpy.linalg.eigh(inner * unit[:, :, None] * unit[:, None, :])
    largest = numpy.maximum(values.max(axis=1, keepdims=True), 0)
    determined = values > _NEGLIGIBLE * largest
    projected = numpy.einsum("rki,rk->ri", vectors, unit * with_target)
    solved = numpy.where(determined, projected / numpy.where(determined, values, 1), 0)
    weights = unit * numpy.einsum("rki,ri->rk", vectors, solved)
    # t = p_1 + sum x_k u_k, and u_k = p_k - p_1 but for u_1 = p_1
    to_parts = numpy.eye(parts)
    to_parts[0, 1:] = -1
    coefficients = numpy.einsum("jk,rk->rj", to_parts, weights)
    coefficients[:, 0] += 1
    for row in numpy.flatnonzero(~determined.all(axis=1)):
        free = to_parts @ (unit[row][:, None] * vectors[row][:, ~determined[row]])
        toward_even = numpy.linalg.lstsq(free, 1 / parts - coefficients[row], rcond=None)[0]
        coefficients[row] += free @ toward_even
    signed = numpy.concatenate([-weights, numpy.ones((rows, 1))], axis=1)
    squares = numpy.einsum("ri,rij,rj->r", signed, gram, signed)
    norms = gram[:, 0, 0] + 2 * gram[:, 0, parts] + gram[:, parts, parts]
    coefficients[~held] = numpy.nan
    residuals = numpy.where(held, numpy.sqrt(numpy.maximum(squares, 0)), numpy.nan)
    lengths = numpy.where(held, numpy.sqrt(numpy.maximum(norms, 0)), numpy.nan)
    return [
        Combination(tuple(of_parts), residual, norm)
        for of_parts, residual, norm in zip(
            coefficients.tolist(), residuals.tolist(), lengths.tolist(), strict=True
        )
    ]


# What an eigenvalue of a matrix with ones on its diagonal must exceed not to be rounding.
_NEGLIGIBLE = 1e-12


def _side(index: int, parts: int) -> str:
    """The target is the last of the series."""
    return "target" if index == parts else str(index + 1)


def _relative(residual: float, norm: float) -> float:
    if norm == 0:
        return 0.0 if residual == 0 else math.inf
    return residual / norm


def _descending(value: float) -> float:
    return math.inf if math.isnan(value) else -value
