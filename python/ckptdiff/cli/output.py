"""Where a result goes and how it is written: stdout or a file, table, JSON, CSV or Markdown."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Literal, TextIO, TypeAlias, TypeVar

from ckptdiff.atomic import atomic_text, check_writable
from ckptdiff.diff_report import DiffReport
from ckptdiff.report import Report

__all__ = ["RowsBy", "chosen", "prepare", "write", "write_lines", "write_report"]

# What a row is of: a Grouping, or tensor for no merging at all.
RowsBy: TypeAlias = Literal["tensor", "layer", "module", "total"]

AnyReport = TypeVar("AnyReport", bound=Report)


def prepare(output: str | None) -> None:
    """Find out before the work whether the output file can be written. Raises OSError."""
    if output is not None:
        check_writable(output)


def write(output: str | None, write_to: Callable[[TextIO], object]) -> None:
    """Let ``write_to`` write to the file, or to stdout where there is none."""
    if output is None:
        if sys.stdout is None:
            # as a script's >&- leaves it
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")
        write_to(sys.stdout)
        return
    try:
        with atomic_text(output) as stream:
            write_to(stream)
    except OSError as error:
        # what a write to an open file raises names no file
        error.filename = error.filename or output
        raise


def chosen(
    report: AnyReport,
    *,
    by: RowsBy,
    sort: str | None,
    top: int | None,
    only_changed: bool = False,
) -> AnyReport:
    """The report with the rows that the options ask for, before any format's own choice."""
    if by != "tensor":
        report = report.by(by)
    if only_changed and isinstance(report, DiffReport):
        report = report.only_changed()
    if sort is not None:
        report = report.sorted(sort)
    if top:
        from ckptdiff.render.glance import by_attention

        report = by_attention(report).head(top)
    return report


def write_report(
    report: Report, *, output_format: str, output: str | None, top: int | None
) -> None:
    """Write a report; where no number of rows was asked for, those a reader needs first."""
    if output_format == "json":
        from ckptdiff.render import json

        write(output, lambda stream: json.write_report(report, stream))
    elif output_format == "csv":
        from ckptdiff.render import csv

        write(output, lambda stream: csv.write_rows(report.rows, stream))
    else:
        write(output, lambda stream: _write_for_people(report, output_format, top, stream))


def _write_for_people(report: Report, output_format: str, top: int | None, stream: TextIO) -> None:
    from ckptdiff.render import table
    from ckptdiff.render.glance import at_a_glance, by_attention
    from ckptdiff.render.screen import Screen

    screen = Screen.of(stream) if stream is sys.stdout else Screen.for_file()
    if top is None:
        report = at_a_glance(report, table.rows_that_fit(report, screen))
    else:
        report = by_attention(report)
    if output_format == "markdown":
        from ckptdiff.render import markdown

        markdown.write_report(report, stream)
        return
    hint = f"--top 0 shows all {len(report.tensor_rows):,}, --by module merges them"
    write_lines(table.report_lines(report, screen, hint=hint), stream)


def write_lines(lines: Iterator[str], stream: TextIO) -> None:
    """Write lines, each with its end."""
    for line in lines:
        stream.write(f"{line}\n")
