"""A spectrum report as table, Markdown, CSV and JSON (``ckptdiff.spectrum/1``)."""

from __future__ import annotations

import csv
import json as standard_json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TextIO

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.render import json
from ckptdiff.render.csv import csv_value
from ckptdiff.render.escape import escape
from ckptdiff.render.layout import Cell, Column, Strip, display_width, table_lines
from ckptdiff.render.markdown import code
from ckptdiff.render.screen import Screen
from ckptdiff.render.units import human_bytes, human_count, plural, scientific
from ckptdiff.spectra.report import SpectrumReport
from ckptdiff.spectra.row import SpectrumRow

__all__ = ["table_lines_of", "write_csv", "write_json", "write_markdown"]

_LISTED = 5
_REASONS = {
    "not_a_matrix": "not a matrix",
    "complex": "complex",
    "unsupported_dtype": "of an unsupported dtype",
    "only_in_a": "only in A",
    "only_in_b": "only in B",
    "shape_mismatch": "of another shape",
    "not_included": "not included",
    "excluded": "excluded",
}


class _Shown(NamedTuple):
    column: Column
    cell: Callable[[SpectrumRow], Cell]


def write_json(report: SpectrumReport, stream: TextIO) -> None:
    """Write the schema ``ckptdiff.spectrum/1``: a matrix a line."""
    json.write_object(_members(report), stream)


def write_csv(report: SpectrumReport, stream: TextIO) -> None:
    """Write every column of the rows shown; what is not known is empty."""
    text = escape if stream.isatty() else str
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(report.column_names)
    for row in report:
        values = row.as_dict().values()
        writer.writerow(
            [text(value) if isinstance(value, str) else csv_value(value) for value in values]
        )


def write_markdown(report: SpectrumReport, stream: TextIO) -> None:
    """Write which checkpoints they are, the table, and what was left out."""
    for label, checkpoint in _sides(report):
        name = "in memory" if checkpoint.path is None else code(checkpoint.path)
        stream.write(f"**{label}** {name}: {_size(checkpoint)}  \n")
    stream.write("\n")
    shown = _shown_columns(report)
    heads = [each.column.header.replace("|", "\\|") for each in shown]
    rules = ["---:" if each.column.right else "---" for each in shown]
    if len(report):
        stream.write(f"| {' | '.join(heads)} |\n|{'|'.join(rules)}|\n")
    for row in report:
        cells = [
            code(row.name) if each.column.flexible else each.cell(row).text.replace("|", "\\|")
            for each in shown
        ]
        stream.write(f"| {' | '.join(cells)} |\n")
    stream.write("\n")
    for line in _sentences(report):
        stream.write(f"{line[0].upper()}{line[1:]}.  \n")


def table_lines_of(report: SpectrumReport, screen: Screen) -> Iterator[str]:
    """The lines of the table for people: checkpoints, matrices, and what the whole says."""
    for label, checkpoint in _sides(report):
        path = screen.text(escape(checkpoint.path or "(in memory)"))
        yield f"{screen.style(label, 'bold')}  {path}  {screen.style(_size(checkpoint), 'dim')}"
    yield ""
    if len(report):
        shown = _shown_columns(report)
        strips = [Strip.of([each.cell(row) for row in report]) for each in shown]
        columns = [each.column for each in shown]
        widest = max(display_width(escape(row.name)) for row in report)
        yield from table_lines(columns, [strips], screen, widest_name=widest)
        yield ""
    for row in report.nonfinite[:_LISTED]:
        text = f"! not finite: {escape(row.name)}, {plural(row.nonfinite, 'element')}"
        yield screen.style(screen.text(text), "bold red")
    for line in _sentences(report):
        yield screen.text(line)


def _shown_columns(report: SpectrumReport) -> list[_Shown]:
    def number(name: str) -> Callable[[SpectrumRow], Cell]:
        return lambda row: Cell(_short(getattr(row, name)))

    shown = [
        _Shown(Column("matrix", flexible=True), lambda row: Cell(escape(row.name))),
        _Shown(
            Column("shape", right=True, priority=6),
            lambda row: Cell(f"{row.rows}×{row.columns}", "dim"),
        ),
        _Shown(Column("σ₁", right=True), number("spectral_norm")),
        _Shown(Column("±", right=True, priority=5), _error_cell),
        _Shown(Column("stable", right=True, priority=1), number("stable_rank")),
        _Shown(Column("effective", right=True, priority=2), number("effective_rank")),
        _Shown(Column("particip.", right=True, priority=4), number("participation_ratio")),
        _Shown(Column("90 %", right=True, priority=3), number("rank_90")),
        _Shown(Column("99 %", right=True, priority=3), number("rank_99")),
        _Shown(Column("alpha", right=True, priority=1), number("alpha")),
        _Shown(Column("rank", right=True), lambda row: _rank_cell(row, report.options.k)),
    ]
    if report.b is not None and report.options.angles:
        shown.append(_Shown(Column("angle", right=True, priority=3), _angle_cell))
    return shown


def _short(value: float | int | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1f}" if 100 <= value < 10_000 else f"{value:.3g}" if value else "0"


