"""For other people's test suites: an assertion that two checkpoints hold the same weights.

>>> from ckptdiff.testing import assert_checkpoints_equal
>>> assert_checkpoints_equal("converted/", "original/", rtol=1e-3)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from os import PathLike

from ckptdiff.api import CheckpointLike, diff
from ckptdiff.diff_report import DiffReport
from ckptdiff.render.escape import escape
from ckptdiff.render.units import index_text, plural, shape_text
from ckptdiff.rows import Row

__all__ = ["assert_checkpoints_equal"]

_LISTED = 10


def assert_checkpoints_equal(
    a: CheckpointLike,
    b: CheckpointLike,
    *,
    atol: float = 0.0,
    rtol: float = 0.0,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    rename: str | Iterable[str | tuple[str, str]] = (),
    map: str | PathLike[str] | None = "none",  # noqa: A002 - as ckptdiff.diff has it
    cast: str | None = None,
    check_dtype: bool = False,
) -> None:
    """Raise AssertionError unless both checkpoints hold the same tensors with equal values.

    Equal means ``|b - a| <= atol + rtol * |a|`` for each element, where both are finite; two NaN
    are equal, and so are two infinities of one sign. Dtypes may differ unless ``check_dtype``. The
    arguments are those of :func:`ckptdiff.diff`, and so are the other errors, but names must agree
    unless ``map`` says how they are brought together (``auto``, the name of a map, a file). The
    message has the tensors that differ most, each with where and by how much, and what had no
    partner.
    """
    # hide this frame from pytest's traceback: the caller's line is of interest
    __tracebackhide__ = True
    report = diff(
        a,
        b,
        atol=atol,
        rtol=rtol,
        include=include,
        exclude=exclude,
        rename=rename,
        map=map,
        cast=cast,
        # the tensors are what is asserted: those of another architecture are not the same
        force=True,
    )
    other_dtype: list[Row] = []
    if check_dtype:
        other_dtype = [row for row in report if row.dtype_a != row.dtype_b]
    if report.matches and not other_dtype:
        return
    raise AssertionError("\n".join(_message(report, other_dtype)))


def _message(report: DiffReport, other_dtype: list[Row]) -> Iterator[str]:
    options = report.options
    yield f"checkpoints differ (atol={options.atol}, rtol={options.rtol})"
    different = [row for row in report.sorted() if row.verdict == "different"]
    if different:
        yield f"{len(different):,} of {plural(len(report), 'tensor')} differ:"
        yield from map(_difference, different[:_LISTED])
        yield from _rest(len(different))
    if other_dtype:
        yield f"{plural(len(other_dtype), 'tensor')} of another dtype:"
        for row in other_dtype[:_LISTED]:
            yield f"  {escape(row.name)}: {row.dtype_a} in A, {row.dtype_b} in B"
        yield from _rest(len(other_dtype))
    lists = (
        ("only in A", len(report.only_in_a), report.only_in_a),
        ("only in B", len(report.only_in_b), report.only_in_b),
    )
    for words, count, tensors in lists:
        if count:
            yield f"{plural(count, 'tensor')} {words}:"
            for tensor in islice(tensors, _LISTED):
                yield f"  {escape(tensor.name)}: {tensor.dtype}, {shape_text(tensor.shape)}"
            yield from _rest(count)
    if len(report.shape_mismatch):
        yield f"{plural(len(report.shape_mismatch), 'tensor')} of another shape:"
        for mismatch in islice(report.shape_mismatch, _LISTED):
            shapes = f"{shape_text(mismatch.a.shape)} in A, {shape_text(mismatch.b.shape)} in B"
            yield f"  {escape(mismatch.name)}: {shapes}"
        yield from _rest(len(report.shape_mismatch))


def _difference(row: Row) -> str:
    text = f"  {escape(row.name)}: {row.changed:,} of {row.numel:,} elements changed"
    if row.max_abs_index is not None:
        text += (
            f", the most at {index_text(row.max_abs_index)}: {row.value_a!r} in A, "
            f"{row.value_b!r} in B, |d| = {row.max_abs!r}"
        )
    if row.nonfinite_mismatch:
        text += (
            f"; {row.nonfinite_mismatch:,} not finite on one side (NaN: {row.nan_a:,} in A, "
            f"{row.nan_b:,} in B; Inf: {row.inf_a:,}, {row.inf_b:,})"
        )
    return text


def _rest(count: int) -> Iterator[str]:
    if count > _LISTED:
        yield f"  and {count - _LISTED:,} more"
