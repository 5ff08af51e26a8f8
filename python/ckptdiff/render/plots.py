"""Plots of a series, as PNG and SVG, with matplotlib where it is installed."""

from __future__ import annotations

from collections.abc import Sequence

from ckptdiff.series.data import SeriesData
from ckptdiff.series.evals import Evals
from ckptdiff.series.events import Event

__all__ = ["write_plots"]


def write_plots(
    data: SeriesData, events: Sequence[Event], folder: str, evals: Evals | None = None
) -> list[str]:
    """Write every plot that the series has data for into ``folder``, and return the files' paths.

    The folder is made where it is missing. Raises ValueError, a line with the command that installs
    it, where matplotlib is missing, and OSError where a file cannot be written.
    """
    raise NotImplementedError
