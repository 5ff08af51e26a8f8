"""A report as Markdown, for a pull request or a model card: what the terminal shows, as a table.

Names are code, so that underscores stay underscores; pipes, backticks and control characters are
escaped. All rows of the report are written: choose them first (``report.sorted().head(20)``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TextIO

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.diff_report import VERDICTS, DiffReport
from ckptdiff.render.cells import VERDICT_WORDS, ShownColumn, shown_columns
from ckptdiff.render.escape import escape
from ckptdiff.render.sentences import config_value, coverage_texts, remark_texts, shown_texts
from ckptdiff.render.units import human_bytes, human_count, plural, shape_text
from ckptdiff.report import Report
from ckptdiff.rows import Row
from ckptdiff.stats_report import StatsReport

__all__ = ["code", "write_report"]

_LISTED = 20


def write_report(report: Report, stream: TextIO) -> None:
    """Write summary, rows, and for a diff what had no partner."""
    for line in _lines(report):
        stream.write(line + "\n")


def code(text: str) -> str:
    """``text`` as inline code that may stand in a table."""
    safe = escape(text).replace("|", "\\|")
    return f"`` {safe} ``" if "`" in safe else f"`{safe}`"


def _lines(report: Report) -> Iterator[str]:
    if isinstance(report, DiffReport):
        yield f"**A** {_checkpoint(report.a)}  "
        yield f"**B** {_checkpoint(report.b)}"
        yield ""
        yield _verdicts(report)
    elif isinstance(report, StatsReport):
        yield f"**A** {_checkpoint(report.a)}"
        yield ""
        count = len(report.nonfinite_rows)
        yield f"**{plural(count, 'tensor')} with NaN or infinities.**" if count else "All finite."
    yield ""
    if len(report):
        yield from _table(report)
        yield ""
    if isinstance(report, DiffReport):
        yield from _unpaired(report)
        yield from _list(
            "Configs differ",
            len(report.config_differences),
            (
                f"{code(part.field)} {_plain(f'{config_value(part.a)} → {config_value(part.b)}')}"
                for part in report.config_differences
            ),
        )
    for line in [*remark_texts(report), *coverage_texts(report), *shown_texts(report)]:
        yield f"{line[0].upper()}{line[1:]}.  "


def _checkpoint(checkpoint: Checkpoint) -> str:
    path = code(checkpoint.path) if checkpoint.path is not None else "in memory"
    tensors, elements = plural(len(checkpoint), "tensor"), human_count(checkpoint.elements)
    return f"{path}: {tensors}, {elements} elements, {human_bytes(checkpoint.bytes)}"


def _verdicts(report: DiffReport) -> str:
    parts = [
        f"{report.verdicts[verdict]:,} {VERDICT_WORDS[verdict]}" for verdict in reversed(VERDICTS)
    ]
    parts.append(f"{len(report.only_in_a):,} only in A")
    parts.append(f"{len(report.only_in_b):,} only in B")
    parts.append(f"{len(report.shape_mismatch):,} of another shape")
    return ", ".join(parts) + "."


def _table(report: Report) -> Iterator[str]:
    shown = shown_columns(report)
    yield _row(_plain(column.column.header) or " " for column in shown)
    yield _row("---:" if column.column.right else "---" for column in shown)
    for index, row in report.rows.indexed():
        yield _row(_cell(column, row, index) for column in shown)
    if report.selection.by != "total":
        total = report.total
        yield _row(
            f"**total of {plural(total.tensors, 'tensor')}**"
            if column.column.flexible
            else _plain(column.cell(total, -1).text)
            for column in shown
        )


def _cell(column: ShownColumn, row: Row, index: int) -> str:
    if column.column.flexible:
        return code(row.name)
    return _plain(column.cell(row, index).text)


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _unpaired(report: DiffReport) -> Iterator[str]:
    for title, tensors in (("Only in A", report.only_in_a), ("Only in B", report.only_in_b)):
        texts = (
            f"{code(tensor.name)} {escape(tensor.dtype)} {shape_text(tensor.shape)}"
            for tensor in tensors
        )
        yield from _list(title, len(tensors), texts)
    mismatches = (
        f"{code(mismatch.name)} {shape_text(mismatch.a.shape)} → {shape_text(mismatch.b.shape)}"
        for mismatch in report.shape_mismatch
    )
    yield from _list("Of another shape", len(report.shape_mismatch), mismatches)


def _list(title: str, count: int, texts: Iterable[str]) -> Iterator[str]:
    if not count:
        return
    yield f"{title} ({count:,}):"
    yield ""
    for text in islice(texts, _LISTED):
        yield f"- {text}"
    if count > _LISTED:
        yield f"- and {count - _LISTED:,} more"
    yield ""
