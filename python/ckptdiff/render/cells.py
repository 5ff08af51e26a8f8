"""Which columns people see, and how a row's values read there.

The table, Markdown and HTML show the same columns. Programs get every column from JSON, CSV and
``report.columns``; here are the few that answer "what changed, by how much, and is it sane?".
A column that would say nothing (dtypes that are all alike, non-finite counts that are all zero) is
left out.

Rows are asked by subscript, which takes an eighth of the time that an attribute does: a table of
200,000 rows has four million cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from ckptdiff.diff_report import DiffReport
from ckptdiff.render.bars import bar, common_range, sparkline
from ckptdiff.render.escape import escape
from ckptdiff.render.layout import Cell, Column
from ckptdiff.render.units import (
    exponential,
    human_count,
    percent,
    scientific,
    shape_text,
    thousands,
)
from ckptdiff.report import Histogram, Report, histogram_of
from ckptdiff.rows import Row
from ckptdiff.stats_report import StatsReport

__all__ = [
    "VERDICT_MARKS",
    "VERDICT_STYLES",
    "VERDICT_WORDS",
    "ShownColumn",
    "nonfinite_cell",
    "shown_columns",
]

VERDICT_WORDS = {
    "different": "different",
    "within_tolerance": "within tolerance",
    "equal": "equal in value",
    "bit_identical": "bit-identical",
}
VERDICT_MARKS = {
    "different": "≠",
    "within_tolerance": "≈",
    "equal": "=",
    "bit_identical": "≡",
}
VERDICT_STYLES = {
    "different": "yellow",
    "within_tolerance": "cyan",
    "equal": "blue",
    "bit_identical": "green",
}

_BAR_WIDTH = 10
_SPARKLINE_WIDTH = 24

# A table of more rows than this is read by a program: it is not looked through for columns to omit.
_LOOKED_THROUGH = 4096


@dataclass(frozen=True, slots=True)
class ShownColumn:
    """A column for people: its place in the layout, and the cell of a row.

    ``cell`` gets the row and its index in the table, which is -1 for the total.
    """

    column: Column
    cell: Callable[[Row, int], Cell]


def shown_columns(report: Report) -> list[ShownColumn]:
    """The columns for a report's rows."""
    sample = list(islice(report.rows.indexed(), _LOOKED_THROUGH))
    rows = [row for _, row in sample]
    axis = _axis(report, [index for index, _ in sample])
    if isinstance(report, DiffReport):
        return _diff_columns(report, rows, axis)
    assert isinstance(report, StatsReport)
    return _stats_columns(report, rows, axis)


def _diff_columns(report: DiffReport, rows: Sequence[Row], axis: range) -> list[ShownColumn]:
    largest = max((row["rel_l2"] for row in rows if math.isfinite(row["rel_l2"])), default=0.0)
    all_rows = len(report) > len(rows)
    columns = [
        ShownColumn(Column(""), lambda row, _: _verdict(row)),
        _name_column(report),
        *_size_columns(report),
    ]
    if all_rows or _differ((row["dtype_a"], row["dtype_b"]) for row in rows):
        columns.append(ShownColumn(Column("dtype", priority=5), lambda row, _: Cell(_dtypes(row))))
    columns += [
        ShownColumn(
            Column("changed", right=True, priority=2),
            lambda row, _: Cell(percent(row["changed"], row["numel"])),
        ),
        ShownColumn(Column("max |d|", right=True), lambda row, _: _measure(row["max_abs"])),
        ShownColumn(Column("rel L2", right=True), lambda row, _: _measure(row["rel_l2"])),
        ShownColumn(
            Column("", priority=3),
            lambda row, _: Cell(bar(row["rel_l2"], largest, _BAR_WIDTH), "cyan"),
        ),
        ShownColumn(
            Column("cos dist", right=True, priority=6),
            lambda row, _: _measure(row["cosine_distance"]),
        ),
    ]
    if report.options.atol or report.options.rtol:
        columns.append(
            ShownColumn(
                Column("out of tol", right=True, priority=1),
                lambda row, _: _count(row["out_of_tolerance"], "yellow"),
            )
        )
    columns += [_threshold_column(threshold) for threshold in report.options.thresholds]
    if all_rows or any(nonfinite_cell(row).text for row in rows):
        columns.append(
            ShownColumn(Column("non-finite", priority=4), lambda row, _: nonfinite_cell(row))
        )
    return columns + _histogram_columns(report, axis)


def _stats_columns(report: StatsReport, rows: Sequence[Row], axis: range) -> list[ShownColumn]:
    all_rows = len(report) > len(rows)
    columns = [_name_column(report), *_size_columns(report)]
    if all_rows or _differ(row["dtype"] for row in rows):
        columns.append(ShownColumn(Column("dtype", priority=4), lambda row, _: Cell(row["dtype"])))
    columns += [
        ShownColumn(Column("mean", right=True), lambda row, _: _number(row["mean"])),
        ShownColumn(Column("std", right=True), lambda row, _: _number(row["std"])),
        ShownColumn(Column("min", right=True, priority=2), lambda row, _: _number(row["min"])),
        ShownColumn(Column("max", right=True, priority=2), lambda row, _: _number(row["max"])),
        ShownColumn(
            Column("kurtosis", right=True, priority=6), lambda row, _: _number(row["kurtosis"])
        ),
        ShownColumn(
            Column("zeros", right=True, priority=3),
            lambda row, _: Cell(percent(row["zeros"], row["numel"])),
        ),
    ]
    if all_rows or any(row["saturated"] for row in rows):
        columns.append(
            ShownColumn(
                Column("saturated", right=True, priority=1),
                lambda row, _: _count(row["saturated"], "red"),
            )
        )
    if all_rows or any(nonfinite_cell(row).text for row in rows):
        columns.append(
            ShownColumn(Column("non-finite", priority=4), lambda row, _: nonfinite_cell(row))
        )
    if "hash" in report.column_names:
        columns.append(ShownColumn(Column("hash", priority=7), lambda row, _: _hash(row)))
    return columns + _histogram_columns(report, axis)


