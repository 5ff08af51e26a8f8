"""One file that ``torch.save`` or ``torch.jit.save`` wrote: its value, and where storages lie.

Since 1.6 that is a zip archive of ``NAME/data.pkl``, whose tensors refer to storages by key, and of
``NAME/data/KEY``, their bytes, not compressed. A TorchScript archive is the same with code beside
it, which is not looked at; its ``data.pkl`` is the module as an object of a class ``__torch__.…``.

Before 1.6, and with ``_use_new_zipfile_serialization=False`` since, it is a row of pickles: a magic
number, a protocol version, facts about the machine, the value, the keys of its storages; then, in
the order of these keys, each storage as its number of elements and their bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import BinaryIO, NamedTuple

from ckptdiff.errors import InvalidCheckpointError
from ckptdiff.formats.inert import (
    PLAIN,
    TORCH,
    TORCHSCRIPT,
    DType,
    PickleCutOffError,
    Storage,
    StorageType,
    Unpickled,
    unpickle,
)
from ckptdiff.formats.zip import Archive, begins_as_zip

__all__ = ["Place", "TorchFile", "is_torch_file", "read_torch_file"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
# The magic number as a pickle has it, behind the opcodes for protocol and frame.
_MAGIC_PICKLED = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little")
_MAGIC_WITHIN = 32

# A pickle of two million tensors.
_PICKLE_BYTES_AT_MOST = 1 << 29
_FIRST_WINDOW = 1 << 20


class Place(NamedTuple):
    """Where a storage's bytes lie in the file."""

    offset: int
    size: int


class TorchFile(NamedTuple):
    """What a file holds: the value, where its storages lie, and how long its pickle was."""

    value: object
    places: dict[str, Place]
    pickle_bytes: int


def is_torch_file(path: str) -> bool:
    """Whether the content is torch's: a zip archive with a data.pkl, or torch's magic number."""
    with open(path, "rb") as file:
        start = file.read(_MAGIC_WITHIN)
        if begins_as_zip(start):
            try:
                return bool(_folders(Archive(file, path)))
            except InvalidCheckpointError:
                return False
        return start.startswith(b"\x80") and _MAGIC_PICKLED in start


def read_torch_file(path: str) -> TorchFile:
    """Read the pickle or pickles of a file, and find its storages; no tensor is read.

    Raises ForbiddenGlobalError where a pickle refers to anything that checkpoints do not need, and
    InvalidCheckpointError where the file breaks its format or is big-endian.
    """
    with open(path, "rb") as file:
        if begins_as_zip(file.read(4)):
            return _read_zip(Archive(file, path))
        return _read_legacy(file, path)


def _folders(archive: Archive) -> list[str]:
    """The folders that hold a data.pkl; torch writes one."""
    names = (name.split("/") for name in archive if name.endswith("data.pkl"))
    return [parts[0] for parts in names if len(parts) == 2 and parts[1] == "data.pkl"]


def _read_zip(archive: Archive) -> TorchFile:
    path = archive.path
    folders = _folders(archive)
    if len(folders) != 1:
        found = f"{len(folders)} of them" if folders else "none"
        raise InvalidCheckpointError(
            f"{path}: expected a data.pkl, as torch writes it, in this zip archive; found {found}"
        )
    folder = folders[0]
    byte_order = f"{folder}/byteorder"
    if byte_order in archive and archive.read(byte_order, at_most=64) != b"little":
        raise InvalidCheckpointError(f"{path}: written on a big-endian machine: not supported")
    known: Mapping[str, object] = _KNOWN
    if f"{folder}/constants.pkl" in archive:
        known = TORCHSCRIPT
    storages: dict[str, Storage] = {}
    pickle = archive.read(f"{folder}/data.pkl", at_most=_PICKLE_BYTES_AT_MOST)
    unpickled = unpickle(
        pickle, source=path, known=known, persistent_load=_storage_loader(storages)
    )
    places = {}
    for key, storage in storages.items():
        name = f"{folder}/data/{key}"
        if name not in archive:
            raise InvalidCheckpointError(f"{path}: storage {key[:80]!r} has no record in the zip")
        record = archive.stored(name)
        _check_size(path, storage, record.size)
        places[key] = Place(record.offset, record.size)
    return TorchFile(unpickled.value, places, len(pickle))


_KNOWN: dict[str, object] = PLAIN | TORCH


