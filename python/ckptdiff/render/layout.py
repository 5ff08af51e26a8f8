"""Lays out cells in aligned columns, a block of rows at a time.

The first block settles the widths, and later blocks may widen them, so a table of 200,000 rows
starts at once and needs the memory of a thousand (rich's Table renders all rows before it prints
the first). Where the width is limited, columns of low priority go first, then the one flexible
column, which holds the names, is cut in its middle: both ends of a parameter's name tell something.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ckptdiff.render.screen import Screen

__all__ = ["Cell", "Column", "cut_middle", "display_width", "table_lines"]

_GAP = "  "
_NARROWEST_NAME = 16

# Columns that only help (a shape, a dtype) give way to names of this width, others hold out longer.
_HELPFUL_PRIORITY = 4
_WIDE_NAME = 48
_NARROW_NAME = 34


class Cell(NamedTuple):
    """Text, and the style it is shown in."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """``priority`` 0 is never dropped; of the others the largest number goes first."""

    header: str
    right: bool = False
    flexible: bool = False
    priority: int = 0


def table_lines(
    columns: Sequence[Column],
    blocks: Iterable[Sequence[Sequence[Cell]]],
    screen: Screen,
    *,
    footer: Sequence[Sequence[Cell]] = (),
    widest_name: int = 0,
) -> Iterator[str]:
    """The lines of a table: header, rows, and the footer below a rule.

    ``widest_name`` is a least width of the flexible column, for blocks that are not there yet.
    """
    headers = [Cell(screen.text(column.header), "bold") for column in columns]
    foot = [[_shown(cell, screen) for cell in row] for row in footer]
    widths = [display_width(cell.text) for cell in headers]
    _widen(widths, foot)
    for number, column in enumerate(columns):
        if column.flexible:
            widths[number] = max(widths[number], widest_name)
    kept: list[int] | None = None
    for block in blocks:
        rows = [[_shown(cell, screen) for cell in row] for row in block]
        _widen(widths, rows)
        if kept is None:
            kept, widths = _fit(columns, widths, screen.width)
            yield _line(columns, kept, widths, headers, screen)
        for row in rows:
            yield _line(columns, kept, widths, row, screen)
    if kept is None:
        kept, widths = _fit(columns, widths, screen.width)
        if foot:
            yield _line(columns, kept, widths, headers, screen)
    if foot:
        rule = screen.text("─") * (sum(widths[number] for number in kept) + 2 * (len(kept) - 1))
        yield screen.style(rule, "dim")
    for row in foot:
        yield _line(columns, kept, widths, row, screen)


def display_width(text: str) -> int:
    """How many columns of a terminal ``text`` takes."""
    return len(text) if text.isascii() else _width_beyond_ascii(text)


@lru_cache(maxsize=4096)  # shapes, bars and marks come again and again
def _width_beyond_ascii(text: str) -> int:
    return sum(
        0
        if unicodedata.combining(character)
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


def cut_middle(text: str, width: int, screen: Screen) -> str:
    """``text`` in at most ``width`` columns, an ellipsis for what is cut out of its middle."""
    if display_width(text) <= width:
        return text
    mark = screen.text("…")
    room = max(width - display_width(mark), 0)
    tail = text[-1:-1]
    head = ""
    position_head, position_tail = 0, len(text)
    # the end of a name tells more than its beginning: it gets the odd column
    while position_head < position_tail:
        if display_width(tail) <= display_width(head):
            longer = text[position_tail - 1] + tail
            if display_width(head) + display_width(longer) > room:
                break
            tail, position_tail = longer, position_tail - 1
        else:
            longer = head + text[position_head]
            if display_width(longer) + display_width(tail) > room:
                break
            head, position_head = longer, position_head + 1
    return head + mark + tail


def _shown(cell: Cell, screen: Screen) -> Cell:
    return cell if screen.unicode else Cell(screen.text(cell.text), cell.style)


def _widen(widths: list[int], rows: Iterable[Sequence[Cell]]) -> None:
    for row in rows:
        for number, cell in enumerate(row):
            width = display_width(cell.text)
            if width > widths[number]:
                widths[number] = width


def _fit(
    columns: Sequence[Column], widths: Sequence[int], limit: int | None
) -> tuple[list[int], list[int]]:
    """The columns that are kept, and the widths, so that a line has at most ``limit`` columns."""
    kept = list(range(len(columns)))
    fitted = list(widths)
    if limit is None:
        return kept, fitted
    flexible = next(number for number, column in enumerate(columns) if column.flexible)

    def rest() -> int:
        others = sum(fitted[number] for number in kept if number != flexible)
        return limit - others - len(_GAP) * (len(kept) - 1)

    for priority in sorted({column.priority for column in columns} - {0}, reverse=True):
        wanted = _WIDE_NAME if priority >= _HELPFUL_PRIORITY else _NARROW_NAME
        if rest() >= min(fitted[flexible], wanted):
            break
        # columns of one priority belong together, as a minimum and a maximum do
        kept = [number for number in kept if columns[number].priority != priority]
    fitted[flexible] = max(min(fitted[flexible], rest()), _NARROWEST_NAME)
    return kept, fitted


def _line(
    columns: Sequence[Column],
    kept: Sequence[int],
    widths: Sequence[int],
    row: Sequence[Cell],
    screen: Screen,
) -> str:
    parts = []
    for number in kept:
        text, style = row[number]
        column = columns[number]
        width = widths[number]
        if column.flexible:
            text = cut_middle(text, width, screen)
        padding = " " * (width - display_width(text))
        styled = screen.style(text, style)
        parts.append(padding + styled if column.right else styled + padding)
    return _GAP.join(parts).rstrip()
