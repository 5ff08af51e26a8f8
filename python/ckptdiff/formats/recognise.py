"""Says what a path that is no readable checkpoint looks like, so that an error can name it.

Nothing is opened as a checkpoint here. The first bytes and the file names tell a torch ``.bin``
from a GGUF file well enough for a sentence like "a torch zip file, which is not supported yet".
"""

from __future__ import annotations

import os

__all__ = ["first_bytes", "why_not"]

# What a file begins with, and what people call such a file.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive (torch .bin/.pt/.pth or NumPy .npz)"),
    (b"\x93NUMPY", "a NumPy .npy file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x80\x02", "a Python pickle (torch, before 1.6)"),
    (b"\x80\x04", "a Python pickle"),
    (b"version https://git-lfs", "a Git LFS pointer: get the weights (git lfs pull)"),
)

# File names that mark a checkpoint which this version cannot read.
_OTHER_FORMATS: tuple[tuple[str, str], ...] = (
    (".bin.index.json", "torch shards"),
    (".bin", "torch"),
    (".pt", "torch"),
    (".pth", "torch"),
    (".distcp", "torch distributed checkpoint"),
    (".metadata", "torch distributed checkpoint"),
    (".npz", "NumPy"),
    (".npy", "NumPy"),
    (".h5", "HDF5"),
    (".msgpack", "Flax"),
    (".ckpt", "torch or TensorFlow"),
)

_NAMED_AT_MOST = 3


def first_bytes(path: str, count: int) -> bytes:
    """The first ``count`` bytes of a file, or as many as there are."""
    with open(path, "rb") as file:
        return file.read(count)


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
            return f"{path}: {description}, which is not supported yet; safetensors is"
    if path.endswith(".bin.index.json"):
        return f"{path}: an index of torch shards, which are not supported yet; safetensors is"
    if start.lstrip().startswith(b"{"):
        return f"{path}: a JSON file, but not a *.safetensors.index.json with a weight_map"
    return f"{path}: not a checkpoint of a known format (safetensors begins otherwise)"


def _why_not_directory(path: str) -> str:
    looked_for = "looked for *.safetensors.index.json and *.safetensors"
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
    named = [
        entry + "/" if os.path.isdir(os.path.join(path, entry)) else entry
        for entry in entries[:_NAMED_AT_MOST]
    ]
    rest = len(entries) - len(named)
    return ", ".join(named) + (f" and {rest} more" if rest else "")
