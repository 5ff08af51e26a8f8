"""A progress bar with GB/s and the time left, on stderr, where somebody watches.

It appears only on a terminal and only when a run takes longer than a moment; then, and not before,
rich is imported. It leaves nothing behind.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["ProgressBar"]

_DELAY_SECONDS = 0.3


class ProgressBar:
    """Call it with (bytes done, bytes in all), within a ``with`` block."""

    def __init__(self, *, quiet: bool) -> None:
        # there is no stderr where a script has closed it
        self._wanted = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._start = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int, total: int) -> None:
        if not self._wanted:
            return
        if self._progress is None:
            if time.monotonic() - self._start < _DELAY_SECONDS:
                return
            self._progress = _make_progress()
            self._task = self._progress.add_task("reading", total=total)
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=total)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


def _make_progress() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
