"""Output files that are either complete or not there.

The text goes to a temporary name in the same directory, which takes the place of the file when
everything is written. An error, Ctrl-C included, removes it and leaves an older file as it was.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, TextIO

__all__ = ["atomic_bytes", "atomic_text", "check_folder", "check_writable"]


@contextmanager
def atomic_text(path: str) -> Iterator[TextIO]:
    """A UTF-8 text stream whose content becomes the file ``path`` when the block ends well.

    A symbolic link keeps pointing where it does. What is no regular file (``/dev/stdout``, a pipe)
    is written to directly. Raises OSError where the directory is missing or not writable.
    """
    with _destination(path) as target, open(target, "w", encoding="utf-8", newline="") as stream:
        yield stream


@contextmanager
def atomic_bytes(path: str) -> Iterator[BinaryIO]:
    """The same for bytes."""
    with _destination(path) as target, open(target, "wb") as stream:
        yield stream


@contextmanager
def _destination(path: str) -> Iterator[str]:
    """The file to write instead of ``path``: an empty new one that replaces it in the end."""
    if _is_special(path):
        yield path
        return
    target = os.path.realpath(path)
    # the process id and random bits, so that two runs that write one file do not meet
    temporary = f"{target}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "x"):
            pass
        yield temporary
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


def check_folder(path: str) -> None:
    """Raise the OSError that making the folder ``path``, or a file in it, would meet."""
    present = os.path.abspath(path)
    while not os.path.lexists(present):
        present = os.path.dirname(present)
    if not os.path.isdir(present):
        raise NotADirectoryError(f"{present}: not a directory")
    if not os.access(present, os.W_OK | os.X_OK):
        raise PermissionError(f"{present}: the directory is not writable")


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
