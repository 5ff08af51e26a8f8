"""Makes SIGTERM unwind the program, as Ctrl-C does.

Python's default is to die on the spot, which would leave a half-written temporary file beside the
output file. The status is the one that a shell gives to a process that SIGTERM ended.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["TERMINATED", "unwinding_when_terminated"]

TERMINATED = 128 + signal.SIGTERM


@contextmanager
def unwinding_when_terminated() -> Iterator[None]:
    """Within the block SIGTERM raises SystemExit, unless the process was told to ignore it."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise SystemExit(TERMINATED)
