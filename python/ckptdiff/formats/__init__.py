"""One file per checkpoint format, and the registry that picks the one for a path.

A format module offers ``can_open(path) -> bool``, which looks at the content and not only at the
name, and ``open_checkpoint(path, options) -> Checkpoint``. The first that can open a path does.
Where none can, :mod:`ckptdiff.formats.recognise` says in one line what was looked for and what is
there instead.

A reader is imported only where a path may be one of its: half of them take longer to import than a
small checkpoint takes to open. So the registry has, as plain data, what the first bytes or the
names of such a checkpoint can be. It may say yes too often, as ``can_open`` decides; never no
wrongly.
"""

from __future__ import annotations

import importlib
import os
from typing import NamedTuple, Protocol, cast

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointNotFoundError, CheckpointReadError, InvalidCheckpointError
from ckptdiff.formats import beside, recognise
from ckptdiff.formats.options import WEIGHTS, OpenOptions

__all__ = ["FORMATS", "Format", "Reader", "open_path"]


class Reader(Protocol):
    """What the module of a format offers."""

    def can_open(self, path: str) -> bool:
        """Whether ``path`` is of this format, by its content."""

    def open_checkpoint(self, path: str, options: OpenOptions) -> Checkpoint:
        """Describe the tensors; none is read."""


class Format(NamedTuple):
    """One checkpoint format: what people call it, and where it is read.

    ``module`` is in this package, or has a dotted name. ``starts`` are the first bytes that such a
    file may have, at its very start, behind white space or behind a length of eight bytes;
    ``names`` are ends of the name of such a file, or of an entry of such a directory.
    """

    name: str
    module: str
    starts: tuple[bytes, ...] = ()
    names: tuple[str, ...] = ()

    def may_be(self, look: recognise.Look) -> bool:
        """Whether a path that looks so may be of this format."""
        return look.begins_with(self.starts) or look.has_name(self.names)

    def reader(self) -> Reader:
        """The module, imported."""
        name = self.module if "." in self.module else f"{__name__}.{self.module}"
        return cast("Reader", importlib.import_module(name))


FORMATS: tuple[Format, ...] = (
    Format("torch distributed", "distributed", names=(".metadata", "model_and_optim")),
    Format("safetensors shards", "safetensors_shards", names=(".safetensors",)),
    Format("OLMo", "olmo", starts=(b"{",), names=("config.yaml",)),
    Format("safetensors", "safetensors", starts=(b"{",), names=(".safetensors", ".index.json")),
    Format(
        "torch",
        "torch",
        starts=(b"PK", b"\x80"),
        names=(
            *(".bin", ".ckpt", ".pt", ".pth", ".bin.index.json"),
            *(".jit", ".ts", ".torchscript"),
        ),
    ),
    Format("NumPy", "numpy", starts=(b"PK", b"\x93NUMPY"), names=(".npy", ".npz")),
    Format("GGUF", "gguf", starts=(b"GGUF",), names=(".gguf",)),
)


def open_path(path: str, options: OpenOptions = WEIGHTS) -> Checkpoint:
    """Open the checkpoint at ``path`` with the first format that recognises it.

    Raises CheckpointNotFoundError where nothing is there, CheckpointReadError where the system
    refuses to read it, InvalidCheckpointError where it is no checkpoint of a known format, and
    ValueError where it has not what the options ask for.
    """
    try:
        os.stat(path)
        look = recognise.look_at(path)
        for candidate in FORMATS:
            if candidate.may_be(look):
                reader = candidate.reader()
                if reader.can_open(path):
                    checkpoint = reader.open_checkpoint(path, options)
                    return beside.with_companions(checkpoint, path, options)
        reason = recognise.why_not(path, [candidate.name for candidate in FORMATS])
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