def _name_column(report: Report) -> ShownColumn:
    header = "tensor" if report.selection.by == "tensor" else report.selection.by
    return ShownColumn(Column(header, flexible=True), lambda row, _: Cell(escape(row["name"])))


def _size_columns(report: Report) -> list[ShownColumn]:
    """The shape of a tensor, or how many tensors and elements a group has."""
    if report.selection.by == "tensor":
        return [
            ShownColumn(Column("shape", right=True, priority=4), lambda row, _: Cell(_size(row)))
        ]
    return [
        ShownColumn(
            Column("tensors", right=True, priority=5),
            lambda row, _: Cell(thousands(row["tensors"])),
        ),
        ShownColumn(
            Column("elements", right=True, priority=4),
            lambda row, _: Cell(human_count(row["numel"])),
        ),
    ]


def _size(row: Row) -> str:
    # a merged row has no shape: its number of elements stands there
    return human_count(row["numel"]) if row["shape"] is None else shape_text(row["shape"])


def _threshold_column(threshold: float) -> ShownColumn:
    name = f"above_{threshold!r}"
    return ShownColumn(
        Column(f"|d| > {threshold:g}", right=True, priority=1),
        lambda row, _: Cell(percent(row[name], _floats(row))),
    )


def _floats(row: Row) -> int:
    """How many floats were reduced: thresholds count both parts of a complex number."""
    dtypes = (row["dtype_a"], row["dtype_b"])
    complex_parts = any(dtype in ("C64", "C128") for dtype in dtypes)
    return int(row["numel"]) * (2 if complex_parts else 1)


def _histogram_columns(report: Report, axis: range) -> list[ShownColumn]:
    if not axis:
        return []
    table = report.rows.table
    value = "|d|" if isinstance(report, DiffReport) else "|x|"
    header = f"{value} from 2^{axis.start} to 2^{axis.stop}"

    def cell(row: Row, index: int) -> Cell:
        histogram = report.histogram() if index < 0 else histogram_of(table, index)
        return Cell(_spark(histogram, axis), "cyan")

    return [ShownColumn(Column(header), cell)]


def _axis(report: Report, indices: Iterable[int]) -> range:
    histograms = [histogram_of(report.rows.table, index) for index in indices]
    return common_range([histogram.log2 for histogram in histograms if histogram is not None])


def _spark(histogram: Histogram | None, axis: range) -> str:
    if histogram is None:
        return ""
    within = {exponent: count for exponent, count in histogram.log2.items() if exponent in axis}
    return sparkline(within, axis, _SPARKLINE_WIDTH)


def _verdict(row: Row) -> Cell:
    return Cell(VERDICT_MARKS.get(row["verdict"], ""), VERDICT_STYLES.get(row["verdict"], ""))


def _dtypes(row: Row) -> str:
    if row["dtype_a"] == row["dtype_b"]:
        return str(row["dtype_a"])
    return f"{row['dtype_a']}→{row['dtype_b']}"


def _number(value: object) -> Cell:
    text = scientific(value)
    return Cell(text, "red" if text in ("NaN", "Inf", "-Inf") else "dim" if text == "0" else "")


def _measure(value: object) -> Cell:
    text = exponential(value)
    return Cell(text, "red" if text in ("NaN", "Inf", "-Inf") else "dim" if text == "0" else "")


def _count(count: int, style: str) -> Cell:
    return Cell(thousands(count), style if count else "dim")


def _hash(row: Row) -> Cell:
    return Cell(row["hash"][:16] + "…" if "hash" in row else "", "dim")


def nonfinite_cell(row: Row) -> Cell:
    """``NaN 1, Inf 2``, or ``NaN 0→1`` for a diff; red where one side lacks what the other has."""
    if "nan" in row:
        counts = (("NaN", row["nan"]), ("Inf", row["pos_inf"]), ("-Inf", row["neg_inf"]))
        return Cell(", ".join(f"{word} {count:,}" for word, count in counts if count), "bold red")
    parts = []
    for word, before, after in (
        ("NaN", row["nan_a"], row["nan_b"]),
        ("Inf", row["inf_a"], row["inf_b"]),
    ):
        if before or after:
            change = f"→{after:,}" if before != after else ""
            parts.append(f"{word} {before:,}{change}")
    return Cell(", ".join(parts), "bold red" if row["nonfinite_mismatch"] else "yellow")


def _differ(values: Iterable[object]) -> bool:
    """Whether the dtypes of the rows are worth a column: they are not all one and the same."""
    distinct = set(values)
    if len(distinct) > 1:
        return True
    return any(isinstance(value, tuple) and value[0] != value[1] for value in distinct)
