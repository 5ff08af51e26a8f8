"""Rows of a core table in some order: the columnar half of a report.

The core keeps the numbers, a column at a time as bytes, with the exact partial of every row beside
it. :class:`Rows` is that table seen through an order (all rows, or a sorted or shortened choice of
them). Rows become Python objects a slice at a time, so 200,000 of them are written in the memory
of a thousand, and columns become numpy arrays only when somebody asks for arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ckptdiff._core import Table
from ckptdiff.suggest import unknown

if TYPE_CHECKING:
    import numpy

__all__ = ["Row", "Rows"]

# How memoryview.cast spells the numpy types that the core hands out.
_MEMORYVIEW_FORMATS = {"<f8": "d", "<i8": "q", "<u8": "Q", "|u1": "B"}

# The worst last, so that sorting by verdict in descending order begins with it.
_SEVERITY = {"bit_identical": 0, "equal": 1, "within_tolerance": 2, "different": 3}

# Columns one reads from A to Z; every other column is sorted from its largest value down.
_ASCENDING = frozenset({"name", "dtype", "dtype_a", "dtype_b", "shape", "hash"})

_SLICE = 1024


class Row(Mapping[str, Any]):
    """One row: ``row.rel_l2`` and ``row["rel_l2"]`` are the same; ``dict(row)`` is a plain dict.

    A mapping with attributes rather than a dataclass, because thresholds, histograms and roll-ups
    add columns. Shapes and indices are tuples, integers exact Python ints whatever their size, and
    what is undefined is None.
    """

    __slots__ = ("_positions", "_values")

    def __init__(self, positions: Mapping[str, int], values: Sequence[object]) -> None:
        self._positions = positions
        self._values = values

    def __getitem__(self, column: str) -> Any:
        return self._values[self._positions[column]]

    def __getattr__(self, column: str) -> Any:
        if column.startswith("_"):
            raise AttributeError(column)
        try:
            return self._values[self._positions[column]]
        except KeyError:
            raise AttributeError(unknown("column", column, self._positions)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, column: object) -> bool:
        return column in self._positions

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._positions]

    def __repr__(self) -> str:
        pairs = zip(self._positions, self._values, strict=True)
        return f"Row({', '.join(f'{column}={value!r}' for column, value in pairs)})"


class Rows:
    """The rows of a core table: all, in natural order of their names, or some in another order."""

    __slots__ = ("order", "positions", "table")

    def __init__(self, table: Table, order: Sequence[int] | None = None) -> None:
        self.table = table
        self.order: Sequence[int] = range(len(table)) if order is None else order
        self.positions = {name: index for index, name in enumerate(table.column_names)}

    @property
    def column_names(self) -> list[str]:
        """The columns in their order."""
        return list(self.positions)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Row]:
        for _, row in self.indexed():
            yield row

    def indexed(self) -> Iterator[tuple[int, Row]]:
        """(index in the table, row) of each row."""
        for index, values in self.enumerated():
            yield index, Row(self.positions, values)

    def enumerated(self) -> Iterator[tuple[int, tuple[object, ...]]]:
        """(index in the table, values) of each row; the core converts 1024 rows at a time."""
        for start, stop in self.runs():
            yield from zip(range(start, stop), self.table.rows(start, stop), strict=True)

    def runs(self) -> Iterator[tuple[int, int]]:
        """The order as ranges [start, stop) of neighbouring rows, none longer than a slice."""
        order = self.order
        if isinstance(order, range):
            for start in range(0, len(order), _SLICE):
                piece = order[start : start + _SLICE]
                yield piece.start, piece.stop
            return
        position = 0
        while position < len(order):
            start = order[position]
            length = 1
            while (
                length < _SLICE
                and position + length < len(order)
                and order[position + length] == start + length
            ):
                length += 1
            yield start, start + length
            position += length

    def names(self) -> Iterator[str]:
        """The names of the rows, in the table's order, of which whole slices can be had."""
        order = self.order if isinstance(self.order, range) else sorted(self.order)
        for start, stop in Rows(self.table, order).runs():
            yield from self.table.column("name", start, stop)  # type: ignore[misc]

    def row(self, index: int) -> Row:
        """The row at an index of the table, which need not be among those shown."""
        return Row(self.positions, self.table.rows(index, index + 1)[0])

    def values(self, column: str) -> Sequence[Any]:
        """A column of the whole table, in the table's order: numbers, strings or tuples.

        Raises ValueError, with the nearest name, for an unknown column.
        """
        self.check_column(column)
        data = self.table.column(column)
        if isinstance(data, tuple):
            typestr, buffer = data
            return memoryview(buffer).cast(_MEMORYVIEW_FORMATS[typestr])  # type: ignore[call-overload, no-any-return]
        return data

    def arrays(self) -> dict[str, numpy.ndarray[Any, Any]]:
        """Every column in the order shown, each a one-dimensional numpy array of its own memory.

        Counts are unsigned 64-bit; measures are float64 with NaN where they are undefined; names,
        dtypes, verdicts, shapes and indices are Python strings in an object array, empty where
        undefined. A shape or index is written as JSON writes it (``[4096, 11008]``, and ``[]`` for
        a 0-d tensor). pandas and polars both take that as a column of text; neither takes tuples as
        anything but opaque objects, and polars takes a column of None for such, too.
        """
        data = self.table.columns(self.column_names)
        return {
            name: self._array(column) for name, column in zip(self.positions, data, strict=True)
        }

    def _array(self, data: tuple[str, bytes] | list[str]) -> numpy.ndarray[Any, Any]:
        import numpy

        if isinstance(data, tuple):
            typestr, buffer = data
            array = numpy.frombuffer(buffer, dtype=typestr)
        elif not data:
            # an empty array of objects would not be text to polars
            array = numpy.empty(0, dtype=str)
        else:
            array = numpy.empty(len(data), dtype=object)
            array[:] = data
        if isinstance(self.order, range) and len(self.order) == len(array):
            return array.copy() if isinstance(data, tuple) else array
        return array[numpy.asarray(self.order, dtype=numpy.intp)]

    def sorted(self, column: str, *, descending: bool | None = None) -> Rows:
        """The same rows ordered by a column, undefined values and NaN last, ties as they were.

        Numbers and verdicts go from the largest (the worst) down and text from A on, unless
        ``descending`` says otherwise. Names are in natural order, digit runs being numbers.
        """
        values = self.values(column)
        if descending is None:
            descending = column not in _ASCENDING
        order: Sequence[int] = list(self.order)
        if column == "name":
            # the table is in natural order of the names already
            return Rows(self.table, sorted(order, reverse=descending))
        if column == "verdict":
            severity = [_SEVERITY.get(value, 0) for value in values]
            return Rows(self.table, sorted(order, key=severity.__getitem__, reverse=descending))
        undefined = [index for index in order if values[index] is None or _is_nan(values[index])]
        if undefined:
            left_out = set(undefined)
            order = [index for index in order if index not in left_out]
        return Rows(
            self.table, sorted(order, key=values.__getitem__, reverse=descending) + undefined
        )

    def tiered(
        self, tier: Callable[[int], int], number: Callable[[int], float] | None = None
    ) -> Rows:
        """The same rows ordered by a tier of their index in the table, 0 first.

        In a tier those with the largest ``number`` come first. A tuple of the two for each row, as
        a key to sort by, would take as much memory as the partials.
        """
        tiers: dict[int, list[int]] = {}
        for index in self.order:
            tiers.setdefault(tier(index), []).append(index)
        order: list[int] = []
        for _, indices in sorted(tiers.items()):
            order += indices if number is None else sorted(indices, key=number, reverse=True)
        return Rows(self.table, order)

    def head(self, count: int) -> Rows:
        """The first ``count`` rows of this order."""
        return Rows(self.table, self.order[:count])

    def where(self, keep: Callable[[int], bool]) -> Rows:
        """The rows whose index in the table ``keep`` accepts, in this order."""
        return Rows(self.table, [index for index in self.order if keep(index)])

    def merged(self, key: Callable[[str], str]) -> Rows:
        """The rows merged into groups, exactly: partials are added up, not averages averaged.

        ``key`` maps a name to the name of its group. Groups come in the order in which their first
        row does; only rows in this order take part.
        """
        numbers: dict[str, int] = {}
        groups = [-1] * len(self.table)
        for index, name in zip(sorted(self.order), self.names(), strict=True):
            groups[index] = numbers.setdefault(key(name), len(numbers))
        return Rows(self.table.merged(groups, list(numbers)))

    def merged_into_one(self) -> Rows:
        """All rows of this order merged into one, whose name is ``total``."""
        groups = [-1] * len(self.table)
        for index in self.order:
            groups[index] = 0
        return Rows(self.table.merged(groups, ["total"]))

    def check_column(self, column: str) -> None:
        """Raise ValueError, with the nearest name, where there is no such column."""
        if column not in self.positions:
            raise ValueError(unknown("column", column, self.positions))


def _is_nan(value: object) -> bool:
    return value != value