def _storage_loader(storages: dict[str, Storage]) -> Callable[[object], Storage]:
    """Makes storages from persistent ids, and keeps the first of each key in ``storages``."""

    def load(persistent_id: object) -> Storage:
        if not isinstance(persistent_id, tuple) or len(persistent_id) < 5:
            raise ValueError("a persistent id that torch does not write")
        tag, kind, key, _location, elements = persistent_id[:5]
        if tag != "storage" or not isinstance(kind, StorageType):
            raise ValueError("a persistent id of no storage")
        if not isinstance(key, str) or type(elements) is not int or elements < 0:
            raise ValueError("a storage without a key or size")
        first = 0
        view = persistent_id[5] if len(persistent_id) > 5 else None
        if view is not None:
            # legacy files: a storage that is a part of another
            _view_key, first, elements = view
            if type(first) is not int or type(elements) is not int or min(first, elements) < 0:
                raise ValueError("a part of a storage that is none")
        storage = Storage(kind, key, elements, first)
        known = storages.setdefault(key, storage)
        # one object for all the tensors of a storage, where they agree on what it is
        return known if known == storage else storage

    return load


def _check_size(path: str, storage: Storage, found: int) -> None:
    width = 1 if storage.kind.dtype is None else storage.kind.dtype.bytes
    if width and (storage.first + storage.elements) * width > found:
        raise InvalidCheckpointError(
            f"{path}: storage {storage.key[:80]!r} has {found} bytes instead of "
            f"{(storage.first + storage.elements) * width}"
        )


def _read_legacy(file: BinaryIO, path: str) -> TorchFile:
    size = os.fstat(file.fileno()).st_size
    storages: dict[str, Storage] = {}
    row = _PickleRow(file, path, size)
    if row.next(PLAIN) != _MAGIC:
        raise InvalidCheckpointError(
            f"{path}: a pickle, but not of torch (its magic number is missing)"
        )
    version = row.next(PLAIN)
    if version != _PROTOCOL_VERSION:
        raise InvalidCheckpointError(f"{path}: torch protocol {version!r}, expected 1001")
    facts = row.next(PLAIN)
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise InvalidCheckpointError(f"{path}: written on a big-endian machine: not supported")
    before = row.position
    value = row.next(_KNOWN, _storage_loader(storages))
    pickle_bytes = row.position - before
    keys = row.next(PLAIN)
    if not isinstance(keys, list):
        raise InvalidCheckpointError(f"{path}: expected a list of storage keys")
    places: dict[str, Place] = {}
    at = row.position
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or key in places:
            raise InvalidCheckpointError(
                f"{path}: lists a storage that no tensor has, or one of them twice"
            )
        file.seek(at)
        count = file.read(8)
        if len(count) < 8:
            raise InvalidCheckpointError(f"{path}: cut off before storage {key[:80]!r}")
        width = _width_in_file(storage.kind.dtype)
        held = int.from_bytes(count, "little") * width
        if held > size - at - 8:
            raise InvalidCheckpointError(
                f"{path}: storage {key[:80]!r} of {held} bytes, of which {size - at - 8} are there"
            )
        _check_size(path, storage, held)
        places[key] = Place(at + 8, held)
        at += 8 + held
    missing = next((key for key in storages if key not in places), None)
    if missing is not None:
        raise InvalidCheckpointError(f"{path}: storage {missing[:80]!r} is not in the file")
    return TorchFile(value, places, pickle_bytes)


def _width_in_file(dtype: DType | None) -> int:
    """Bytes per element of a legacy storage; quantised ones of less than a byte have one."""
    return 1 if dtype is None else max(dtype.bytes, 1)


class _PickleRow:
    """Pickles that follow each other in a file, whose lengths only reading them tells."""

    def __init__(self, file: BinaryIO, path: str, size: int) -> None:
        self._file = file
        self._path = path
        self._size = size
        self.position = 0

    def next(
        self,
        known: Mapping[str, object],
        persistent_load: Callable[[object], object] | None = None,
    ) -> object:
        """The value of the next pickle."""
        window = _FIRST_WINDOW
        while True:
            self._file.seek(self.position)
            data = self._file.read(min(window, self._size - self.position))
            try:
                unpickled: Unpickled = unpickle(
                    data, source=self._path, known=known, persistent_load=persistent_load
                )
            except PickleCutOffError:
                # the window's end, and not the file's: once more, with more
                if len(data) < window or window >= _PICKLE_BYTES_AT_MOST:
                    raise
                window *= 8
                continue
            self.position += unpickled.end
            return unpickled.value
