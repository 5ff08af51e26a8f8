"""NumPy: ``.npy``, one array, and ``.npz``, a zip archive of them.

An array is a header, a Python dictionary as text, and its elements. The header is parsed as a
literal, of a bounded length, and nothing is ever unpickled: arrays of Python objects are listed as
unsupported beside others, and refused where there are no others. Structured, text, date and
big-endian arrays are listed. Arrays in Fortran order are gathered by the core. Records that
``numpy.savez_compressed`` deflated are inflated by the core, in bounded memory.

NumPy has no bfloat16. ml_dtypes' is saved as raw data of two bytes (``V2``), and no other type of
two bytes is; so ``V2`` is read as BF16. Raw data of one byte can be any of ml_dtypes' 8-bit floats
and stays unsupported.
"""

from __future__ import annotations

import ast
import os
import re
import zlib
from typing import BinaryIO, NamedTuple

from ckptdiff._core import Manifest
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.errors import InvalidCheckpointError
from ckptdiff.formats.options import OpenOptions
from ckptdiff.formats.recognise import (
    first_bytes,
    is_something_else,
    refuse_special,
    some_of,
)
from ckptdiff.formats.zip import DEFLATED, STORED, Archive, Record, begins_as_zip

__all__ = ["can_open", "open_checkpoint"]

_MAGIC = b"\x93NUMPY"
_ARRAY_SUFFIX = ".npy"
_ARCHIVE_SUFFIX = ".npz"

# As torch files call a tensor that is the whole file.
_LONE_ARRAY = "tensor"

# NumPy's own limit, for the same reason: parsing a literal takes longer than its text is long.
_HEADER_AT_MOST = 10_000
_FREE_HEADER_TEXT = 1 << 20
_PRELUDE_BYTES = 12
_FIRST_READ = 256
_OBJECTS = "Python objects"
_OBJECT_FIELD = re.compile(r"'[|<>=]?O\d*'")
_RANK_AT_MOST = 64
_ELEMENTS_AT_MOST = 2**63

# Inflated, these fit in what the core keeps; each block that is gathered from a larger one would
# inflate it anew.
_GATHERED_INFLATED_AT_MOST = 24 << 20

_DTYPES = {
    "b1": "BOOL", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64", "u1": "U8", "u2": "U16",
    "u4": "U32", "u8": "U64", "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64", "c16": "C128",
    "V2": "BF16",
}  # fmt: skip


def can_open(path: str) -> bool:
    """Whether ``path`` is an array or an archive of some, by content or suffix; or has archives."""
    if os.path.isdir(path):
        return bool(_archives(path))
    if not os.path.isfile(path):
        return False
    start = first_bytes(path, len(_MAGIC))
    if start == _MAGIC or (begins_as_zip(start) and _has_arrays(path)):
        return True
    suffix = os.path.splitext(path)[1]
    return suffix in (_ARRAY_SUFFIX, _ARCHIVE_SUFFIX) and not is_something_else(path, suffix)


def open_checkpoint(path: str, options: OpenOptions) -> Checkpoint:
    """Read the header of the array or arrays at ``path``; no array is read.

    Raises InvalidCheckpointError where a file breaks the format, and where a directory leaves open
    which of several archives is meant.
    """
    options.refuse_key(path, "NumPy")
    file_path = path
    if os.path.isdir(path):
        archives = _archives(path)
        if len(archives) > 1:
            raise InvalidCheckpointError(
                f"{path}: holds {len(archives)} .npz files ({some_of(archives)}); name the one "
                "to read"
            )
        file_path = os.path.join(path, archives[0])
    refuse_special(file_path)
    collected = _Collected(file_path)
    notes: list[str] = []
    with open(file_path, "rb") as file:
        start = file.read(len(_MAGIC))
        if begins_as_zip(start):
            others = _read_archive(file, collected)
            if others:
                notes.append(f"{others:,} records of the archive are no arrays")
        elif start == _MAGIC or not file_path.endswith(_ARCHIVE_SUFFIX):
            size = os.fstat(file.fileno()).st_size
            collected.add(_LONE_ARRAY, os.pread(file.fileno(), _FIRST_READ, 0), file, 0, size)
        else:
            raise InvalidCheckpointError(f"{file_path}: not a zip archive, as .npz files are")
    if collected.objects is not None and not collected.supported:
        raise collected.broken(
            collected.objects,
            "is of Python objects, which are a pickle: it is not read, and there is no other array",
        )
    manifest = Manifest.from_spans(
        [file_path], collected.plain, None, collected.strided, collected.deflated
    )
    return Checkpoint(manifest, path=path, format="numpy", notes=notes)


