"""What a checkpoint is made of, as table, JSON, CSV and Markdown."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TextIO

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.mix_order import ORDERED_AT_MOST
from ckptdiff.mix_report import MixReport, MixRow
from ckptdiff.render import json
from ckptdiff.render.csv import csv_value
from ckptdiff.render.escape import escape
from ckptdiff.render.layout import Cell, Column, Strip
from ckptdiff.render.layout import table_lines as lines_of_table
from ckptdiff.render.markdown import code
from ckptdiff.render.screen import Screen
from ckptdiff.render.units import (
    exponential,
    human_bytes,
    human_count,
    percent,
    plural,
    thousands,
)

__all__ = ["rows_that_fit", "table_lines", "write_csv", "write_json", "write_markdown"]

_LISTED = 20
# Coefficients of a soup are read as decimals; four tell 1/3 from 0.33.
_DECIMALS = 4


def rows_that_fit(report: MixReport, screen: Screen) -> int | None:
    """How many rows a screen shows beside what else is written; None for all."""
    if screen.height is None:
        return None
    beside = len(report.parts) + min(len(report.not_common), _LISTED) + 11
    beside += len(report.remarks)
    return max(5, screen.height - beside)


def table_lines(report: MixReport, screen: Screen) -> Iterator[str]:
    """The lines for a terminal: the checkpoints, what they come to, and the rows."""
    for name, checkpoint in _named(report):
        line = f"{name:<6}  {_checkpoint(checkpoint, escape)}"
        yield screen.style(name, "bold") + screen.text(line[len(name) :])
    yield ""
    mark, style = ("≡ ", "green") if report.exact else ("≠ ", "yellow")
    yield screen.style(screen.text(mark + verdict(report)), style)
    yield screen.text(_nearest(report))
    yield ""
    if report.rows:
        cells = [_cells(row) for row in report.rows]
        yield from lines_of_table(
            _columns(report),
            [[Strip.of([row[number] for row in cells]) for number in range(len(cells[0]))]],
            screen,
            footer=[] if report.selection.by == "total" else _footer(report),
        )
        yield ""
    for remark in report.remarks:
        yield screen.text(escape(remark))
    for line in _not_common(report, escape):
        yield screen.text(line)
    shown, there = len(report.rows), len(report.all_rows)
    if shown < there:
        yield screen.style(f"{shown:,} of {there:,} rows; --top 0 shows all", "dim")


def verdict(report: MixReport) -> str:
    """Whether the target is the rounded mean of its parts, in a sentence."""
    count = len(report.parts)
    parts = f"the mean of the {count} parts" if count > 1 else "the one part"
    total = report.total
    in_order = sorted(report.order)
    if list(report.order) != in_order:
        parts += f" (summed in float32 in the order {', '.join(map(str, report.order))})"
    if report.exact:
        return f"exactly {parts}, rounded: {plural(total.tensors, 'tensor')}, every element"
    reasons = []
    if total.mismatches:
        reasons.append(
            f"{thousands(total.mismatches)} of {thousands(total.numel)} elements differ "
            f"({percent(total.mismatches, total.numel)}), by up to {thousands(total.max_ulp)} ulp"
        )
        if count > ORDERED_AT_MOST:
            reasons.append(
                "float32 sums depend on the order of the parts, and only the one given was tried"
            )
    if report.not_common:
        reasons.append(f"{plural(len(report.not_common), 'tensor')} could not be compared")
    return f"not {parts}, rounded: {'; '.join(reasons)}"


def write_json(report: MixReport, stream: TextIO) -> None:
    """Write the schema ``ckptdiff.mix/1``."""
    json.write_object(_members(report), stream)


def write_csv(report: MixReport, stream: TextIO) -> None:
    """Write a line per row, with a column ``coefficient_K`` for each part."""
    writer = csv.writer(stream, lineterminator="\n")
    coefficients = [f"coefficient_{number}" for number in range(1, len(report.parts) + 1)]
    names = ["name", "tensors", "numel", "finite", *coefficients, *_MEASURES]
    writer.writerow(names)
    text = escape if stream.isatty() else str
    for row in report.rows:
        counts = [row.tensors, row.numel, row.finite]
        measures = [getattr(row, measure) for measure in _MEASURES]
        values = [*counts, *row.coefficients, *measures]
        writer.writerow([text(row.name), *map(csv_value, values)])


def write_markdown(report: MixReport, stream: TextIO) -> None:
    """Write what the terminal shows, as Markdown."""
    for line in _markdown_lines(report):
        stream.write(line + "\n")


_MEASURES = ("coefficient_sum", "residual", "rel_residual", "mismatches", "max_ulp")


def _members(report: MixReport) -> Iterator[tuple[str, object]]:
    yield "schema", "ckptdiff.mix/1"
    yield "target", json.checkpoint_object(report.target)
    yield "parts", [json.checkpoint_object(part) for part in report.parts]
    selection = report.selection
    yield (
        "options",
        {
            "map": report.map,
            "include": list(report.rules.include),
            "exclude": list(report.rules.exclude),
            "by": selection.by,
            "sort": selection.sort,
            "top": selection.top,
        },
    )
    yield (
        "summary",
        {
            "exact": report.exact,
            "order": list(report.order),
            "remarks": list(report.remarks),
            "not_common": [item._asdict() for item in report.not_common],
            "total": _row_object(report.total),
        },
    )
    key = "tensors" if selection.by == "tensor" else "groups"
    yield key, (_row_object(row) for row in report.rows)


def _row_object(row: MixRow) -> dict[str, object]:
    return {
        "name": row.name,
        "tensors": row.tensors,
        "numel": row.numel,
        "finite": row.finite,
        "coefficients": list(row.coefficients),
        **{measure: getattr(row, measure) for measure in _MEASURES},
    }


def _named(report: MixReport) -> Iterator[tuple[str, Checkpoint]]:
    yield "target", report.target
    for number, part in enumerate(report.parts, start=1):
        yield str(number), part


def _checkpoint(checkpoint: Checkpoint, show: Callable[[str], str]) -> str:
    path = "in memory" if checkpoint.path is None else show(checkpoint.path)
    tensors, elements = plural(len(checkpoint), "tensor"), human_count(checkpoint.elements)
    return f"{path}: {tensors}, {elements} elements, {human_bytes(checkpoint.bytes)}"


def _nearest(report: MixReport) -> str:
    """The combination of the whole model, in a sentence."""
    total = report.total
    terms = " + ".join(
        f"{_coefficient(value)} × part {number}"
        for number, value in enumerate(total.coefficients, start=1)
    ).replace("+ -", "- ")
    return f"nearest: {terms}, at {exponential(total.rel_residual)} of its norm"


def _coefficient(value: float) -> str:
    return f"{value:.{_DECIMALS}f}"


def _columns(report: MixReport) -> list[Column]:
    parts = [
        # the first few parts are the last to go
        Column(f"part {number}", right=True, priority=3 if number > 4 else 2)
        for number in range(1, len(report.parts) + 1)
    ]
    return [
        Column("name", flexible=True),
        Column("elements", right=True, priority=5),
        *parts,
        Column("sum", right=True, priority=4),
        Column("residual", right=True),
        Column("mismatches", right=True),
        Column("max ulp", right=True, priority=1),
    ]


def _cells(row: MixRow) -> list[Cell]:
    return [
        Cell(escape(row.name)),
        Cell(human_count(row.numel), "dim"),
        *(Cell(_coefficient(value)) for value in row.coefficients),
        Cell(_coefficient(row.coefficient_sum), "dim"),
        Cell(exponential(row.rel_residual)),
        Cell(thousands(row.mismatches), "yellow" if row.mismatches else "dim"),
        Cell(thousands(row.max_ulp), "" if row.max_ulp else "dim"),
    ]


def _footer(report: MixReport) -> list[Cell]:
    name = f"total of {plural(report.total.tensors, 'tensor')}"
    return [Cell(name, "bold"), *_cells(report.total)[1:]]


def _not_common(report: MixReport, show: Callable[[str], str], bullet: str = "") -> Iterator[str]:
    items = report.not_common
    if not items:
        return
    yield f"not in all, or of another shape, or of a dtype that is not decoded ({len(items):,}):"
    for item in items[:_LISTED]:
        where = ", ".join(side if side == "target" else f"part {side}" for side in item.missing_in)
        yield f"{bullet}{show(item.name)}: not usable in {where}"
    if len(items) > _LISTED:
        yield f"{bullet}and {len(items) - _LISTED:,} more"


def _markdown_lines(report: MixReport) -> Iterator[str]:
    for name, checkpoint in _named(report):
        yield f"**{name}** {_checkpoint(checkpoint, code)}  "
    yield ""
    sentence = verdict(report)
    yield f"**{sentence[0].upper()}{sentence[1:]}.**"
    yield ""
    sentence = _nearest(report)
    yield f"{sentence[0].upper()}{sentence[1:]}."
    yield ""
    columns = _columns(report)
    yield _markdown_row(column.header for column in columns)
    yield _markdown_row("---:" if column.right else "---" for column in columns)
    for row in report.rows:
        yield _markdown_row([code(row.name), *_texts(_cells(row)[1:])])
    if report.selection.by != "total":
        footer = _footer(report)
        yield _markdown_row([f"**{footer[0].text}**", *_texts(footer[1:])])
    yield ""
    for remark in report.remarks:
        yield f"{code(remark)}  "
    yield from _not_common(report, code, bullet="- ")


def _texts(cells: Sequence[Cell]) -> list[str]:
    return [cell.text for cell in cells]


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
