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
from itertools import repeat
from typing import NamedTuple

from ckptdiff.render.screen import Screen

__all__ = [
    "Cell",
    "Column",
    "Strip",
    "cut_middle",
    "display_width",
    "dropped",
    "table_lines",
    "widest",
]

_GAP = "  "
_NARROWEST_NAME = 16
# Every row is padded to the widest name: a name of a megabyte would make gigabytes of a table.
_WIDEST_NAME = 1024

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


class Strip(NamedTuple):
    """A column's part of a block of rows: texts, and a style for each of them or one for all."""

    texts: Sequence[str]
    styles: Sequence[str] | str = ""

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> Strip:
        """The strip of these cells."""
        return cls([cell.text for cell in cells], [cell.style for cell in cells])


def table_lines(
    columns: Sequence[Column],
    blocks: Iterable[Sequence[Strip]],
    screen: Screen,
    *,
    footer: Sequence[Cell] = (),
    widest_name: int = 0,
) -> Iterator[str]:
    """The lines of a table: header, rows, and the footer below a rule.

    A block has a strip for each column. ``widest_name`` is a least width of the flexible column,
    for blocks that are not there yet.
    """
    header = [Strip([screen.text(column.header)], "bold") for column in columns]
    foot = [Strip([screen.text(cell.text)], [cell.style]) for cell in footer]
    widths = [widest(strip.texts) for strip in header]
    _widen(widths, foot)
    for number, column in enumerate(columns):
        if column.flexible:
            widths[number] = max(widths[number], widest_name)
    kept: list[int] | None = None
    for block in blocks:
        strips = [_shown(strip, screen) for strip in block]
        _widen(widths, strips)
        for number, column in enumerate(columns):
            if column.flexible:
                widths[number] = min(widths[number], _WIDEST_NAME)
        if kept is None:
            kept, widths = _fit(columns, widths, screen.width)
            yield from _lines(columns, kept, widths, header, screen)
        yield from _lines(columns, kept, widths, strips, screen)
    if kept is None:
        kept, widths = _fit(columns, widths, screen.width)
        if foot:
            yield from _lines(columns, kept, widths, header, screen)
    if foot:
        rule = screen.text("─") * (sum(widths[number] for number in kept) + 2 * (len(kept) - 1))
        yield screen.style(rule, "dim")
        yield from _lines(columns, kept, widths, foot, screen)


def dropped(columns: Sequence[Column], block: Sequence[Strip], screen: Screen) -> list[Column]:
    """The columns that :func:`table_lines` has no room for, of a table of this one block."""
    widths = [widest([screen.text(column.header)]) for column in columns]
    _widen(widths, [_shown(strip, screen) for strip in block])
    kept, _ = _fit(columns, widths, screen.width)
    return [column for number, column in enumerate(columns) if number not in kept]


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
    if text.isascii():
        # the end of a name tells more than its beginning: it gets the odd column
        return text[: room // 2] + mark + text[len(text) - (room - room // 2) :]
    if len(text) > 8 * width + 64:
        # only the ends can be shown, and combining characters take no room
        text = text[: 4 * width + 32] + text[-4 * width - 32 :]
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


def _shown(strip: Strip, screen: Screen) -> Strip:
    if screen.unicode:
        return strip
    return Strip([screen.text(text) for text in strip.texts], strip.styles)


def _is_narrow(texts: Sequence[str]) -> bool:
    """Whether every character is of Latin-1, each of which takes one column."""
    # one look at all of them is far cheaper than one at each
    try:
        "".join(texts).encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def widest(texts: Sequence[str]) -> int:
    """How many columns the widest of the texts takes."""
    return max(map(len if _is_narrow(texts) else display_width, texts), default=0)


def _widen(widths: list[int], strips: Sequence[Strip]) -> None:
    for number, strip in enumerate(strips):
        widths[number] = max(widths[number], widest(strip.texts))


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
    fitted[flexible] = min(fitted[flexible], max(rest(), _NARROWEST_NAME))
    return kept, fitted


def _lines(
    columns: Sequence[Column],
    kept: Sequence[int],
    widths: Sequence[int],
    strips: Sequence[Strip],
    screen: Screen,
) -> Iterator[str]:
    padded = [_padded(columns[number], widths[number], strips[number], screen) for number in kept]
    return (_GAP.join(parts).rstrip() for parts in zip(*padded, strict=True))


def _padded(column: Column, width: int, strip: Strip, screen: Screen) -> Iterable[str]:
    """The texts of a strip, styled, each as wide as the column."""
    texts = strip.texts
    if column.flexible and widest(texts) > width:
        texts = [cut_middle(text, width, screen) for text in texts]
    if not screen.color and _is_narrow(texts):
        return [text.rjust(width) if column.right else text.ljust(width) for text in texts]
    styles = repeat(strip.styles) if isinstance(strip.styles, str) else strip.styles
    paddings = (" " * (width - display_width(text)) for text in texts)
    # the padding is not styled: an underlined or inverted one would show
    styled = map(screen.style, texts, styles)
    if column.right:
        return (padding + text for padding, text in zip(paddings, styled, strict=True))
    return (text + padding for padding, text in zip(paddings, styled, strict=True))
