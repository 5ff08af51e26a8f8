"""One file per checkpoint format, and the registry that picks the one for a path.

A format module offers ``can_open(path) -> bool``, which looks at the content and not only at the
name, and ``open_checkpoint(path, options) -> Checkpoint``. The first that can open a path does.
Where none can, :mod:`ckptdiff.formats.recognise` says in one line what was looked for and what is
there instead.

A reader is imported only where a path may be one of its: half of them take longer to import than a
small checkpoint takes to open. So the registry has, as plain data, what the first bytes or the
names of such a checkpoint can be. It may say yes too often, as ``can_open`` decides; never no
wrongly. Readers for the first bytes are asked first, so that a name that lies does no harm.
"""

from __future__ import annotations

import importlib
import os
import re
from typing import NamedTuple, Protocol, cast

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointNotFoundError, CheckpointReadError, InvalidCheckpointError
from ckptdiff.formats import beside, recognise
from ckptdiff.formats.options import WEIGHTS, OpenOptions

__all__ = ["FORMATS", "Format", "Reader", "open_path", "reader_of"]

# A file of a distributed checkpoint, which is no whole one though it may begin as one.
_ITEMS = ".distcp"
# How transformers names the parts of a checkpoint.
_PART = re.compile(
    r"(?:pytorch_)?model-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?:safetensors|bin|pt|pth)"
)
# Files of a directory that are looked into where no name tells which is the checkpoint.
_LOOKED_AT_MOST = 100


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


def reader_of(path: str) -> Reader | None:
    """The reader of the first format that recognises what is at ``path``.

    Raises OSError where that cannot be looked at.
    """
    look = recognise.look_at(path)
    # what a file begins with counts before what it is called
    by_content = [candidate for candidate in FORMATS if look.begins_with(candidate.starts)]
    by_name = [
        candidate
        for candidate in FORMATS
        if candidate not in by_content and look.has_name(candidate.names)
    ]
    for candidate in (*by_content, *by_name):
        reader = candidate.reader()
        if reader.can_open(path):
            return reader
    return None


def open_path(path: str, options: OpenOptions = WEIGHTS) -> Checkpoint:
    """Open the checkpoint at ``path`` with the first format that recognises it.

    Raises CheckpointNotFoundError where nothing is there, CheckpointReadError where the system
    refuses to read it, InvalidCheckpointError where it is no checkpoint of a known format, and
    ValueError where it has not what the options ask for.
    """
    try:
        os.stat(path)
        reader = reader_of(path)
        if reader is not None:
            checkpoint = reader.open_checkpoint(path, options)
            _refuse_lone_part(path)
            return beside.with_companions(checkpoint, path, options)
        if os.path.isdir(path):
            found = _lone_checkpoint(path)
            if found is not None:
                file, reader = found
                checkpoint = reader.open_checkpoint(file, options).extended(path=path)
                return beside.with_companions(checkpoint, path, options)
        reason = recognise.why_not(path, [candidate.name for candidate in FORMATS])
    except FileNotFoundError as error:
        if isinstance(error, CheckpointNotFoundError):
            raise
        raise CheckpointNotFoundError(_not_found(_file_of(error, path))) from error
    except OSError as error:
        if isinstance(error, CheckpointReadError):
            raise
        file = _file_of(error, path)
        raise CheckpointReadError(f"{file}: {error.strerror or error}") from error
    if os.path.isdir(path):
        raise CheckpointNotFoundError(reason)
    raise InvalidCheckpointError(reason)


def _refuse_lone_part(path: str) -> None:
    """A directory of parts that no index lists would be read in part, without a word."""
    if not os.path.isdir(path):
        return
    names = sorted(os.listdir(recognise.hub_snapshot(path) or path))
    if any(name.endswith(".index.json") for name in names):
        return
    for name in names:
        part = _PART.fullmatch(name)
        if part is not None and int(part["count"]) > 1:
            raise InvalidCheckpointError(
                f"{path}: {name} is part {int(part['number'])} of {int(part['count'])}, and there "
                "is no index of the parts; name the file to read it alone"
            )


def _lone_checkpoint(path: str) -> tuple[str, Reader] | None:
    """The one file of a directory that is a checkpoint by its content, whatever its name says.

    Raises InvalidCheckpointError where there are several.
    """
    directory = recognise.hub_snapshot(path) or path
    found: list[tuple[str, Reader]] = []
    names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    for name in names[:_LOOKED_AT_MOST]:
        file = os.path.join(directory, name)
        if name.startswith(recognise.NO_WEIGHTS) or name.endswith(_ITEMS):
            continue
        if not os.path.isfile(file):
            continue
        reader = reader_of(file)
        if reader is not None:
            found.append((file, reader))
    if len(found) > 1:
        names = [os.path.basename(file) for file, _ in found]
        raise InvalidCheckpointError(
            f"{path}: holds {len(found)} checkpoints by their content "
            f"({recognise.some_of(names)}); name the file to read"
        )
    return found[0] if found else None


def _file_of(error: OSError, path: str) -> str:
    """Which file the system refused: that of a path, or one in its directory."""
    return error.filename if isinstance(error.filename, str) else path


def _not_found(path: str) -> str:
    if os.path.islink(path):
        return f"{path}: a symbolic link to {os.readlink(path)}, which does not exist"
    return f"{path}: no such file or directory"
