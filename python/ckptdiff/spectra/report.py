"""The result of a spectrum: a row per matrix, and what was left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.report import NotCompared, to_text
from ckptdiff.spectra.options import SpectrumOptions
from ckptdiff.spectra.row import COLUMNS, SpectrumRow
from ckptdiff.suggest import unknown

if TYPE_CHECKING:
    import numpy

__all__ = ["SpectrumReport"]

_TEXT = ("name", "dtype_a", "dtype_b", "method", "low_rank")
_LISTS = ("values", "angles_left", "angles_right")


@dataclass(frozen=True)
class SpectrumReport:
    """The spectra of the matrices of A, or of B - A. Made by :func:`ckptdiff.spectrum`.

    ``matrices`` are the rows of the run in natural order; iteration and the methods that write show
    those that :meth:`sorted` and :meth:`head` chose. ``not_compared`` names each tensor that has no
    row: left out by a glob (``not_included``, ``excluded``), without a partner (``only_in_a``,
    ``only_in_b``, ``shape_mismatch``), not decoded (``unsupported_dtype``), ``complex``, or with
    fewer than two dimensions or no elements (``not_a_matrix``).
    """

    a: Checkpoint
    b: Checkpoint | None
    options: SpectrumOptions
    matrices: tuple[SpectrumRow, ...]
    not_compared: tuple[NotCompared, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    bytes_read: int = 0
    shown: tuple[SpectrumRow, ...] = ()
    sort: str | None = None
    top: int | None = None

    def __len__(self) -> int:
        return len(self.shown)

    def __iter__(self) -> Iterator[SpectrumRow]:
        return iter(self.shown)

    def __getitem__(self, name: str) -> SpectrumRow:
        """The row of a matrix by its name, shown or not. Raises KeyError."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, SpectrumRow]:
        return {row.name: row for row in self.matrices}

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns in their order."""
        return COLUMNS

    @cached_property
    def columns(self) -> dict[str, numpy.ndarray[Any, Any]]:
        """The columns of the rows shown as numpy arrays; NaN is what is not known.

        Numbers are float64 but for ``rows``, ``columns`` and ``nonfinite`` (int64), texts are
        objects (None where there is none), and lists have the shape (rows shown, the longest),
        padded by NaN.
        """
        import numpy

        arrays: dict[str, numpy.ndarray[Any, Any]] = {}
        for name in COLUMNS:
            values = [getattr(row, name) for row in self.shown]
            if name in _TEXT:
                arrays[name] = numpy.array(values, object)
            elif name in _LISTS:
                longest = max((len(value) for value in values), default=0)
                padded = [[*value, *[math.nan] * (longest - len(value))] for value in values]
                arrays[name] = numpy.array(padded, numpy.float64).reshape(len(values), longest)
            elif name in ("rows", "columns", "nonfinite"):
                arrays[name] = numpy.array(values, numpy.int64)
            else:
                numbers = [math.nan if value is None else value for value in values]
                arrays[name] = numpy.array(numbers, numpy.float64)
        return arrays

    def sorted(self, column: str, *, descending: bool | None = None) -> SpectrumReport:
        """The rows shown in the order of a column.

        Numbers go from the largest down and text from A on, unless ``descending`` is given. What is
        not known is last, and equal ones keep their order. Raises ValueError, with the nearest
        name, for an unknown column and for one of lists.
        """
        sortable = [name for name in COLUMNS if name not in _LISTS]
        if column not in sortable:
            raise ValueError(unknown("column", column, sortable))
        known = [row for row in self.shown if getattr(row, column) is not None]
        down = column not in _TEXT if descending is None else descending
        ordered = sorted(known, key=lambda row: getattr(row, column), reverse=down)
        rest = [row for row in self.shown if getattr(row, column) is None]
        return self._showing((*ordered, *rest), sort=column, top=self.top)

    def head(self, count: int) -> SpectrumReport:
        """The first ``count`` rows of the order at hand."""
        if count < 0:
            raise ValueError(f"the number of rows must be 0 or more, not {count}")
        return self._showing(self.shown[:count], sort=self.sort, top=count)

    @property
    def nonfinite(self) -> Sequence[SpectrumRow]:
        """The matrices with a NaN or an infinity, of which nothing else is known."""
        return [row for row in self.matrices if row.nonfinite]

    @overload
    def to_json(self, path: None = None) -> str: ...
    @overload
    def to_json(self, path: str | PathLike[str]) -> None: ...
    def to_json(self, path: str | PathLike[str] | None = None) -> str | None:
        """Write ``ckptdiff.spectrum/1`` to ``path``, or return it as a string."""
        from ckptdiff.render import spectrum

        return to_text(path, lambda stream: spectrum.write_json(self, stream))

    @overload
    def to_csv(self, path: None = None) -> str: ...
    @overload
    def to_csv(self, path: str | PathLike[str]) -> None: ...
    def to_csv(self, path: str | PathLike[str] | None = None) -> str | None:
        """Write the rows shown, with all columns, as CSV; lists are the text of a JSON list."""
        from ckptdiff.render import spectrum

        return to_text(path, lambda stream: spectrum.write_csv(self, stream))

    @overload
    def to_markdown(self, path: None = None) -> str: ...
    @overload
    def to_markdown(self, path: str | PathLike[str]) -> None: ...
    def to_markdown(self, path: str | PathLike[str] | None = None) -> str | None:
        """Write the table as Markdown to ``path``, or return it as a string."""
        from ckptdiff.render import spectrum

        return to_text(path, lambda stream: spectrum.write_markdown(self, stream))

    def __repr__(self) -> str:
        from ckptdiff.render import spectrum
        from ckptdiff.render.screen import Screen

        shown = self if len(self) <= 10 else self.head(10)
        return "\n".join(spectrum.table_lines_of(shown, Screen.for_repr())).rstrip()

    def _showing(
        self, rows: tuple[SpectrumRow, ...], *, sort: str | None, top: int | None
    ) -> SpectrumReport:
        return replace(self, shown=rows, sort=sort, top=top)
