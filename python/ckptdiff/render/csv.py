"""Rows as CSV: every column, a header line, ``\\n`` line ends, quoted where needed.

A float reads back as the same float; one that is not finite is ``NaN``, ``Infinity`` or
``-Infinity``. Undefined is empty. A shape or index is the text of a JSON list. Names are written as
they are, except that a terminal is spared their control characters.
"""

from __future__ import annotations

import csv
from typing import TextIO

from ckptdiff.render.escape import escape
from ckptdiff.rows import Rows

__all__ = ["csv_value", "write_rows"]

_NON_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def write_rows(rows: Rows, stream: TextIO) -> None:
    """Write the rows in their order."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(rows.column_names)
    text = escape if stream.isatty() else str
    for _, values in rows.enumerated():
        writer.writerow(
            [text(value) if isinstance(value, str) else csv_value(value) for value in values]
        )


def csv_value(value: object) -> object:
    """A value as the csv module is to write it."""
    if isinstance(value, float):
        text = repr(value)
        return _NON_FINITE.get(text, text)
    if isinstance(value, tuple):
        return str(list(value))
    # the csv module writes None as an empty field
    return value
