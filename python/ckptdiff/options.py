"""What was asked of a run, checked: the part of a report that says how it came about."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from ckptdiff._core import cast_dtype_names, io_names, isa_levels
from ckptdiff.naming.rules import Rules
from ckptdiff.suggest import unknown

__all__ = ["DiffOptions", "StatsOptions", "check_io", "check_isa", "check_threads"]


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """How a diff was made. Nothing here depends on the machine it ran on."""

    rules: Rules = field(default_factory=Rules)
    map: str = "auto"
    atol: float = 0.0
    rtol: float = 0.0
    cast: str | None = None
    thresholds: tuple[float, ...] = ()
    histogram: bool = False
    force: bool = False

    @classmethod
    def checked(
        cls,
        *,
        rules: Rules,
        map: str,  # noqa: A002
        atol: float,
        rtol: float,
        cast: str | None,
        thresholds: Iterable[float],
        histogram: bool,
        force: bool = False,
    ) -> DiffOptions:
        """Options of valid values; raises ValueError that names the first which is not."""
        return cls(
            rules=rules,
            map=map,
            atol=_tolerance("atol", atol),
            rtol=_tolerance("rtol", rtol),
            cast=_cast(cast),
            thresholds=tuple(dict.fromkeys(_threshold(threshold) for threshold in thresholds)),
            histogram=histogram,
            force=force,
        )


@dataclass(frozen=True, slots=True)
class StatsOptions:
    """How stats were made."""

    rules: Rules = field(default_factory=Rules)
    histogram: bool = False
    content_hash: bool = False


def check_threads(threads: int) -> int:
    """``threads`` if it is 0 (one per core) or more, else ValueError."""
    if threads < 0:
        raise ValueError(f"threads must be 0 (one per core) or more, not {threads}")
    return threads


def check_io(io: str) -> str:
    """``io`` if it is a way to read files, else ValueError."""
    if io not in io_names():
        raise ValueError(unknown("way to read files", io, io_names()))
    return io


def check_isa(isa: str | None) -> str | None:
    """``isa`` if this machine can run that level, else ValueError."""
    if isa is not None and isa not in isa_levels():
        raise ValueError(unknown("instruction set", isa, isa_levels()))
    return isa


def _tolerance(name: str, value: float) -> float:
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name} must be 0 or more, not {value}")
    return float(value)


def _threshold(value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"a threshold must be finite and 0 or more, not {value}")
    # adding zero makes 0.0 of -0.0, so that the column is not called above_-0.0
    return float(value) + 0.0


def _cast(name: str | None) -> str | None:
    if name is None:
        return None
    known = cast_dtype_names()
    for dtype in known:
        if name.upper() == dtype:
            return dtype
    raise ValueError(unknown("dtype to cast to", name, known))
