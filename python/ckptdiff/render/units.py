"""Numbers as people read them: 1.23 G elements, 14.6 GB, 1,024 tensors, 98.1 %.

Units are decimal (1 GB is 10⁹ bytes), since elements and GB/s are counted so too.
"""

from __future__ import annotations

import math

__all__ = [
    "duration",
    "exponential",
    "human_bytes",
    "human_count",
    "human_tokens",
    "index_text",
    "percent",
    "plural",
    "rate",
    "scientific",
    "shape_text",
    "significant",
    "thousands",
]

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def _scaled(value: float, *, smallest: int) -> tuple[str, str]:
    """Three significant digits and a prefix; below ``smallest`` the number itself."""
    if value < smallest:
        return f"{value:,.0f}", ""
    scaled = float(value)
    position = 0
    # 999.5 would print as 1000 with three digits: go on to the next prefix there
    while scaled >= 999.5 and position < len(_PREFIXES) - 1:
        scaled /= 1000
        position += 1
    decimals = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:.{decimals}f}", _PREFIXES[position]


def human_count(count: float) -> str:
    """Three significant digits with a prefix: ``1.23 G``; small counts in full."""
    number, prefix = _scaled(count, smallest=10_000)
    return f"{number} {prefix}".rstrip()


def human_tokens(count: float) -> str:
    """As :func:`human_count`, with 10⁹ as ``B``, as labels of checkpoints have it: ``4.19 B``."""
    return human_count(count).replace("G", "B")


def human_bytes(size: float) -> str:
    """Three significant digits: ``14.6 GB``, ``512 B``."""
    number, prefix = _scaled(size, smallest=1000)
    return f"{number} {prefix}B"


def thousands(count: int) -> str:
    """Every digit, with separators: ``1,234,567``."""
    return f"{count:,}"


def plural(count: int, noun: str) -> str:
    """``1 tensor``, ``1,024 tensors``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def percent(part: float, whole: float) -> str:
    """Part of whole. 0 % and 100 % are said only where they are exact; NaN where whole is 0."""
    if whole == 0:
        return "-"
    share = 100 * part / whole
    if part == 0:
        return "0 %"
    if part == whole:
        return "100 %"
    if share < 0.01:
        return "<0.01 %"
    if share >= 99.99:
        return ">99.9 %"
    if share >= 10:
        return f"{math.floor(share * 10) / 10:.1f} %"
    return f"{share:.2f} %"


def scientific(value: object) -> str:
    """A value in four characters of precision: ``3.2e-05``, ``0.125``, ``-`` where undefined."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**9 else f"{float(value):.3g}"
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return "NaN"
    if value in (math.inf, -math.inf):
        return "Inf" if value > 0 else "-Inf"
    if value == 0:
        return "0"
    if 0.001 <= abs(value) < 10_000:
        return f"{value:.4g}"
    return f"{value:.2e}"


def significant(value: float) -> str:
    """Four digits, zeros at their end too, so that a column tells how exact it is: ``1.200``."""
    if 0.001 <= abs(value) < 10_000:
        return f"{value:#.4g}".rstrip(".")
    return scientific(value)


def exponential(value: object) -> str:
    """A measure of change, always with its exponent, so that a column compares at a glance."""
    if isinstance(value, float) and math.isfinite(value) and value != 0:
        return f"{value:.2e}"
    return scientific(value)


def shape_text(shape: object) -> str:
    """``4096×11008``; ``scalar`` for a 0-d tensor; ``-`` for a group's missing shape."""
    if not isinstance(shape, tuple):
        return "-"
    return "×".join(str(size) for size in shape) if shape else "scalar"


def index_text(index: object) -> str:
    """``[12, 4063]``, as it is written in JSON and used in Python; ``-`` where there is none."""
    if not isinstance(index, tuple):
        return "-"
    return "[" + ", ".join(str(position) for position in index) + "]"


def duration(seconds: float) -> str:
    """``43 ms``, ``1.2 s``, ``3 min 20 s``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def rate(size: float, seconds: float) -> str:
    """Bytes per second: ``14.6 GB/s``."""
    return f"{human_bytes(size / max(seconds, 1e-9))}/s"