def _error_cell(row: SpectrumRow) -> Cell:
    """The relative error of the least certain of the values."""
    if row.method is None or row.error is None or not row.values:
        return Cell("-")
    if row.method == "exact":
        return Cell("exact", "dim")
    return Cell(scientific(float(f"{row.error / row.values[0]:.1e}")), "dim")


def _rank_cell(row: SpectrumRow, k: int) -> Cell:
    texts = {
        "zero": "0",
        "rounding": "rounding",
        "full": "full",
        "above_k": f"> {k}",
        "undecided": "?",
    }
    if row.low_rank is None:
        return Cell("-")
    if row.low_rank == "low_rank":
        return Cell(f"{row.rank:,}", "bold green")
    return Cell(texts[row.low_rank], "dim")


def _angle_cell(row: SpectrumRow) -> Cell:
    """In degrees; ``?`` where no gap follows the subspaces, so that they are not certain."""
    if row.angle is None or row.angle_error is None:
        return Cell("-")
    if row.angle_error > math.radians(5):
        return Cell(f"{math.degrees(row.angle):.3g}°?", "dim")
    return Cell(f"{math.degrees(row.angle):.3g}°")


def _sides(report: SpectrumReport) -> list[tuple[str, Checkpoint]]:
    return [("A", report.a)] + ([("B", report.b)] if report.b is not None else [])


def _size(checkpoint: Checkpoint) -> str:
    return (
        f"{plural(len(checkpoint), 'tensor')}, {human_count(checkpoint.elements)} elements, "
        f"{human_bytes(checkpoint.bytes)}"
    )


def _sentences(report: SpectrumReport) -> Iterator[str]:
    """What the run says as a whole, and what it does not speak of."""
    matrices = report.matrices
    what = "differences B - A" if report.b is not None else "matrices"
    exact = sum(row.method == "exact" for row in matrices)
    randomised = sum(row.method == "randomised" for row in matrices)
    parts = [f"{exact:,} exact"] if exact else []
    if randomised:
        parts.append(f"{randomised:,} by the largest {report.options.k} singular values")
    yield f"{what}: {len(matrices):,}" + (f"; {', '.join(parts)}" if parts else "")
    yield from _verdict_sentences(report)
    if len(report) < len(matrices):
        yield f"shown: {len(report):,} of {len(matrices):,}"
    counts: dict[str, int] = {}
    for item in report.not_compared:
        counts[item.reason] = counts.get(item.reason, 0) + 1
    if counts:
        texts = [f"{count:,} {_REASONS[reason]}" for reason, count in counts.items()]
        yield f"left out: {', '.join(texts)}"


def _verdict_sentences(report: SpectrumReport) -> Iterator[str]:
    """Whether the difference, or the checkpoint, is made of few factors."""
    if report.b is None:
        return
    counts = {
        verdict: [row for row in report.matrices if row.low_rank == verdict]
        for verdict in ("low_rank", "full", "above_k", "undecided", "rounding", "zero")
    }
    ranks = sorted({row.rank for row in counts["low_rank"] if row.rank is not None})
    words = {
        "low_rank": f"low-rank, of {_ranks(ranks)}",
        "full": "not low-rank",
        "above_k": f"of rank above {report.options.k}",
        "undecided": "hidden by rounding",
        "rounding": "no more than rounding",
        "zero": "unchanged",
    }
    parts = [f"{len(rows):,} {words[verdict]}" for verdict, rows in counts.items() if rows]
    if parts:
        yield ", ".join(parts)
    if counts["low_rank"] and not any(
        counts[verdict] for verdict in ("full", "above_k", "undecided")
    ):
        yield f"this can be a LoRA of {_ranks(ranks)}"


def _ranks(ranks: Sequence[int]) -> str:
    if not ranks:
        return "rank 0"
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"


def _members(report: SpectrumReport) -> Iterator[tuple[str, object]]:
    options = report.options
    yield "schema", "ckptdiff.spectrum/1"
    yield "a", json.checkpoint_object(report.a)
    yield "b", None if report.b is None else json.checkpoint_object(report.b)
    yield (
        "options",
        {
            "k": options.k,
            "method": options.method,
            "oversampling": options.oversampling,
            "iterations": options.iterations,
            "angles": options.angles,
            "experts": list(options.experts),
            "include": list(options.rules.include),
            "exclude": list(options.rules.exclude),
            "rename": [
                [rename.pattern.pattern, rename.replacement] for rename in options.rules.renames
            ],
            "sort": report.sort,
            "top": report.top,
        },
    )
    yield (
        "summary",
        {
            "matrices": len(report.matrices),
            "nonfinite": len(report.nonfinite),
            "low_rank": {
                verdict: sum(row.low_rank == verdict for row in report.matrices)
                for verdict in ("zero", "rounding", "low_rank", "full", "above_k", "undecided")
            },
            "not_compared": [item._asdict() for item in report.not_compared],
        },
    )
    yield "matrices", (_encoded(row) for row in report)


def _encoded(row: SpectrumRow) -> json.Encoded:
    return json.Encoded(standard_json.dumps(row.as_dict(), allow_nan=False))
