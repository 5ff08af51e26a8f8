"""One file that ``torch.save`` or ``torch.jit.save`` wrote: its value, and where storages lie.

Since 1.6 that is a zip archive of ``NAME/data.pkl``, whose tensors refer to storages by key, and of
``NAME/data/KEY``, their bytes, not compressed. A TorchScript archive is the same with code beside
it, which is not looked at; its ``data.pkl`` is the module as an object of a class ``__torch__.…``,
and ``constants.pkl`` has the tensors that its code refers to, whose bytes are
``NAME/constants/KEY``. Freezing a module makes all its parameters such constants.

Before 1.6, and with ``_use_new_zipfile_serialization=False`` since, it is a row of pickles: a magic
number, a protocol version, facts about the machine, the value, the keys of its storages; then, in
the order of these keys, each storage as its number of elements and their bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import BinaryIO, NamedTuple

from ckptdiff._core import give_back_freed_memory
from ckptdiff.errors import InvalidCheckpointError
from ckptdiff.formats.inert import (
    PLAIN,
    TORCH,
    TORCHSCRIPT,
    PickleCutOffError,
    Storage,
    StorageType,
    StoredTensor,
    Unpickled,
    sharing_shapes,
    unpickle,
)
from ckptdiff.formats.zip import DESCRIPTOR_SIGNATURE, Archive, Record, begins_as_zip

__all__ = ["TorchFile", "TorchItems", "is_torch_file", "read_constants", "read_torch_file"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
# The magic number as a pickle has it, behind the opcodes for protocol and frame.
_MAGIC_PICKLED = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little")
_MAGIC_WITHIN = 32

_CONSTANTS = "constants"
_SERIALIZATION_ID = ".data/serialization_id"
_FORM_BYTES_AT_MOST = 1 << 13

# A pickle of two million tensors.
_PICKLE_BYTES_AT_MOST = 1 << 29
# An item of a distributed checkpoint is one tensor, whose pickle has some hundred bytes.
_ITEM_PICKLE_BYTES_AT_MOST = 1 << 16
_FIRST_WINDOW = 1 << 20
# Its bytes, which are of no use when it has been read, are worth giving back.
_LARGE_PICKLE = 1 << 22


class TorchFile(NamedTuple):
    """What a file holds: the value, whose storages know where they lie, and its pickle's length."""

    value: object
    pickle_bytes: int
    #: whether it is a TorchScript archive, which may have constants
    is_script: bool = False


