"""A report as JSON, written a slice at a time so that its size does not matter.

The schemas are ``ckptdiff.diff/1``, ``ckptdiff.stats/1`` and ``ckptdiff.ls/1``. Keys are the names
of columns. Integers are exact, floats are the shortest text that reads back as the same float, and
what JSON has no word for is a string: ``NaN``, ``Infinity``, ``-Infinity``; undefined is null. The
text is ASCII, whatever the names are, and each row is a line of its own. Nothing in it depends on
time, threads, instruction set, format or sharding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TextIO

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.diff_report import DiffReport
from ckptdiff.naming.rules import Rules
from ckptdiff.report import Report, Selection
from ckptdiff.rows import Rows
from ckptdiff.stats_report import StatsReport

__all__ = ["Encoded", "checkpoint_object", "encode", "write_object", "write_report"]

_ENCODER = json.JSONEncoder(allow_nan=False)


class Encoded(str):
    """Text that is JSON already: one value, or several elements of an array with commas between."""

    __slots__ = ()


def write_report(report: Report, stream: TextIO) -> None:
    """Write the rows that the report shows, and what it says of the whole run."""
    if isinstance(report, DiffReport):
        write_object(_diff_members(report), stream)
    elif isinstance(report, StatsReport):
        write_object(_stats_members(report), stream)


def write_object(members: Iterable[tuple[str, object]], stream: TextIO) -> None:
    """Write a JSON object, a member per line; a value that is an iterator becomes an array."""
    separator = "{\n"
    for key, value in members:
        stream.write(f"{separator}{_ENCODER.encode(key)}: ")
        separator = ",\n"
        if isinstance(value, Iterator):
            _write_array(value, stream)
        else:
            stream.write(encode(value))
    stream.write("\n}\n")


def encode(value: object) -> str:
    """``value`` as strict JSON; floats that are not finite become strings."""
    if isinstance(value, Encoded):
        return value
    try:
        return _ENCODER.encode(value)
    except ValueError:
        # only values that are not finite get here, and they are rare
        return _ENCODER.encode(_strict(value))


def checkpoint_object(checkpoint: Checkpoint) -> dict[str, object]:
    """What identifies a side: neither its format nor its shards, which do not change what it is."""
    return {
        "path": checkpoint.path,
        "tensors": len(checkpoint),
        "elements": checkpoint.elements,
        "bytes": checkpoint.bytes,
    }


def _write_array(values: Iterator[object], stream: TextIO) -> None:
    """Write the elements a line each; what is encoded already can be several of them."""
    separator = "[\n"
    for value in values:
        stream.write(separator)
        stream.write(encode(value))
        separator = ",\n"
    stream.write("[]" if separator == "[\n" else "\n]")


def _object(**members: object) -> Encoded:
    """An object whose values may be encoded already."""
    pairs = (f"{_ENCODER.encode(key)}: {encode(value)}" for key, value in members.items())
    return Encoded(f"{{{', '.join(pairs)}}}")


def _diff_members(report: DiffReport) -> Iterator[tuple[str, object]]:
    options = report.options
    yield "schema", "ckptdiff.diff/1"
    yield "a", checkpoint_object(report.a)
    yield "b", checkpoint_object(report.b)
    yield (
        "options",
        {
            "atol": options.atol,
            "rtol": options.rtol,
            "cast": options.cast,
            "thresholds": list(options.thresholds),
            "histogram": options.histogram,
            "force": options.force,
            **_rules_object(options.rules),
            "rename": [
                [rename.pattern.pattern, rename.replacement] for rename in options.rules.renames
            ],
            "map": options.map,
            **_selection_object(report.selection),
        },
    )
    yield (
        "summary",
        _object(
            verdicts=report.verdicts,
            only_in_a=len(report.only_in_a),
            only_in_b=len(report.only_in_b),
            shape_mismatch=len(report.shape_mismatch),
            coverage={side: part.as_dict() for side, part in report.coverage.items()},
            not_compared=[item._asdict() for item in report.excluded],
            map=report.map,
            remarks=list(report.remarks),
            total=_total(report),
        ),
    )
    # a list, not null, where there is no config: the same tensors in a format without one
    yield "config", [difference._asdict() for difference in report.config_differences]
    yield _rows_key(report), _row_batches(report.rows)
    for key, tensors in (("only_in_a", report.only_in_a), ("only_in_b", report.only_in_b)):
        yield (
            key,
            (
                {"name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape}
                for tensor in tensors
            ),
        )
    yield (
        "shape_mismatch",
        (
            {
                "name": mismatch.name,
                "shape_a": mismatch.a.shape,
                "shape_b": mismatch.b.shape,
                "dtype_a": mismatch.a.dtype,
                "dtype_b": mismatch.b.dtype,
            }
            for mismatch in report.shape_mismatch
        ),
    )


def _stats_members(report: StatsReport) -> Iterator[tuple[str, object]]:
    options = report.options
    yield "schema", "ckptdiff.stats/1"
    yield "a", checkpoint_object(report.a)
    yield (
        "options",
        {
            "histogram": options.histogram,
            "hash": options.content_hash,
            **_rules_object(options.rules),
            **_selection_object(report.selection),
        },
    )
    yield (
        "summary",
        _object(
            coverage={"a": report.coverage.as_dict()},
            not_compared=[item._asdict() for item in report.excluded],
            total=_total(report),
        ),
    )
    yield _rows_key(report), _row_batches(report.rows)


def _rules_object(rules: Rules) -> dict[str, object]:
    return {"include": list(rules.include), "exclude": list(rules.exclude)}


def _selection_object(selection: Selection) -> dict[str, object]:
    return {
        "by": selection.by,
        "sort": selection.sort,
        "only_changed": selection.only_changed,
        "top": selection.top,
    }


def _rows_key(report: Report) -> str:
    return "tensors" if report.selection.by == "tensor" else "groups"


def _total(report: Report) -> Encoded:
    # from where the rows are, so that a number has the same digits here and there
    return next(_row_batches(report.total_rows))


def _row_batches(rows: Rows) -> Iterator[Encoded]:
    for start, stop in rows.runs():
        yield Encoded(rows.table.json_rows(start, stop))


def _strict(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return value
