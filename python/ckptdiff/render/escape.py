"""Makes a tensor name or a path safe to show.

Names come out of files that anyone may have written. A terminal obeys escape sequences, and a page
obeys bidirectional overrides, so every character that could move the cursor, change colours, break
a line or reorder text is shown as the Python escape that stands for it. Letters of any script,
emoji included, stay as they are. (The attack on source code is Boucher and Anderson, "Trojan
Source", 2021.)
"""

from __future__ import annotations

import re

__all__ = ["escape"]

# C0, DEL and C1 controls; line and paragraph separators; bidirectional marks, embeddings,
# overrides and isolates; zero-width and other invisible characters; byte-order mark; lone
# surrogates; interlinear annotations; tag characters.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def escape(text: str) -> str:
    r"""``text`` with control, invisible and reordering characters as Python escapes.

    >>> print(escape("weight\x1b[2J\u202e"))
    weight\x1b[2J\u202e
    """
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_python_escape, text)


def _python_escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape", "surrogatepass").decode("ascii")
