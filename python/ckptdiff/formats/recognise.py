"""Looks at paths: the first bytes, the Hub's folders, what there is where no checkpoint is.

Nothing is opened as a checkpoint here. The first bytes and the file names tell a torch ``.bin``
from an HDF5 file well enough for a sentence like "an HDF5 file, which is not supported yet".
"""

from __future__ import annotations

import os

__all__ = ["first_bytes", "hub_snapshot", "some_of", "why_not"]

# What a file begins with, and what people call such a file.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive, but not of torch"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x80\x02", "a Python pickle, but not of torch"),
    (b"\x80\x04", "a Python pickle, but not of torch"),
    (b"version https://git-lfs", "a Git LFS pointer: get the weights (git lfs pull)"),
)

# File names that mark a checkpoint which this version cannot read.
_OTHER_FORMATS: tuple[tuple[str, str], ...] = (
    (".distcp", "torch distributed checkpoint"),  # one without its .metadata
    (".npy", "NumPy"),  # one array each; a file is opened, a folder of them is not
    (".h5", "HDF5"),
    (".msgpack", "Flax"),
    (".ckpt", "torch or TensorFlow"),
)

_NAMED_AT_MOST = 3


def first_bytes(path: str, count: int) -> bytes:
    """The first ``count`` bytes of a file, or as many as there are."""
    with open(path, "rb") as file:
        return file.read(count)


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


def why_not(path: str) -> str:
    """One line on why there is no checkpoint at ``path``, which exists."""
    if os.path.isdir(path):
        return _why_not_directory(path)
    if not os.path.isfile(path):
        return f"{path}: neither a regular file nor a directory"
    start = first_bytes(path, 32)
    if not start:
        return f"{path}: an empty file, not a checkpoint"
    for signature, description in _SIGNATURES:
        if start.startswith(signature):
            if "pointer" in description:
                return f"{path}: {description}"
            return f"{path}: {description}, which is not supported yet; safetensors and torch are"
    if start.lstrip().startswith(b"{"):
        return f"{path}: a JSON file, but not a *.safetensors.index.json with a weight_map"
    return f"{path}: not a checkpoint of a known format (safetensors and torch begin otherwise)"


def _why_not_directory(path: str) -> str:
    looked_for = "looked for safetensors and torch files and their indexes"
    entries = sorted(os.listdir(path))
    if not entries:
        return f"{path}: no checkpoint in this directory ({looked_for}; it is empty)"
    unsupported = [
        (entry, kind)
        for entry in entries
        for suffix, kind in _OTHER_FORMATS
        if entry.endswith(suffix)
    ]
    if unsupported:
        entry, kind = unsupported[0]
        found = f"found {entry}: {kind} files are not supported yet"
    else:
        found = f"found {_listing(path, entries)}"
    return f"{path}: no checkpoint in this directory ({looked_for}; {found})"


def _listing(path: str, entries: list[str]) -> str:
    shown = [
        entry + "/" if os.path.isdir(os.path.join(path, entry)) else entry
        for entry in entries[:_NAMED_AT_MOST]
    ]
    return some_of([*shown, *entries[_NAMED_AT_MOST:]])
