"""Natural order of text: digits sort as numbers, so that ``step2`` comes before ``step10``."""

from __future__ import annotations

import re
from typing import TypeAlias

__all__ = ["NaturalKey", "natural_key"]

NaturalKey: TypeAlias = tuple[tuple[int, int, str], ...]


def natural_key(text: str) -> NaturalKey:
    """A key to sort by; equal only for equal texts."""
    return tuple(
        (0, int(part), part) if part[0] in "0123456789" else (1, 0, part)
        for part in re.split(r"([0-9]+)", text)
        if part
    )
