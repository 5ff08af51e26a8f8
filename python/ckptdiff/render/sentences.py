"""Sentences that the table, Markdown and HTML share: what was compared, and what is shown of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.checkpoint import TensorRef
from ckptdiff.coverage import SideCoverage
from ckptdiff.diff_report import DiffReport, ShapeMismatch
from ckptdiff.render.escape import escape
from ckptdiff.render.units import percent, plural, shape_text
from ckptdiff.report import Report
from ckptdiff.stats_report import StatsReport

if TYPE_CHECKING:
    from ckptdiff.config import ConfigDifference

__all__ = [
    "config_text",
    "config_value",
    "coverage_texts",
    "mismatch_text",
    "remark_texts",
    "shown_texts",
    "tensor_text",
]


def remark_texts(report: Report) -> list[str]:
    """How names were brought together."""
    remarks = report.remarks if isinstance(report, DiffReport) else ()
    return [escape(remark) for remark in remarks]


def tensor_text(tensor: TensorRef) -> str:
    """A tensor without a partner."""
    # a dtype is whatever the file says, where nobody has had to decode it
    return f"{escape(tensor.name)}  {escape(tensor.dtype)}  {shape_text(tensor.shape)}"


def mismatch_text(mismatch: ShapeMismatch) -> str:
    """A pair of another shape."""
    shapes = f"{shape_text(mismatch.a.shape)} → {shape_text(mismatch.b.shape)}"
    return f"{escape(mismatch.name)}  {shapes}"


def config_text(difference: ConfigDifference) -> str:
    """A field of the configs, and what it is on both sides."""
    values = f"{config_value(difference.a)} → {config_value(difference.b)}"
    return f"{difference.field}  {values}"


def config_value(value: object) -> str:
    """The value of a field: sizes with every digit, as 4,096 and 4,095 are not the same."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer() and value < 1e15:
        return f"{int(value):,}"
    if isinstance(value, int):
        return f"{value:,}"
    # a learning rate has the digits that it was given
    return escape(str(value))


def coverage_texts(report: Report, width: int | None = None) -> list[str]:
    """How much of each side was compared (or read, for stats), in a line or in one per side.

    Every digit is given where a line of ``width`` has room for them, percentages otherwise.
    """
    sides: dict[str, SideCoverage] = {}
    verb, excluded, unsupported = "read", 0, 0
    if isinstance(report, DiffReport):
        verb, excluded, sides = "compared", report.left_out, report.coverage
        unsupported = 2 * len(report.unsupported)
    elif isinstance(report, StatsReport):
        excluded, sides = report.left_out, {"a": report.coverage}
        unsupported = len(report.excluded) - excluded
    names = [side.upper() for side in sides]
    if all(side.complete for side in sides.values()):
        return [f"{verb} all of {' and all of '.join(names)}"]
    texts = [
        f"{verb} {_amounts(side, width)} of {name}"
        for name, side in zip(names, sides.values(), strict=True)
    ]
    if excluded:
        texts.append(f"left out by --include and --exclude: {plural(excluded, 'tensor')}")
    if unsupported:
        texts.append(f"left out for an unsupported dtype: {plural(unsupported, 'tensor')}")
    return texts


def _amounts(side: SideCoverage, width: int | None) -> str:
    tensors = f"{side.tensors_compared:,} of {plural(side.tensors, 'tensor')}"
    exact = (
        f"{tensors}, {side.elements_compared:,} of {plural(side.elements, 'element')}, "
        f"{side.bytes_compared:,} of {plural(side.bytes, 'byte')}"
    )
    # the words around it take some 14 characters
    if width is None or len(exact) + 14 <= width:
        return exact
    elements = percent(side.elements_compared, side.elements)
    return f"{tensors}, {elements} of elements, {percent(side.bytes_compared, side.bytes)} of bytes"


def shown_texts(report: Report) -> list[str]:
    """How many of the run's tensors the rows are, in a line where they are not all."""
    every = len(report.tensor_rows)
    if report.selection.by != "tensor" or len(report) >= every:
        return []
    if isinstance(report, DiffReport) and report.selection.only_changed:
        changed = sum(1 for count in report.tensor_rows.values("changed") if count)
        if not changed:
            return ["no value changed"]
        return [f"shown: {len(report):,} of {plural(changed, 'changed tensor')}"]
    return [f"shown: {len(report):,} of {plural(every, 'tensor')}"]
