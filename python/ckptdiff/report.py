"""What a diff and stats have in common: facts of the run, and a columnar view of its rows.

A report is immutable. ``sorted``, ``head``, ``only_changed`` and ``by`` return another report of
the same run that shows other rows or the same in another order, so they chain::

    report.by("layer").sorted("rel_l2").head(10).to_csv("layers.csv")

What is said of the run as a whole (its total, verdicts and coverage, what had no partner) does not
depend on the rows that are shown.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TextIO, overload

from ckptdiff._core import Table
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.naming.groups import Grouping, group_key
from ckptdiff.naming.rules import Named
from ckptdiff.rows import Row, Rows

if TYPE_CHECKING:
    import numpy

__all__ = [
    "Histogram",
    "NotCompared",
    "Report",
    "RunReport",
    "Selection",
    "histogram_of",
    "not_compared",
    "to_text",
]


class NotCompared(NamedTuple):
    """A tensor that was left out: by the globs (``not_included``, ``excluded``), or because its
    dtype or its partner's cannot be decoded (``unsupported_dtype``).
    """

    side: str
    name: str
    reason: str


class Histogram(NamedTuple):
    """How many values lie in each power of two: ``log2[e]`` counts 2**e <= |value| < 2**(e + 1).

    Zeros are counted apart. The values are ``|d|`` for a diff and ``|x|`` for stats, over the
    positions that are finite.
    """

    zeros: int
    log2: dict[int, int]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a run a report shows, and in what order."""

    by: str = "tensor"
    sort: str | None = None
    only_changed: bool = False
    top: int | None = None