def is_torch_file(path: str) -> bool:
    """Whether the content is torch's: a zip archive with a data.pkl, or torch's magic number.

    Raises InvalidCheckpointError for a zip archive that cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(_MAGIC_WITHIN)
        if begins_as_zip(start):
            return bool(_folders(Archive(file, path)))
        return start.startswith(b"\x80") and _MAGIC_PICKLED in start


def read_torch_file(path: str) -> TorchFile:
    """Read the pickle or pickles of a file, and find its storages; no tensor is read.

    Raises ForbiddenGlobalError where a pickle refers to anything that checkpoints do not need, and
    InvalidCheckpointError where the file breaks its format or is big-endian.
    """
    with open(path, "rb") as file:
        if begins_as_zip(file.read(4)):
            return _read_zip(file, path)
        return _read_legacy(file, path)


def read_constants(path: str) -> TorchFile:
    """The tensors that the code of a TorchScript archive refers to.

    Raises what :func:`read_torch_file` does.
    """
    with open(path, "rb") as file:
        archive = Archive(file, path)
        folder = _folder(archive)
        data = archive.read(f"{folder}/{_CONSTANTS}.pkl", at_most=_PICKLE_BYTES_AT_MOST)
        storages: dict[str, Storage] = {}
        unpickled = unpickle(
            data, source=path, known=TORCHSCRIPT, persistent_load=_storage_loader(storages)
        )
        _place_all(archive, f"{folder}/{_CONSTANTS}", storages)
        return TorchFile(unpickled.value, unpickled.end)


class TorchItems:
    """Reads torch zip files that are parts of files, as distributed checkpoints have them.

    There can be a million, of one tensor each, and a model has few different shapes: an item whose
    pickle is, byte for byte, that of an earlier one is not unpickled again. And one that has, apart
    from the elements, the bytes of an earlier one has the same archive, which is not read again.
    """

    _KEPT_AT_MOST = 256
    _KEPT_BYTES_AT_MOST = 1 << 12

    def __init__(self) -> None:
        self._kept: dict[bytes, StoredTensor] = {}
        # by size, since most that are as large have one shape
        self._forms: dict[int, _Form] = {}

    def read(self, file: BinaryIO, path: str, offset: int, size: int) -> object:
        """Read the value of the item of ``size`` bytes at ``offset``.

        Its storages know where they lie in the whole file. Raises what :func:`read_torch_file`
        does.
        """
        form = self._forms.get(size)
        if form is not None and form.fits(file, offset):
            return form.at(offset)
        archive = Archive(file, path, start=offset, size=size)
        layout = _layout(archive)
        if layout.pickle.size > _ITEM_PICKLE_BYTES_AT_MOST:
            raise InvalidCheckpointError(f"{path}: an item at {offset} whose pickle is no tensor's")
        data = os.pread(file.fileno(), layout.pickle.size, layout.pickle.offset)
        storages: dict[str, Storage] = {}
        kept = self._kept.get(data)
        if kept is not None:
            value: object = _copied(kept, storages)
        else:
            value = unpickle(
                data, source=path, known=_KNOWN, persistent_load=_storage_loader(storages)
            ).value
            self._keep(data, value, storages)
        _place_all(archive, f"{layout.folder}/data", storages)
        if form is None and len(self._forms) < self._KEPT_AT_MOST and _is_alone(value, storages):
            assert isinstance(value, StoredTensor)
            made = _Form.of(value, archive, file, offset)
            if made is not None:
                self._forms[size] = made
        return value

    def _keep(self, data: bytes, value: object, storages: Mapping[str, Storage]) -> None:
        if (
            _is_alone(value, storages)
            and len(data) <= self._KEPT_BYTES_AT_MOST
            and len(self._kept) < self._KEPT_AT_MOST
        ):
            assert isinstance(value, StoredTensor)
            self._kept[data] = _copied(value, {})


def _is_alone(value: object, storages: Mapping[str, Storage]) -> bool:
    """Whether this is one tensor, of the only storage that there is."""
    return (
        isinstance(value, StoredTensor)
        and isinstance(value.storage, Storage)
        and value.storage.base is None
        and len(storages) == 1
    )


class _Form(NamedTuple):
    """The bytes of an item around its elements, apart from those that say nothing of its place.

    These are checksums, which nobody reads of what is stored, and the id that torch gives a file.
    An item of which all others are the same is the same archive with other elements.
    """

    tensor: StoredTensor
    #: (offset in the item, bytes) of what must be the same
    pieces: tuple[tuple[int, bytes], ...]
    before: int
    elements: int
    after: int

    @classmethod
    def of(
        cls, tensor: StoredTensor, archive: Archive, file: BinaryIO, offset: int
    ) -> _Form | None:
        """That of an item at ``offset`` which has been read; None where it is not worth keeping."""
        storage = tensor.storage
        assert isinstance(storage, Storage)
        before, end = storage.offset - offset, storage.offset - offset + storage.size
        after = archive.size - end
        if before + after > _FORM_BYTES_AT_MOST:
            return None
        ignored = [*archive.checksums(), (before, storage.size)]
        for name in archive:
            try:
                record = archive.stored(name)
            except InvalidCheckpointError:
                return None
            record_at = record.offset - offset
            if name.endswith(_SERIALIZATION_ID):
                ignored.append((record_at, record.size))
            behind = record_at + record.size
            if os.pread(file.fileno(), 4, offset + behind) == DESCRIPTOR_SIGNATURE:
                # which has the checksum once more
                ignored.append((behind + 4, 4))
        pieces = []
        at = 0
        for start, length in sorted(ignored):
            pieces.append((at, start - at))
            at = max(at, start + length)
        pieces.append((at, archive.size - at))
        held = tuple(
            (start, os.pread(file.fileno(), length, offset + start))
            for start, length in pieces
            if length > 0
        )
        return cls(_copied(tensor, {}), held, before, storage.size, after)

    def fits(self, file: BinaryIO, offset: int) -> bool:
        """Whether the item at ``offset``, of the same size, is this with other elements."""
        descriptor = file.fileno()
        behind = self.before + self.elements
        head = os.pread(descriptor, self.before, offset)
        tail = os.pread(descriptor, self.after, offset + behind)
        if len(tail) != self.after:
            return False
        for start, piece in self.pieces:
            if start < self.before:
                if not head.startswith(piece, start):
                    return False
            elif not tail.startswith(piece, start - behind):
                return False
        return True

    def at(self, offset: int) -> StoredTensor:
        """The tensor of an item that fits."""
        tensor = _copied(self.tensor, {})
        storage = tensor.storage
        assert isinstance(storage, Storage)
        storage.offset, storage.size = offset + self.before, self.elements
        return tensor


def _copied(tensor: StoredTensor, storages: dict[str, Storage]) -> StoredTensor:
    """The same tensor, of a storage that has not been found yet, which ``storages`` gets."""
    of = tensor.storage
    assert isinstance(of, Storage)
    storage = storages[of.key] = Storage(of.kind, of.key, of.elements, of.first)
    return StoredTensor(
        storage, tensor.offset, tensor.shape, tensor.stride, tensor.dtype, tensor.flags
    )


def _folders(archive: Archive) -> list[str]:
    """The folders that hold a data.pkl; torch writes one."""
    names = (name.split("/") for name in archive if name.endswith("data.pkl"))
    return [parts[0] for parts in names if len(parts) == 2 and parts[1] == "data.pkl"]


def _read_zip(file: BinaryIO, path: str) -> TorchFile:
    storages: dict[str, Storage] = {}
    layout = _layout(Archive(file, path))
    # Neither the bytes nor the archive's directory are kept while the pickle is read, which takes
    # most of the memory: the machine lets go of the bytes, and the directory is read once more.
    unpickled = unpickle(
        os.pread(file.fileno(), layout.pickle.size, layout.pickle.offset),
        source=path,
        known=sharing_shapes(_KNOWN) if layout.known is _KNOWN else layout.known,
        persistent_load=_storage_loader(storages),
    )
    if layout.pickle.size >= _LARGE_PICKLE:
        give_back_freed_memory()
    _find_and_place(file, path, layout.folder, storages)
    return TorchFile(unpickled.value, unpickled.end, layout.known is TORCHSCRIPT)


def _find_and_place(
    file: BinaryIO, path: str, folder: str, storages: Mapping[str, Storage]
) -> None:
    """Place storages by a walk over the directory, whose names are not kept.

    They have been compared before, and there may be as many as storages, which fill the memory.
    """
    prefix = f"{folder}/data/"

    def visit(name: str, number: int) -> None:
        if name.startswith(prefix):
            storage = storages.get(name[len(prefix) :])
            if storage is not None:
                # until its place is known
                storage.size = number

    archive = Archive(file, path, visit=visit)
    for key, storage in storages.items():
        if storage.size < 0:
            raise _without_record(path, key)
        record = archive.stored_at(storage.size, prefix + key)
        _place(path, storage, record.offset, record.size)


def _place_all(archive: Archive, folder: str, storages: Mapping[str, Storage]) -> None:
    path = archive.path
    for key, storage in storages.items():
        name = f"{folder}/{key}"
        if name not in archive:
            raise _without_record(path, key)
        record = archive.stored(name)
        _place(path, storage, record.offset, record.size)


def _without_record(path: str, key: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(f"{path}: storage {key[:80]!r} has no record in the zip")


class _Layout(NamedTuple):
    folder: str
    known: Mapping[str, object]
    pickle: Record


def _folder(archive: Archive) -> str:
    folders = _folders(archive)
    if len(folders) != 1:
        found = f"{len(folders)} of them" if folders else "none"
        raise InvalidCheckpointError(
            f"{archive.path}: expected a data.pkl, as torch writes it, in this zip archive; found "
            f"{found}"
        )
    return folders[0]


def _layout(archive: Archive) -> _Layout:
    path = archive.path
    folder = _folder(archive)
    byte_order = f"{folder}/byteorder"
    if byte_order in archive and archive.read(byte_order, at_most=64) != b"little":
        raise InvalidCheckpointError(f"{path}: written on a big-endian machine: not supported")
    known = TORCHSCRIPT if f"{folder}/{_CONSTANTS}.pkl" in archive else _KNOWN
    pickle = archive.stored(f"{folder}/data.pkl")
    if pickle.size > _PICKLE_BYTES_AT_MOST:
        raise InvalidCheckpointError(
            f"{path}: a pickle of {pickle.size} bytes is more than allowed"
        )
    return _Layout(folder, known, pickle)


_KNOWN: dict[str, object] = PLAIN | TORCH


#: Characters of a storage's key.
_LONGEST_KEY = 256


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
        if len(key) > _LONGEST_KEY:
            # torch's are numbers; every tensor's identity has it
            raise ValueError(f"a storage key of {len(key):,} characters")
        first = 0
        view = persistent_id[5] if len(persistent_id) > 5 else None
        if view is not None:
            # legacy files: a storage that is a part of another
            _view_key, first, elements = view
            if type(first) is not int or type(elements) is not int or min(first, elements) < 0:
                raise ValueError("a part of a storage that is none")
        base = storages.get(key)
        if base is None:
            storages[key] = base = Storage(kind, key, elements, first)
        if base.kind is kind and base.elements == elements and base.first == first:
            return base
        other = Storage(kind, key, elements, first)
        other.base = base
        return other

    return load


def _place(path: str, storage: Storage, offset: int, size: int) -> None:
    """Note where a storage's bytes lie, if they are as many as it has elements."""
    expected = (storage.first + storage.elements) * storage.element_bytes
    if expected > size:
        raise InvalidCheckpointError(
            f"{path}: storage {storage.key[:80]!r} has {size} bytes instead of {expected}"
        )
    storage.offset, storage.size = offset, size


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
    value = row.next(sharing_shapes(_KNOWN), _storage_loader(storages))
    pickle_bytes = row.position - before
    keys = row.next(PLAIN)
    if not isinstance(keys, list):
        raise InvalidCheckpointError(f"{path}: expected a list of storage keys")
    at = row.position
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or storage.offset >= 0:
            raise InvalidCheckpointError(
                f"{path}: lists a storage that no tensor has, or one of them twice"
            )
        file.seek(at)
        count = file.read(8)
        if len(count) < 8:
            raise InvalidCheckpointError(f"{path}: cut off before storage {key[:80]!r}")
        # quantised elements of less than a byte are counted in bytes
        held = int.from_bytes(count, "little") * max(storage.element_bytes, 1)
        if held > size - at - 8:
            raise InvalidCheckpointError(
                f"{path}: storage {key[:80]!r} of {held} bytes, of which {size - at - 8} are there"
            )
        _place(path, storage, at + 8, held)
        at += 8 + held
    missing = next((key for key, storage in storages.items() if storage.offset < 0), None)
    if missing is not None:
        raise InvalidCheckpointError(f"{path}: storage {missing[:80]!r} is not in the file")
    return TorchFile(value, pickle_bytes)


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
