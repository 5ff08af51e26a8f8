"""OLMo's checkpoints of the first generation: ``config.yaml``, ``model.*`` and ``optim.*``.

Weights are ``model.pt``, or ``model.safetensors`` whose names are pickles in base64: of the keys of
nested dictionaries, and whether the value is a pickle itself (``gASV`` is how such a name begins).
The names are read with the inert machine; values that are pickles are not looked at. The optimizer
is in a file of its own, which is read where it is asked for.
"""

from __future__ import annotations

import base64
import binascii
import os

from ckptdiff._core import Manifest
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.errors import InvalidCheckpointError
from ckptdiff.formats import safetensors
from ckptdiff.formats.options import OpenOptions
from ckptdiff.formats.recognise import first_bytes

__all__ = ["can_open", "open_checkpoint"]

_CONFIG = "config.yaml"
_WEIGHTS = "model.safetensors"
_OPTIMIZER = "optim.safetensors"
_ENCODED = "gASV"
_START_BYTES = 4096
_KEYS_AT_MOST = 32


def can_open(path: str) -> bool:
    """Whether ``path`` is safetensors with encoded names, or a run's directory with such a file."""
    if os.path.isdir(path):
        return os.path.isfile(os.path.join(path, _CONFIG)) and _has_encoded_names(
            os.path.join(path, _WEIGHTS)
        )
    return _has_encoded_names(path)


def open_checkpoint(path: str, options: OpenOptions) -> Checkpoint:
    """Read the headers, and decode the names.

    Raises InvalidCheckpointError where a name is no pickle of keys, or two mean the same.
    """
    options.refuse_key(path, "OLMo's safetensors")
    files = [path]
    prefixes = [""]
    notes = []
    if os.path.isdir(path):
        files = [os.path.join(path, _WEIGHTS)]
        optimizer = os.path.join(path, _OPTIMIZER)
        if os.path.isfile(optimizer):
            if options.optimizer:
                files.append(optimizer)
                prefixes.append("optim.")
            else:
                notes.append(f"{_OPTIMIZER} is left out; --optimizer includes it")
    tensors = []
    for source, (file, prefix) in enumerate(zip(files, prefixes, strict=True)):
        held = safetensors.open_checkpoint(file, OpenOptions()).manifest
        for index, encoded in enumerate(held.names()):
            _, dtype, shape, _, spans = held.tensor(index)
            name, is_pickled = _decoded(encoded, file)
            if is_pickled:
                continue
            placed = [(source, offset, length) for _, offset, length in spans]
            tensors.append((prefix + name, dtype, tuple(shape), placed))
    manifest = Manifest.from_spans(files, tensors)
    return Checkpoint(manifest, path=path, format="olmo", notes=notes)


def _has_encoded_names(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    start = first_bytes(path, _START_BYTES)
    if start[8:9] != b"{":
        return False
    # the first name, behind __metadata__ if there is one
    return f'"{_ENCODED}'.encode() in start


def _decoded(encoded: str, path: str) -> tuple[str, bool]:
    """The dotted name that a name stands for, and whether its value is a pickle."""
    if not encoded.startswith(_ENCODED):
        raise InvalidCheckpointError(
            f"{path}: tensor {encoded[:200]!r} has a plain name among encoded ones"
        )
    try:
        data = base64.b64decode(encoded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidCheckpointError(
            f"{path}: tensor {encoded[:200]!r} has a name that is no base64"
        ) from None
    # most files that begin as these do are plain safetensors, and need no pickles
    from ckptdiff.formats.inert import unpickle

    value = unpickle(data, source=path, known={}).value
    if isinstance(value, tuple) and len(value) == 2:
        keys, is_pickled = value
        if (
            isinstance(keys, tuple)
            and 0 < len(keys) <= _KEYS_AT_MOST
            and isinstance(is_pickled, bool)
            and all(type(key) in (str, int) for key in keys)
        ):
            name = ".".join(map(str, keys))
            if name.isprintable():
                return name, is_pickled
    raise InvalidCheckpointError(
        f"{path}: tensor {encoded[:200]!r} has a name that stands for no keys"
    )
