"""Tells a series that was saved from the checkpoints that may lie beside it. Nothing more is read.

:mod:`ckptdiff.dynamics.stored` writes and reads such a file, which needs numpy; this does not.
"""

from __future__ import annotations

import os
import struct

__all__ = ["DOCUMENT", "is_stored"]

#: The first member of the archive.
DOCUMENT = "ckptdiff_series.json"

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


def is_stored(path: str) -> bool:
    """Whether the file begins as a saved series does."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        start = file.read(_LOCAL_HEADER.size + len(DOCUMENT))
    return start.startswith(b"PK\x03\x04") and start.endswith(DOCUMENT.encode())
