"""Output files that are either complete or not there.

The text goes to a temporary name in the same directory, which takes the place of the file when
everything is written. An error, Ctrl-C included, removes it and leaves an older file as it was.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

__all__ = ["atomic_text", "check_writable"]


@contextmanager
def atomic_text(path: str) -> Iterator[TextIO]:
    """A UTF-8 text stream whose content becomes the file ``path`` when the block ends well.

    A symbolic link keeps pointing where it does. What is no regular file (``/dev/stdout``, a pipe)
    is written to directly. Raises OSError where the directory is missing or not writable.
    """
    if _is_special(path):
        with open(path, "w", encoding="utf-8", newline="") as stream:
            yield stream
        return
    target = os.path.realpath(path)
    # the process id and random bits, so that two runs that write one file do not meet
    temporary = f"{target}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "x", encoding="utf-8", newline="") as stream:
            yield stream
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def check_writable(path: str) -> None:
    """Raise the OSError that writing ``path`` would meet, before hours of work and not after."""
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path}: is a directory")
    directory = os.path.dirname(os.path.realpath(path)) or "."
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"{path}: no such directory")
    if not _is_special(path) and not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: the directory is not writable")


def _is_special(path: str) -> bool:
    """Whether ``path`` cannot be replaced: a device, a pipe, or a name for an open file."""
    if os.path.abspath(path).startswith(("/dev/", "/proc/")):
        # /dev/stdout may be a regular file, which its other users want to keep
        return True
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode)
