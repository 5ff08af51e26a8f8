"""Chooses the rows that answer at a glance, where nobody asked for others.

A diff of tensors shows those that changed, the ones with NaN or infinities that the other side
lacks first, then by relative L2. Stats show tensors with NaN, infinities or saturated values first,
the others as they come. Layers and modules are few and their order means something: all of them are
shown as they come.
"""

from __future__ import annotations

from typing import TypeVar

from ckptdiff.diff_report import DiffReport
from ckptdiff.report import Report

__all__ = ["at_a_glance", "by_attention"]

AnyReport = TypeVar("AnyReport", bound=Report)


def at_a_glance(report: AnyReport, rows: int) -> AnyReport:
    """The report with at most ``rows`` tensors shown; what the caller chose stays chosen."""
    if report.selection.top is not None or report.selection.by != "tensor":
        return report
    shown = by_attention(report)
    if isinstance(shown, DiffReport) and not shown.selection.only_changed:
        shown = shown.only_changed()
    return shown.head(rows) if len(shown) > rows else shown


def by_attention(report: AnyReport) -> AnyReport:
    """The report with the tensors that need attention first, unless it was sorted otherwise."""
    if report.selection.sort is not None or report.selection.by != "tensor":
        return report
    return report.sorted()
