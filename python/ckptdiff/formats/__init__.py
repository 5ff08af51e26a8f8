"""One file per checkpoint format, and the registry that picks the one for a path.

A format module offers ``can_open(path) -> bool``, which looks at the content and not only at the
name, and ``open(path, options) -> Checkpoint``. The first that can open a path does. Where none
can, this module says in one line what was looked for and what is there instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointNotFoundError, CheckpointReadError, InvalidCheckpointError
from ckptdiff.formats import (
    distributed,
    gguf,
    numpy,
    olmo,
    recognise,
    safetensors,
    safetensors_shards,
    torch,
)
from ckptdiff.formats.options import WEIGHTS, OpenOptions

__all__ = ["FORMATS", "Format", "open_path"]


class Format(NamedTuple):
    """How one checkpoint format is recognised and opened."""

    name: str
    can_open: Callable[[str], bool]
    open: Callable[[str, OpenOptions], Checkpoint]


FORMATS: tuple[Format, ...] = (
    Format("torch distributed", distributed.can_open, distributed.open_checkpoint),
    Format("safetensors shards", safetensors_shards.can_open, safetensors_shards.open_checkpoint),
    Format("olmo", olmo.can_open, olmo.open_checkpoint),
    Format("safetensors", safetensors.can_open, safetensors.open_checkpoint),
    Format("torch", torch.can_open, torch.open_checkpoint),
    Format("numpy", numpy.can_open, numpy.open_checkpoint),
    Format("gguf", gguf.can_open, gguf.open_checkpoint),
)


def open_path(path: str, options: OpenOptions = WEIGHTS) -> Checkpoint:
    """Open the checkpoint at ``path`` with the first format that recognises it.

    Raises CheckpointNotFoundError where nothing is there, CheckpointReadError where the system
    refuses to read it, InvalidCheckpointError where it is no checkpoint of a known format, and
    ValueError where it has not what the options ask for.
    """
    try:
        os.stat(path)
        for candidate in FORMATS:
            if candidate.can_open(path):
                return candidate.open(path, options)
        reason = recognise.why_not(path)
    except FileNotFoundError as error:
        if isinstance(error, CheckpointNotFoundError):
            raise
        raise CheckpointNotFoundError(_not_found(path)) from error
    except OSError as error:
        if isinstance(error, CheckpointReadError):
            raise
        raise CheckpointReadError(f"{path}: {error.strerror or error}") from error
    if os.path.isdir(path):
        raise CheckpointNotFoundError(reason)
    raise InvalidCheckpointError(reason)


def _not_found(path: str) -> str:
    if os.path.islink(path):
        return f"{path}: a symbolic link to {os.readlink(path)}, which does not exist"
    return f"{path}: no such file or directory"