def _archives(directory: str) -> list[str]:
    return sorted(
        name
        for name in os.listdir(directory)
        if name.endswith(_ARCHIVE_SUFFIX)
        and not is_something_else(os.path.join(directory, name), _ARCHIVE_SUFFIX)
        and not _is_another_archive(os.path.join(directory, name))
    )


def _is_another_archive(path: str) -> bool:
    """Whether this is a zip archive of whatever, but not of arrays."""
    if not os.path.isfile(path) or not begins_as_zip(first_bytes(path, 4)):
        return False
    with open(path, "rb") as file:
        try:
            names = list(Archive(file, path))
        except InvalidCheckpointError:
            # an archive that is broken is what its suffix says
            return False
    return bool(names) and not any(name.endswith(_ARRAY_SUFFIX) for name in names)


def _has_arrays(path: str) -> bool:
    with open(path, "rb") as file:
        try:
            return any(name.endswith(_ARRAY_SUFFIX) for name in Archive(file, path))
        except InvalidCheckpointError:
            return False


def _read_archive(file: BinaryIO, collected: _Collected) -> int:
    """Collect the arrays of an archive; returns how many records are none."""
    archive = Archive(file, collected.path)
    others = 0
    for record_name in archive:
        if not record_name.endswith(_ARRAY_SUFFIX):
            others += 1
            continue
        name = record_name.removesuffix(_ARRAY_SUFFIX)
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InvalidCheckpointError(
                f"{collected.path}: the name {name[:200]!r} is not UTF-8"
            ) from None
        record = archive.record(record_name)
        if record.method == STORED:
            start = os.pread(file.fileno(), min(_FIRST_READ, record.size), record.offset)
            collected.add(name, start, file, record.offset, record.size)
        elif record.method == DEFLATED:
            collected.add_deflated(name, file, record)
        else:
            raise collected.broken(name, f"is compressed by method {record.method}, not deflated")
    return others


class _Header(NamedTuple):
    description: object
    fortran_order: bool
    shape: tuple[int, ...]
    #: bytes from the start of the array to its elements
    length: int


