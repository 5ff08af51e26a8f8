"""The table that people read: what changed, in one screen.

Which files, how many tensors have which verdict, the rows, the total, what was not compared, and
how to see the rest, in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.diff_report import VERDICTS, DiffReport
from ckptdiff.render.cells import (
    VERDICT_MARKS,
    VERDICT_STYLES,
    VERDICT_WORDS,
    ShownColumn,
    nonfinite_cell,
    shown_columns,
)
from ckptdiff.render.escape import escape
from ckptdiff.render.glance import at_a_glance
from ckptdiff.render.layout import Cell, Column, Strip, cut_middle, display_width, table_lines
from ckptdiff.render.screen import Screen
from ckptdiff.render.sentences import (
    config_text,
    config_value,
    coverage_texts,
    mismatch_text,
    remark_texts,
    shown_texts,
    tensor_text,
)
from ckptdiff.render.units import (
    exponential,
    human_bytes,
    human_count,
    index_text,
    plural,
    scientific,
)
from ckptdiff.report import Report
from ckptdiff.stats_report import StatsReport

if TYPE_CHECKING:
    from ckptdiff.config import ConfigDifference

__all__ = ["difference_lines", "report_lines", "rows_that_fit"]

Item = TypeVar("Item")

_BLOCK = 1024
_LISTED = 5
_REPR_ROWS = 10
_ROWS_WITHOUT_SCREEN = 20

# Lines that are not rows: checkpoints, verdicts, header, total, largest, coverage, hint, timing,
# and the blank lines between them.
_OTHER_LINES = 16


def rows_that_fit(report: Report, screen: Screen) -> int:
    """How many rows leave the whole report on one screen."""
    if screen.height is None:
        return _ROWS_WITHOUT_SCREEN
    counts = [len(report.nonfinite_rows)]
    if isinstance(report, DiffReport):
        counts += [len(report.only_in_a), len(report.only_in_b), len(report.shape_mismatch)]
    lines = _OTHER_LINES + len(remark_texts(report))
    listed = sum(min(count, _LISTED + 1) + 1 for count in counts if count)
    if isinstance(report, DiffReport) and report.config_differences:
        listed += len(report.config_differences) + 1
    return max(5, min(40, screen.height - lines - listed))


def report_lines(report: Report, screen: Screen, *, hint: str | None = None) -> Iterator[str]:
    """The lines of a report. ``hint`` says how to see rows that are not shown.

    Without a hint the report is shown as a repr: a few rows, and the Python way to the others.
    """
    notes: tuple[str, ...] = ()
    if hint is None:
        notes = report.notes
        report = at_a_glance(report, _REPR_ROWS)
        hint = "report.columns and iteration have every row"
        if len(report) > _REPR_ROWS:
            report = report.head(_REPR_ROWS)
    if isinstance(report, DiffReport):
        yield from _checkpoint_lines((("A", report.a), ("B", report.b)), screen)
        yield ""
        yield from _verdict_lines(report, screen)
    elif isinstance(report, StatsReport):
        yield from _checkpoint_lines((("A", report.a),), screen)
        yield ""
        yield from _sanity_lines(report, screen)
    yield ""
    if len(report):
        yield from _row_lines(report, screen)
        yield ""
    if isinstance(report, DiffReport):
        yield from _largest_line(report, screen)
        yield from _quantile_line(report, screen)
    yield from _nonfinite_lines(report, screen)
    if isinstance(report, DiffReport):
        yield from _unpaired_lines(report, screen)
        yield from _config_lines(report, screen)
    yield from remark_texts(report)
    yield from _coverage_lines(report, screen)
    for line in shown_texts(report):
        yield screen.style(f"{line}; {hint}", "dim")
    for note in notes:
        yield screen.style(f"note: {escape(note)}", "yellow")


def difference_lines(differences: Sequence[ConfigDifference], screen: Screen) -> Iterator[str]:
    """A table of fields of two configs that differ."""
    columns = [Column("field", flexible=True), Column("A", right=True), Column("B", right=True)]
    names = [difference.field for difference in differences]
    strips = [
        Strip(names),
        Strip([config_value(difference.a) for difference in differences]),
        Strip([config_value(difference.b) for difference in differences]),
    ]
    return table_lines(columns, [strips], screen, widest_name=max(map(len, names), default=0))


def _checkpoint_lines(sides: Sequence[tuple[str, Checkpoint]], screen: Screen) -> Iterator[str]:
    paths = [escape(checkpoint.path or "(in memory)") for _, checkpoint in sides]
    sizes = [
        f"{plural(len(checkpoint), 'tensor')}, {human_count(checkpoint.elements)} elements, "
        f"{human_bytes(checkpoint.bytes)}"
        for _, checkpoint in sides
    ]
    width = max(display_width(path) for path in paths)
    if screen.width is not None:
        room = screen.width - 5 - max(len(size) for size in sizes)
        width = max(min(width, room), 16)
    for (label, _), path, size in zip(sides, paths, sizes, strict=True):
        shown = screen.text(cut_middle(path, width, screen))
        padding = " " * (width - display_width(shown))
        yield f"{screen.style(label, 'bold')}  {shown}{padding}  {screen.style(size, 'dim')}"


def _verdict_lines(report: DiffReport, screen: Screen) -> Iterator[str]:
    if report.identical:
        tensors = plural(len(report.tensor_rows), "tensor")
        yield screen.style(screen.text(f"≡ identical: {tensors}, bit for bit"), "bold green")
        return
    parts = []
    for verdict in reversed(VERDICTS):
        count = report.verdicts[verdict]
        text = screen.text(f"{VERDICT_MARKS[verdict]} {count:,} {VERDICT_WORDS[verdict]}")
        parts.append(screen.style(text, f"bold {VERDICT_STYLES[verdict]}" if count else "dim"))
    yield "   ".join(parts)
    missing = (
        (len(report.only_in_a), "only in A"),
        (len(report.only_in_b), "only in B"),
        (len(report.shape_mismatch), "of another shape"),
    )
    if any(count for count, _ in missing):
        yield "   ".join(
            screen.style(f"! {count:,} {words}", "bold red")
            if count
            else screen.style(f"0 {words}", "dim")
            for count, words in missing
        )


def _sanity_lines(report: StatsReport, screen: Screen) -> Iterator[str]:
    count = len(report.nonfinite_rows)
    if count:
        text = f"! {plural(count, 'tensor')} with NaN or infinities"
        yield screen.style(text, "bold red")
    elif len(report.tensor_rows):
        yield screen.style("every value is finite", "green")
    else:
        yield "no tensors"


def _row_lines(report: Report, screen: Screen) -> Iterator[str]:
    shown = shown_columns(report)
    footer = [] if report.selection.by == "total" else _total_cells(report, shown)
    widest = max(display_width(escape(name)) for name in report.rows.names())
    return table_lines(
        [column.column for column in shown],
        _blocks(report, shown),
        screen,
        footer=footer,
        widest_name=widest,
    )


def _blocks(report: Report, shown: Sequence[ShownColumn]) -> Iterator[list[Strip]]:
    rows = report.rows.indexed()
    while block := list(islice(rows, _BLOCK)):
        yield [Strip.of([column.cell(row, index) for index, row in block]) for column in shown]


def _total_cells(report: Report, shown: Sequence[ShownColumn]) -> list[Cell]:
    # the index -1 stands for the total, which is no row of the table
    cells = [column.cell(report.total, -1) for column in shown]
    tensors = plural(report.total.tensors, "tensor")
    return [
        Cell(f"total of {tensors}", "bold") if column.column.flexible else cell
        for column, cell in zip(shown, cells, strict=True)
    ]


def _largest_line(report: DiffReport, screen: Screen) -> Iterator[str]:
    total = report.total
    if not total.max_abs or total.max_abs_index is None:
        return
    yield screen.text(
        f"largest |d| {scientific(total.max_abs)}: {scientific(total.value_a)} → "
        f"{scientific(total.value_b)} at {escape(total.max_abs_tensor)}"
        f"{index_text(total.max_abs_index)}"
    )


def _quantile_line(report: DiffReport, screen: Screen) -> Iterator[str]:
    """The quantiles of |d| over the whole run, where a histogram was kept."""
    total = report.total
    columns = {"50 %": "abs_p50", "90 %": "abs_p90", "99 %": "abs_p99", "99.9 %": "abs_p999"}
    if report.options.histogram and total.numel:
        parts = [f"{share} ≤ {exponential(total[column])}" for share, column in columns.items()]
        yield screen.text(f"|d|, estimated: {', '.join(parts)}")


def _nonfinite_lines(report: Report, screen: Screen) -> Iterator[str]:
    """The tensors with a NaN or infinity (that the other side lacks), whatever rows are shown."""

    def text(index: int) -> str:
        row = report.tensor_rows.row(index)
        return f"{escape(row.name)}  {nonfinite_cell(row).text}"

    title = "not finite on one side" if isinstance(report, DiffReport) else "not finite"
    yield from _listed(title, report.nonfinite_rows, text, screen)


def _unpaired_lines(report: DiffReport, screen: Screen) -> Iterator[str]:
    yield from _listed("only in A", report.only_in_a, tensor_text, screen)
    yield from _listed("only in B", report.only_in_b, tensor_text, screen)
    yield from _listed("of another shape", report.shape_mismatch, mismatch_text, screen)


def _config_lines(report: DiffReport, screen: Screen) -> Iterator[str]:
    """The fields in which the configs differ: all of them, as there are never many."""
    if report.config_differences:
        count = len(report.config_differences)
        yield screen.style("configs differ", "bold yellow") + f" ({count:,})"
        for difference in report.config_differences:
            yield f"  {screen.text(config_text(difference))}"


def _listed(
    title: str, items: Sequence[Item], text: Callable[[Item], str], screen: Screen
) -> Iterator[str]:
    """A title with the count, the first few items, and how many more there are."""
    if not items:
        return
    yield screen.style(title, "bold red") + f" ({len(items):,})"
    for item in items[:_LISTED]:
        yield f"  {screen.text(text(item))}"
    if len(items) > _LISTED:
        rest = f"  and {len(items) - _LISTED:,} more, which --format json lists"
        yield screen.style(rest, "dim")


def _coverage_lines(report: Report, screen: Screen) -> Iterator[str]:
    for line in coverage_texts(report, screen.width):
        yield screen.style(screen.text(line), "dim")