class RunReport(ABC):
    """What every report says of its run and its rows, whatever these are."""

    def __init__(self, notes: tuple[str, ...], seconds: float, bytes_read: int):
        self._selection = Selection()
        self._notes = notes
        self._seconds = seconds
        self._bytes_read = bytes_read

    @property
    def selection(self) -> Selection:
        """How the rows shown were chosen."""
        return self._selection

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each rule that matched no tensor, and on what could not be decoded."""
        return self._notes

    @property
    def seconds(self) -> float:
        """How long reading and reducing took. In no output file: two runs would differ in it."""
        return self._seconds

    @property
    def bytes_read(self) -> int:
        """Bytes of tensors read, of all sides and in all passes."""
        return self._bytes_read

    @overload
    def to_json(self, path: None = None) -> str: ...
    @overload
    def to_json(self, path: str | PathLike[str]) -> None: ...
    def to_json(self, path: str | PathLike[str] | None = None) -> str | None:
        """Write the report as JSON to ``path``, or return it as a string.

        The schema is versioned (``ckptdiff.diff/1``, see docs/json.md). Keys are the columns'
        names, integers are exact, floats round-trip, a value that is not finite is the string
        ``NaN``, ``Infinity`` or ``-Infinity``, and an undefined one is null. Nothing depends on
        time, threads, instruction set, format or sharding.
        """
        return to_text(path, self._write_json)

    @overload
    def to_csv(self, path: None = None) -> str: ...
    @overload
    def to_csv(self, path: str | PathLike[str]) -> None: ...
    def to_csv(self, path: str | PathLike[str] | None = None) -> str | None:
        """Write the rows shown, with all columns, as CSV to ``path``, or return it as a string.

        A value that is not finite is ``NaN``, ``Infinity`` or ``-Infinity``; an undefined one is
        empty. Tensors without a partner have no row.
        """
        return to_text(path, self._write_csv)

    @abstractmethod
    def _write_json(self, stream: TextIO) -> None: ...

    @abstractmethod
    def _write_csv(self, stream: TextIO) -> None: ...


class Report(RunReport):
    """What both kinds of columnar report can do with their rows."""

    def __init__(self, table: Table, notes: tuple[str, ...], seconds: float, bytes_read: int):
        super().__init__(notes, seconds, bytes_read)
        self._all_rows = Rows(table)
        self._rows = self._all_rows

    # -- the rows shown ---------------------------------------------------------------------------

    @property
    def rows(self) -> Rows:
        """The rows shown, in their order."""
        return self._rows

    @property
    def column_names(self) -> list[str]:
        """The columns in their order."""
        return self._rows.column_names

    @cached_property
    def columns(self) -> dict[str, numpy.ndarray[Any, Any]]:
        """Every column as a one-dimensional numpy array, a row of it per tensor (or group).

        ``pandas.DataFrame(report.columns)`` and ``polars.DataFrame(report.columns)`` take it as it
        is. Measures are float64, NaN where undefined; counts are integers, or float64 if they can
        be undefined; names, dtypes and verdicts are strings. A shape or an index is the text of a
        JSON list (``[4096, 11008]``), empty where there is none; rows have tuples instead.
        """
        return self._rows.arrays()

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __getitem__(self, name: str) -> Row:
        """The row of a tensor (or group) by its name, shown or not. Raises KeyError."""
        return self._rows.row(self._index_of_name[name])

    @cached_property
    def _index_of_name(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self._rows.values("name"))}

    def sorted(self, column: str | None = None, *, descending: bool | None = None) -> Self:
        """The same rows in the order of a column; without one, what needs attention first.

        Numbers go from the largest down and text from A on, unless ``descending`` is given. NaN
        and undefined values are last, and equal ones keep their order. Raises ValueError, with the
        nearest name, for an unknown column.
        """
        if column is None:
            rows = self._by_attention()
        else:
            rows = self._rows.sorted(column, descending=descending)
        return self._showing(rows, replace(self._selection, sort=column))

    def head(self, count: int) -> Self:
        """The first ``count`` rows of the order at hand."""
        if count < 0:
            raise ValueError(f"the number of rows must be 0 or more, not {count}")
        return self._showing(self._rows.head(count), replace(self._selection, top=count))

    def by(self, grouping: Grouping) -> Self:
        """The rows of the run merged by ``layer``, ``module`` or ``total``, in natural order.

        Partials are merged, so every number is what one pass over the group's tensors would give,
        in contrast to an average of averages. Two columns are new: ``tensors``, and the tensor that
        holds the largest value (``max_abs_tensor`` or ``abs_max_tensor``).
        """
        rows = self._all_rows.merged(group_key(grouping))
        return self._showing(rows, Selection(by=grouping))

    @cached_property
    def total(self) -> Row:
        """Every tensor of the run merged into one row, whose name is ``total``.

        A run of no tensors has the total of a tensor without elements: counts and norms are 0,
        means NaN, and the verdict of a diff is ``bit_identical``.
        """
        return self.total_rows.row(0)

    @cached_property
    def total_rows(self) -> Rows:
        """The one row that is the total."""
        return self._all_rows.merged_into_one()

    def histogram(self, name: str | None = None) -> Histogram | None:
        """The log2 histogram of one row, or of the total; None if none was asked for."""
        if name is None:
            table, index = self.total_rows.table, 0
        else:
            table, index = self._rows.table, self._index_of_name[name]
        return histogram_of(table, index)

    # -- the run ----------------------------------------------------------------------------------

    @property
    def tensor_rows(self) -> Rows:
        """A row per tensor of the run, in natural order, whatever the report shows."""
        return self._all_rows

    # -- as text ----------------------------------------------------------------------------------

    @overload
    def to_markdown(self, path: None = None) -> str: ...
    @overload
    def to_markdown(self, path: str | PathLike[str]) -> None: ...
    def to_markdown(self, path: str | PathLike[str] | None = None) -> str | None:
        """Write summary and rows shown as Markdown to ``path``, or return it as a string."""
        from ckptdiff.render import markdown

        return to_text(path, lambda stream: markdown.write_report(self, stream))

    def _write_json(self, stream: TextIO) -> None:
        from ckptdiff.render import json

        json.write_report(self, stream)

    def _write_csv(self, stream: TextIO) -> None:
        from ckptdiff.render import csv

        csv.write_rows(self._rows, stream)

    def __repr__(self) -> str:
        from ckptdiff.render import table
        from ckptdiff.render.screen import Screen

        return "\n".join(table.report_lines(self, Screen.for_repr())).rstrip()

    def _repr_html_(self) -> str:
        from ckptdiff.render import html

        return html.report_html(self)

    # -- what differs between the kinds -----------------------------------------------------------

    @property
    @abstractmethod
    def nonfinite_rows(self) -> list[int]:
        """Which of the run's rows have a NaN or an infinity that needs attention."""

    @property
    @abstractmethod
    def left_out(self) -> int:
        """How many tensors the globs left out, of all sides."""

    @abstractmethod
    def _by_attention(self) -> Rows:
        """The rows shown, those first that a reader should see first."""

    def _showing(self, rows: Rows, selection: Selection) -> Self:
        report = copy.copy(self)
        # the copy shares what was computed of the run, but not what was of the rows shown
        report.__dict__.pop("columns", None)
        if rows.table is not self._rows.table:
            report.__dict__.pop("_index_of_name", None)
        report._rows = rows
        report._selection = selection
        return report


def not_compared(side: str, named: Named, checkpoint: Checkpoint) -> Iterator[NotCompared]:
    """The tensors of one side that its choices leave out."""
    if named.choices:
        for reason, name in named.reasons(checkpoint.names()):
            yield NotCompared(side, name, reason)


def histogram_of(table: Table, index: int) -> Histogram | None:
    """The histogram of a row of a table, None if none was asked for."""
    histogram = table.histogram(index)
    if histogram is None:
        return None
    zeros, counts = histogram
    return Histogram(zeros, dict(counts))


def to_text(path: str | PathLike[str] | None, write: Callable[[TextIO], None]) -> str | None:
    """Run ``write`` on a file, complete or not there at all, or on a string that is returned."""
    if path is None:
        import io

        buffer = io.StringIO()
        write(buffer)
        return buffer.getvalue()
    from ckptdiff.atomic import atomic_text

    with atomic_text(fspath(path)) as stream:
        write(stream)
    return None
