"""What the place that text is written to can show: its width, colours and characters.

A terminal gets colours and lines cut to its width. A pipe or file gets neither, so that what is
searched or pasted is whole; COLUMNS in the environment sets a width there too. NO_COLOR
(https://no-color.org) turns colours off, FORCE_COLOR on. Where the encoding has no box-drawing
characters, ASCII stands in for them.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TextIO

__all__ = ["Screen"]

_DEFAULT_SIZE = (100, 24)

_STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
}

_ASCII = str.maketrans(
    {
        "×": "x",
        "─": "-",
        "→": "->",
        "·": "-",
        "…": "..",
        "‖": "||",
        "≠": "!=",
        "≤": "<=",
        "≈": "~",
        "≡": "==",
        "√": "ok",
        "█": "#",
        "▉": "#",
        "▊": "#",
        "▋": "#",
        "▌": "#",
        "▍": "-",
        "▎": "-",
        "▏": "-",
        # a sparkline's levels
        "▁": ".",
        "▂": ".",
        "▃": "-",
        "▄": "-",
        "▅": "=",
        "▆": "=",
        "▇": "#",
    }
)


@dataclass(frozen=True, slots=True)
class Screen:
    """``width`` is None where lines are never cut; ``height`` where nothing scrolls away."""

    width: int | None
    height: int | None
    color: bool
    unicode: bool = True

    @classmethod
    def of(cls, stream: TextIO) -> Screen:
        """What ``stream`` can show."""
        terminal = stream.isatty()
        columns = os.environ.get("COLUMNS", "")
        size = shutil.get_terminal_size(_DEFAULT_SIZE)
        return cls(
            width=size.columns if terminal or columns.isdigit() else None,
            height=size.lines if terminal else None,
            color=_wants_color(terminal),
            unicode=_has_box_drawing(stream.encoding),
        )

    @classmethod
    def for_repr(cls) -> Screen:
        """A plain one, as an interactive session shows a repr."""
        size = shutil.get_terminal_size(_DEFAULT_SIZE)
        return cls(width=size.columns, height=size.lines, color=False)

    @classmethod
    def for_file(cls) -> Screen:
        """A file of UTF-8."""
        return cls(width=None, height=None, color=False)

    def text(self, text: str) -> str:
        """``text`` in the characters there are."""
        if self.unicode or text.isascii():
            return text
        return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")

    def style(self, text: str, style: str) -> str:
        """``text`` in a style such as ``bold red``, if there are colours."""
        if not self.color or not style or not text:
            return text
        codes = ";".join(_STYLES[word] for word in style.split())
        return f"\x1b[{codes}m{text}\x1b[0m"


def _wants_color(terminal: bool) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return terminal and os.environ.get("TERM") != "dumb"


def _has_box_drawing(encoding: str | None) -> bool:
    try:
        "▏×≠".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
