"""Hold rows of the package against the oracle's expectations, column by column."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping

from tests.oracle import DIFF_SUMS, STATS_SUMS, TOLERANCE, Expected

SUMS = frozenset((*DIFF_SUMS, *STATS_SUMS))

#: Columns that are never negative, not even a negative zero, which JSON and CSV would show.
UNSIGNED = frozenset(
    ("max_abs", "mean_abs", "rms", "l2", "l2_a", "l2_b", "rel_l2", "cosine_distance", "std", "l1",
     "abs_max")
)  # fmt: skip

#: Two steps of the smallest subnormal: no relative error can be asked of a result down there.
QUANTUM = 1e-323


def is_undefined(value: object) -> bool:
    """None and NaN both say that a column has no value."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def error_of(actual: float, expected: float, scale: float | None = None) -> float:
    """The error relative to ``scale`` (to the expected value without one); 0 where both agree."""
    if actual == expected or (is_undefined(actual) and is_undefined(expected)):
        return 0.0
    if is_undefined(actual) or is_undefined(expected):
        return math.inf
    if math.isinf(actual) or math.isinf(expected):
        # Right at the end of the range a rounding decides between the largest value and Inf.
        finite = expected if math.isinf(actual) else actual
        return 0.0 if abs(finite) >= sys.float_info.max * (1 - 1e-12) else math.inf
    if abs(actual - expected) <= QUANTUM:
        return 0.0
    scale = abs(expected) if scale is None or math.isnan(scale) else scale
    return abs(actual - expected) / scale if scale > 0 else math.inf


def agrees(column: str, actual: object, expected: object, scale: float | None) -> bool:
    if is_undefined(actual) or is_undefined(expected):
        return is_undefined(actual) and is_undefined(expected)
    if column in UNSIGNED and math.copysign(1, actual) < 0:  # type: ignore[arg-type]
        return False
    if column in SUMS:
        assert isinstance(actual, float), (column, actual)
        assert isinstance(expected, float), (column, expected)
        return error_of(actual, expected, scale) <= TOLERANCE
    if isinstance(expected, int):  # exact, and so an integer of any size: never a float
        return isinstance(actual, int) and actual == expected
    if isinstance(expected, tuple):
        return isinstance(actual, Iterable) and tuple(actual) == expected
    return type(actual) is type(expected) and actual == expected


def disagreements(
    actual: Mapping[str, object], expected: Expected, *, ignoring: Iterable[str] = ()
) -> list[str]:
    """A line for every column that is not what the oracle says, or is missing."""
    lines = []
    for column, value in expected.columns.items():
        if column in ignoring:
            continue
        if column not in actual:
            lines.append(f"{column}: missing")
        elif not agrees(column, actual[column], value, expected.scales.get(column)):
            lines.append(f"{column}: expected {value!r}, got {actual[column]!r}")
    return lines


def assert_rows(
    rows: Mapping[str, Mapping[str, object]],
    expected: Mapping[str, Expected],
    *,
    ignoring: Iterable[str] = (),
    where: str = "here",
) -> None:
    """Every expected row is there, no other is, and every column agrees; all faults at once."""
    ignoring = set(ignoring)
    faults = [
        f"{name}: {line}"
        for name, expectation in expected.items()
        if name in rows
        for line in disagreements(rows[name], expectation, ignoring=ignoring)
    ]
    faults += [f"{name}: no row" for name in expected if name not in rows]
    faults += [f"{name}: a row too many" for name in rows if name not in expected]
    shown = "\n".join(faults[:20])
    assert not faults, f"{len(faults)} columns disagree with the oracle ({where}):\n{shown}"


def same_but_for_sums(row: Mapping[str, object], expected: Mapping[str, object]) -> bool:
    """Whether two ways to reduce gave the very same counts, extremes and words, and close sums.

    Both are allowed the contract's error, where terms cancel by the scale of the terms.
    """
    scales = {"kurtosis": 3.0, "skewness": 1.0, "cosine": 1.0, "cosine_distance": 1e-3}
    for column, value in expected.items():
        actual = row[column]
        if column not in SUMS:
            if repr(actual) != repr(value):
                return False
            continue
        assert isinstance(actual, float), (column, actual)
        assert isinstance(value, float), (column, value)
        scale = abs(value) + scales.get(column, 0.0)
        if column in ("mean", "mean_diff"):
            scale = abs(float(expected["rms"]))  # type: ignore[arg-type]
        if error_of(actual, value, scale) > 2 * TOLERANCE:
            return False
    return row.keys() == expected.keys()
