"""A report as HTML for a notebook: a summary and the rows that need attention first.

No script, no stylesheet, nothing loaded: a table with a few inline styles, readable on light and
dark backgrounds. Every text is escaped for HTML after it is escaped for terminals.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape as escape_html

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.diff_report import VERDICTS, DiffReport
from ckptdiff.render.cells import VERDICT_WORDS, shown_columns
from ckptdiff.render.escape import escape
from ckptdiff.render.glance import at_a_glance
from ckptdiff.render.sentences import config_text, coverage_texts, remark_texts, shown_texts
from ckptdiff.render.units import human_bytes, human_count, plural
from ckptdiff.report import Report
from ckptdiff.stats_report import StatsReport

__all__ = ["report_html"]

_ROWS = 20


def report_html(report: Report) -> str:
    """A fragment of HTML, at most 20 rows of it."""
    shown = at_a_glance(report, _ROWS)
    if len(shown) > _ROWS:
        shown = shown.head(_ROWS)
    return "".join(_parts(shown))


def _parts(report: Report) -> Iterator[str]:
    yield "<div>"
    if isinstance(report, DiffReport):
        yield _checkpoint("A", report.a)
        yield _checkpoint("B", report.b)
        counts = [f"{report.verdicts[verdict]:,} {VERDICT_WORDS[verdict]}" for verdict in VERDICTS]
        counts += [
            f"{count:,} {words}"
            for count, words in (
                (len(report.only_in_a), "only in A"),
                (len(report.only_in_b), "only in B"),
                (len(report.shape_mismatch), "of another shape"),
            )
            if count
        ]
        yield f"<p><strong>{' · '.join(counts)}</strong></p>"
    elif isinstance(report, StatsReport):
        yield _checkpoint("A", report.a)
        if len(report.nonfinite_rows):
            count = plural(len(report.nonfinite_rows), "tensor")
            yield f"<p><strong>{count} with NaN or infinities</strong></p>"
    if len(report):
        yield from _table(report)
    lines = [*remark_texts(report), *coverage_texts(report), *shown_texts(report)]
    if isinstance(report, DiffReport) and report.config_differences:
        told = "; ".join(map(config_text, report.config_differences))
        lines.insert(0, f"configs differ: {told}")
    yield "".join(f"<p>{escape_html(line)}</p>" for line in lines)
    yield "</div>"


def _checkpoint(label: str, checkpoint: Checkpoint) -> str:
    path = escape_html(escape(checkpoint.path or "in memory"))
    size = (
        f"{plural(len(checkpoint), 'tensor')}, {human_count(checkpoint.elements)} elements, "
        f"{human_bytes(checkpoint.bytes)}"
    )
    return f"<div><strong>{label}</strong> <code>{path}</code> {size}</div>"


def _table(report: Report) -> Iterator[str]:
    shown = shown_columns(report)
    yield "<table><thead><tr>"
    for column in shown:
        yield _cell("th", column.column.header, right=column.column.right)
    yield "</tr></thead><tbody>"
    for index, row in report.rows.indexed():
        yield "<tr>"
        for column in shown:
            yield _cell("td", column.cell(row, index).text, right=column.column.right)
        yield "</tr>"
    yield "</tbody>"
    if report.selection.by != "total":
        yield "<tfoot><tr>"
        for column in shown:
            text = column.cell(report.total, -1).text
            if column.column.flexible:
                text = f"total of {plural(report.total.tensors, 'tensor')}"
            yield _cell("th", text, right=column.column.right)
        yield "</tr></tfoot>"
    yield "</table>"


def _cell(tag: str, text: str, *, right: bool) -> str:
    align = "right" if right else "left"
    return f'<{tag} style="text-align:{align};white-space:nowrap">{escape_html(text)}</{tag}>'
