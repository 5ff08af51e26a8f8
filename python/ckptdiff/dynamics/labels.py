"""Labels as they are printed: without the tokens at their end, which have a column of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["short_labels"]

_TOKENS = re.compile(r"(?<=[0-9])-tokens[0-9.]+[KMBTkmbt]?$")


def short_labels(labels: Sequence[str]) -> list[str]:
    """The labels without their tokens, if that tells all apart."""
    short = [_TOKENS.sub("", label) for label in labels]
    return short if len(set(short)) == len(short) else list(labels)
