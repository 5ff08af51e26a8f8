"""Looks at paths: the first bytes, the Hub's folders, what there is where no checkpoint is.

Nothing is opened as a checkpoint here. The first bytes and the file names tell which formats to
ask, and a torch ``.bin`` from an HDF5 file well enough for a sentence like "an HDF5 file, which is
not supported".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from ckptdiff.errors import InvalidCheckpointError

__all__ = [
    "NO_WEIGHTS",
    "Look",
    "begins_as_safetensors",
    "first_bytes",
    "hub_snapshot",
    "is_something_else",
    "look_at",
    "some_of",
    "why_not",
]

#: How the names begin of what lies beside the weights in a training directory.
NO_WEIGHTS = (
    *("optim", "scheduler", "scaler", "rng_state", "random_states"),
    *("train.", "training_args", "trainer_state", "training_state"),
)

# What files of these suffixes begin with, and others do not.
_STARTS = {
    ".npz": b"PK\x03\x04",
    ".npy": b"\x93NUM",
    ".gguf": b"GGUF",
    ".pt": b"\x80\x02\x8a\x0a",
    ".h5": b"\x89HDF",
}

# What a file begins with, and what people call such a file.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive, but neither of torch nor of NumPy"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x80\x02", "a Python pickle, but not of torch"),
    (b"\x80\x04", "a Python pickle, but not of torch"),
    (b"version https://git-lfs", "a Git LFS pointer: get the weights (git lfs pull)"),
)

# Ends of file names, and why such a file makes no checkpoint of its directory.
_NO_CHECKPOINTS: tuple[tuple[str, str], ...] = (
    (".distcp", "shards of a torch distributed checkpoint, whose .metadata is missing"),
    (".h5", "HDF5 files are not supported"),
    (".hdf5", "HDF5 files are not supported"),
    (".msgpack", "Flax files are not supported"),
    (".ckpt.index", "TensorFlow files are not supported"),
    (".onnx", "ONNX files are not supported"),
)

_NAMED_AT_MOST = 3
_LOOKED_AT_BYTES = 4096
# A length comes before the header of safetensors.
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Look:
    """What a path looks like: a file's first bytes and its name, or the names in a directory."""

    start: bytes
    names: tuple[str, ...]

    def begins_with(self, starts: tuple[bytes, ...]) -> bool:
        """Whether a file begins so, at once, behind white space or behind a length."""
        start = self.start
        return (
            start.startswith(starts)
            or start.startswith(starts, _LENGTH_BYTES)
            or start.lstrip().startswith(starts)
        )

    def has_name(self, ends: tuple[str, ...]) -> bool:
        """Whether the file, or something in the directory, has a name that ends so."""
        return any(name.endswith(ends) for name in self.names)


def look_at(path: str) -> Look:
    """Look at a path once. Raises OSError where it cannot be read."""
    if os.path.isdir(path):
        return Look(b"", tuple(os.listdir(hub_snapshot(path) or path)))
    start = first_bytes(path, _LOOKED_AT_BYTES) if os.path.isfile(path) else b""
    return Look(start, (os.path.basename(path),))


def first_bytes(path: str, count: int) -> bytes:
    """The first ``count`` bytes of a file, or as many as there are; none of what is no file."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        # the first byte of a pipe may never come
        return b""
    with open(path, "rb") as file:
        return file.read(count)


def refuse_special(path: str) -> None:
    """Raise InvalidCheckpointError for what is no regular file: opening a pipe waits for a writer.

    Raises OSError where nothing is there.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InvalidCheckpointError(f"{path}: expected a regular file")


def is_something_else(path: str, suffix: str) -> bool:
    """Whether a file begins as one of another suffix does. Not where it is no file to look at."""
    if not os.path.isfile(path):
        return False
    try:
        start = first_bytes(path, 8)
    except OSError:
        return False
    # a length of 67 million bytes can begin so, but has zeros behind it
    others = {begins for known, begins in _STARTS.items() if known != suffix}
    if start[:4] in others and start[4:] != bytes(4):
        return True
    return suffix != ".safetensors" and begins_as_safetensors(path)


def begins_as_safetensors(path: str) -> bool:
    """Whether the file begins as safetensors does: a u64 length that fits, then ``{``."""
    start = first_bytes(path, 9)
    if len(start) < 9 or start[8:9] != b"{":
        return False
    return int.from_bytes(start[:8], "little") <= os.path.getsize(path) - 8


def hub_snapshot(directory: str) -> str | None:
    """The snapshot that a ``models--org--name`` folder of the Hub's cache stands for, if it is one.

    ``refs/main`` names the commit of the default branch; without it a lone snapshot is meant.
    """
    snapshots = os.path.join(directory, "snapshots")
    if not os.path.isdir(snapshots):
        return None
    reference = os.path.join(directory, "refs", "main")
    if os.path.isfile(reference):
        with open(reference, encoding="utf-8", errors="replace") as file:
            commit = file.read(256).strip()
        snapshot = os.path.join(snapshots, commit)
        if commit and os.path.basename(commit) == commit and os.path.isdir(snapshot):
            return snapshot
    commits = os.listdir(snapshots)
    if len(commits) == 1:
        return os.path.join(snapshots, commits[0])
    return None


def some_of(names: list[str]) -> str:
    """The first of these names, and how many more there are."""
    rest = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")


def why_not(path: str, formats: Sequence[str]) -> str:
    """One line on why there is no checkpoint of these formats at ``path``, which exists."""
    known = f"{', '.join(formats[:-1])} and {formats[-1]}"
    if os.path.isdir(path):
        return _why_not_directory(path, known)
    if not os.path.isfile(path):
        return f"{path}: neither a regular file nor a directory"
    start = first_bytes(path, 32)
    if not start:
        return f"{path}: an empty file, not a checkpoint"
    for signature, description in _SIGNATURES:
        if start.startswith(signature):
            if "pointer" in description:
                return f"{path}: {description}"
            return f"{path}: {description}, which is not supported; {known} are"
    if start.lstrip().startswith(b"{"):
        return f"{path}: a JSON file, but no index of shards, which has a weight_map"
    return f"{path}: not a checkpoint of a known format ({known} begin otherwise)"


def _why_not_directory(path: str, known: str) -> str:
    looked_for = f"looked for {known}"
    entries = sorted(os.listdir(path))
    if not entries:
        return f"{path}: no checkpoint in this directory ({looked_for}; it is empty)"
    for entry in entries:
        for suffix, why in _NO_CHECKPOINTS:
            if entry.endswith(suffix):
                found = f"found {entry}: {why}"
                return f"{path}: no checkpoint in this directory ({looked_for}; {found})"
    found = f"found {_listing(path, entries)}"
    return f"{path}: no checkpoint in this directory ({looked_for}; {found})"


def _listing(path: str, entries: list[str]) -> str:
    shown = [
        entry + "/" if os.path.isdir(os.path.join(path, entry)) else entry
        for entry in entries[:_NAMED_AT_MOST]
    ]
    return some_of([*shown, *entries[_NAMED_AT_MOST:]])