class _Collected:
    """The arrays of a file, as Manifest.from_spans takes them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.plain: list[tuple[str, str, tuple[int, ...], tuple[tuple[int, int, int], ...]]] = []
        self.strided: list[tuple[str, str, tuple[int, ...], int, int, tuple[int, ...]]] = []
        self.deflated: list[tuple[int, int, int, int, int]] = []
        #: the first array of Python objects, and how many arrays can be read
        self.objects: str | None = None
        self.supported = 0
        # A deflated header can be a hundred times as long as what it takes in the file.
        self._header_text = 2 * os.path.getsize(path) + _FREE_HEADER_TEXT

    def add(self, name: str, start: bytes, file: BinaryIO, offset: int, size: int) -> None:
        """Add an array of ``size`` bytes at ``offset``, which begins with ``start``."""
        length = self._header_end(name, start)
        if length > len(start):
            start = os.pread(file.fileno(), min(length, size), offset)
        self._add(name, self._header(name, start[:length], length), 0, offset, size)

    def add_deflated(self, name: str, file: BinaryIO, record: Record) -> None:
        """Add an array that is deflated."""
        offset, stored_size, size = record.offset, record.stored_size, record.size
        start = self._inflated(name, file, offset, stored_size, _PRELUDE_BYTES)
        length = self._header_end(name, start)
        start = self._inflated(name, file, offset, stored_size, length)
        header = self._header(name, start, length)
        self.deflated.append((0, offset, stored_size, size, record.crc))
        self._add(name, header, len(self.deflated), 0, size)

    def broken(self, name: str, why: str) -> InvalidCheckpointError:
        return InvalidCheckpointError(f"{self.path}: tensor {name[:200]!r} {why}")

    def _inflated(
        self, name: str, file: BinaryIO, offset: int, stored_size: int, length: int
    ) -> bytes:
        """The first ``length`` bytes of a deflated record, or all where there are fewer."""
        # noise takes a little more deflated than it does as it is
        stored = os.pread(file.fileno(), min(stored_size, length + 1024), offset)
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, length)
        except zlib.error:
            raise self.broken(name, "is deflated, and broken at its start") from None

    def _header_end(self, name: str, start: bytes) -> int:
        """Where the header ends, by the magic number, the version and the length."""
        if not start.startswith(_MAGIC) or len(start) < _PRELUDE_BYTES:
            raise self.broken(name, "does not begin as an .npy array does; truncated?")
        major, minor = start[6], start[7]
        if (major, minor) == (1, 0):
            length = 10 + int.from_bytes(start[8:10], "little")
        elif (major, minor) in ((2, 0), (3, 0)):
            length = 12 + int.from_bytes(start[8:12], "little")
        else:
            raise self.broken(name, f"has version {major}.{minor} of the .npy format; 1 to 3 exist")
        if length > _HEADER_AT_MOST:
            raise self.broken(
                name, f"has a header of {length} bytes, more than the {_HEADER_AT_MOST} allowed"
            )
        self._header_text -= length
        if self._header_text < 0:
            raise self.broken(name, "is one of many whose headers are longer than the file")
        return length

    def _header(self, name: str, start: bytes, length: int) -> _Header:
        if len(start) < length:
            raise self.broken(name, f"is cut off in its header of {length} bytes")
        prelude, encoding = (10, "latin-1") if start[6] == 1 else (12, "utf-8")
        if start[6] == 2:
            encoding = "latin-1"
        try:
            header = ast.literal_eval(start[prelude:].decode(encoding).strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise self.broken(name, "has a header that is no Python literal") from None
        if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
            raise self.broken(name, "has a header without descr, fortran_order and shape alone")
        shape, fortran_order = header["shape"], header["fortran_order"]
        if not isinstance(fortran_order, bool):
            raise self.broken(name, "has a fortran_order that is neither True nor False")
        if not isinstance(shape, tuple) or len(shape) > _RANK_AT_MOST:
            raise self.broken(name, "has no valid shape")
        elements = 1
        for size in shape:
            if type(size) is not int or not 0 <= size < _ELEMENTS_AT_MOST:
                raise self.broken(name, "has no valid shape")
            elements *= max(size, 1)
        if elements >= _ELEMENTS_AT_MOST:
            raise self.broken(name, "has more elements than fit in 63 bits")
        return _Header(header["descr"], fortran_order, shape, length)

    def _add(self, name: str, header: _Header, source: int, offset: int, size: int) -> None:
        """Add an array of ``size`` bytes, header included, that begins at ``offset``."""
        shape = header.shape
        dtype, unsupported = _dtype(header.description)
        # no bytes, but a message can say in which file the tensor is
        nothing = ((source, 0, 0),)
        if dtype is None:
            if unsupported == _OBJECTS and self.objects is None:
                self.objects = name
            self.plain.append((name, unsupported, shape, nothing))
            return
        self.supported += 1
        width = int(str(header.description)[2:])
        elements = 1
        for dimension in shape:
            elements *= dimension
        held = size - header.length
        if elements * width != held:
            raise self.broken(
                name,
                f"of shape {list(shape)} and {dtype} takes {elements * width} bytes, "
                f"the file has {held}",
            )
        at = offset + header.length
        if not header.fortran_order or elements == 0 or len(shape) < 2:
            self.plain.append((name, dtype, shape, ((source, at, held),)))
            return
        if source and held > _GATHERED_INFLATED_AT_MOST:
            self.plain.append((name, f"{dtype}, deflated in Fortran order", shape, nothing))
            return
        strides: list[int] = []
        stride = width
        for dimension in shape:
            strides.append(stride)
            stride *= dimension
        self.strided.append((name, dtype, shape, source, at, tuple(strides)))


def _dtype(description: object) -> tuple[str | None, str]:
    """The safetensors name; or None, and what it is instead."""
    if not isinstance(description, str):
        # with a field of objects the whole array is a pickle
        return None, _OBJECTS if _OBJECT_FIELD.search(repr(description)) else "structured"
    order, kind = description[:1], description[1:]
    dtype = _DTYPES.get(kind)
    if order in ("|", "<", "=") and dtype is not None:
        return dtype, ""
    if order == ">" and dtype is not None:
        return None, f"big-endian {dtype}"
    if kind[:1] == "O":
        return None, _OBJECTS
    return None, "".join(filter(str.isprintable, description[:40])) or "no dtype"
