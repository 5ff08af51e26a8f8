"""Zip archives as a table of where their records lie: what torch and numpy put tensors in.

Only the central directory is read, and of a record only its local header, because the data begins
behind that header's own name and extra field, whose lengths may differ from the directory's. The
data is not decompressed, nor CRCs held against it here: torch can be told to leave them at 0.

An archive can contradict itself, and readers differ in whom they believe. So the directory must end
where the end record begins, no two records may have one name or share a byte, and a local header
must agree with the directory about the name and the method. Names are names and never become paths.

An archive may be a part of a file (an item of a torch distributed checkpoint). Offsets in records
are those of the file.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from ckptdiff.errors import InvalidCheckpointError

__all__ = ["DEFLATED", "DESCRIPTOR_SIGNATURE", "STORED", "Archive", "Record", "begins_as_zip"]

STORED = 0
DEFLATED = 8

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_ZIP64_END = struct.Struct("<4sQ2H2I4Q")
_ZIP64_LOCATOR = struct.Struct("<4sIQI")

_LOCAL_CRC = 14
_CENTRAL_CRC = 16
_CRC_BYTES = 4

#: of what can follow a record's bytes, and is not looked at
DESCRIPTOR_SIGNATURE = b"PK\x07\x08"

_LOCAL_SIGNATURE = b"PK\x03\x04"
_CENTRAL_SIGNATURE = b"PK\x01\x02"
_END_SIGNATURE = b"PK\x05\x06"
_ZIP64_END_SIGNATURE = b"PK\x06\x06"
_ZIP64_LOCATOR_SIGNATURE = b"PK\x06\x07"

_ENCRYPTED = 0x2041  # encrypted, strongly encrypted, or with masked headers
_ZIP64_EXTRA = 1
_IN_ZIP64_16 = 0xFFFF
_IN_ZIP64_32 = 0xFFFFFFFF

# The end record with the longest comment, and the zip64 records before it.
_TAIL_BYTES = _END.size + 0xFFFF + _ZIP64_LOCATOR.size + _ZIP64_END.size
# Most archives have no comment, and many are small: try with little first.
_SHORT_TAIL_BYTES = 1024
# A directory of ten million records; nobody has that many tensors.
_DIRECTORY_BYTES_AT_MOST = 1 << 30
_DIRECTORY_PART = 1 << 20
# A directory's entry with the longest name, extra field and comment.
_ENTRY_AT_MOST = _CENTRAL.size + 3 * 0xFFFF


class Record(NamedTuple):
    """One record: where its data lies in the file, and how large it is there and inflated."""

    name: str
    method: int
    offset: int
    stored_size: int
    size: int
    #: of the inflated bytes, as the directory has it; 0 where torch was told not to compute it
    crc: int


def begins_as_zip(start: bytes) -> bool:
    """Whether a file that starts so can be a zip archive with records."""
    return start.startswith((_LOCAL_SIGNATURE, _END_SIGNATURE))


class Archive:
    """The records of a zip archive. The file must stay open for :meth:`record` and :meth:`read`."""

    def __init__(
        self,
        file: BinaryIO,
        path: str,
        *,
        start: int = 0,
        size: int | None = None,
        visit: Callable[[str, int], None] | None = None,
    ) -> None:
        """Read the directory of the archive of ``size`` bytes at ``start`` of ``file``.

        With ``visit``, that gets each name and the record's number for :meth:`stored_at`, and names
        are neither kept nor compared with each other: hundreds of thousands take much memory.

        Raises InvalidCheckpointError, which names ``path``, where it is no zip archive.
        """
        self.path = path
        self._file = file.fileno()
        self._start = start
        held = os.fstat(self._file).st_size
        self._size = held - start if size is None else size
        if start < 0 or self._size < 0 or start + self._size > held:
            raise InvalidCheckpointError(
                f"{path}: a zip archive of {self._size} bytes at {start}, in {held} bytes"
            )
        self._visit = visit
        self._indices: dict[str, int] = {}
        self._headers = array("Q")
        self._stored_sizes = array("Q")
        self._sizes = array("Q")
        self._crcs = array("I")
        self._crcs_at = array("Q")
        self._methods = array("H")
        self._flags = array("H")
        self._directory_at, directory_size, count = self._find_directory()
        self._read_directory(directory_size, count)
        self._ends = self._check_overlaps()

    def __contains__(self, name: object) -> bool:
        return name in self._indices

    def __iter__(self) -> Iterator[str]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def size(self) -> int:
        """Bytes of the archive, of which there may be more around it in the file."""
        return self._size

    def checksums(self) -> Iterator[tuple[int, int]]:
        """Where in the archive each record's CRC is, with its length: twice for each record."""
        for header_at in self._headers:
            yield header_at + _LOCAL_CRC, _CRC_BYTES
        yield from ((at, _CRC_BYTES) for at in self._crcs_at)

    def record(self, name: str) -> Record:
        """Where the record of that name lies, by its local header. Raises KeyError for none.

        Raises InvalidCheckpointError where it is encrypted, or where directory, local header and
        the other records do not leave it the bytes it claims.
        """
        return self._record_at(self._indices[name], name)

    def _record_at(self, index: int, name: str) -> Record:
        if self._flags[index] & _ENCRYPTED:
            raise self._broken(name, "is encrypted")
        method = self._methods[index]
        stored_size = self._stored_sizes[index]
        if method == STORED and stored_size != self._sizes[index]:
            raise self._broken(name, f"is stored, in {stored_size} bytes for {self._sizes[index]}")
        header_at = self._headers[index]
        header = self._pread(_LOCAL.size + 2 * 0xFF, header_at)
        if len(header) < _LOCAL.size or not header.startswith(_LOCAL_SIGNATURE):
            raise self._broken(name, f"has no local header at {self._start + header_at}")
        fields = _LOCAL.unpack_from(header)
        local_flags, local_method, name_length, extra_length = (
            fields[2],
            fields[3],
            fields[9],
            fields[10],
        )
        if local_method != method or (local_flags ^ self._flags[index]) & _ENCRYPTED:
            raise self._broken(name, "has a local header that contradicts the directory")
        if len(header) < _LOCAL.size + name_length:
            header = self._pread(_LOCAL.size + name_length, header_at)
        if _decode(header[_LOCAL.size : _LOCAL.size + name_length]) != name:
            raise self._broken(name, "has another name in its local header")
        offset = header_at + _LOCAL.size + name_length + extra_length
        if offset + stored_size > self._ends[index]:
            raise self._broken(name, "does not fit between its header and what follows")
        start, size = self._start + offset, self._sizes[index]
        return Record(name, method, start, stored_size, size, self._crcs[index])

    def stored(self, name: str) -> Record:
        """:meth:`record` of a record that is not compressed, whose bytes can be read in place."""
        return self.stored_at(self._indices[name], name)

    def stored_at(self, index: int, name: str) -> Record:
        """:meth:`stored` of the record that was visited by this number and name."""
        record = self._record_at(index, name)
        if record.method != STORED:
            raise self._broken(name, "is compressed, where its bytes are needed in place")
        return record

    def read(self, name: str, *, at_most: int) -> bytes:
        """The bytes of a stored record of no more than ``at_most`` bytes."""
        record = self.stored(name)
        if record.size > at_most:
            raise self._broken(name, f"has {record.size} bytes, more than the {at_most} allowed")
        content = self._pread(record.size, record.offset - self._start)
        if len(content) != record.size:
            raise self._broken(name, "is cut off")
        return content

    def _broken(self, name: str, why: str) -> InvalidCheckpointError:
        return InvalidCheckpointError(f"{self.path}: the zip record {_short(name)} {why}")

    def _no_archive(self, why: str) -> InvalidCheckpointError:
        return InvalidCheckpointError(f"{self.path}: a broken zip archive: {why}")

    def _pread(self, length: int, offset: int) -> bytes:
        """Bytes at an offset in the archive, fewer at its end."""
        length = min(length, self._size - offset)
        if length <= 0:
            return b""
        pieces = []
        while length > 0:
            piece = os.pread(self._file, length, self._start + offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _find_directory(self) -> tuple[int, int, int]:
        """Where the directory is, how many bytes it has, and how many records."""
        tail, tail_at, end_at = b"", 0, -1
        for length in (_SHORT_TAIL_BYTES, _TAIL_BYTES):
            tail_at = max(0, self._size - length)
            tail = self._pread(length, tail_at)
            end_at = _find_end(tail)
            if end_at >= 0:
                break
        if end_at < 0:
            raise self._no_archive("no directory at its end (is it cut off?)")
        fields = _END.unpack_from(tail, end_at)
        disk, directory_disk, count_here, count, size, offset = fields[1:7]
        before = tail_at + end_at
        zip64 = self._find_zip64_end(before)
        if zip64 is not None:
            before, disk, directory_disk, count_here, count, size, offset = zip64
        if disk or directory_disk or count_here != count:
            raise self._no_archive("it is one of several volumes")
        if offset + size != before:
            raise self._no_archive(
                f"a directory of {size} bytes at {offset}, where it should end at {before}"
            )
        if size > _DIRECTORY_BYTES_AT_MOST or count * _CENTRAL.size > size:
            raise self._no_archive(f"a directory of {count} records in {size} bytes")
        return offset, size, count

    def _find_zip64_end(self, end_at: int) -> tuple[int, int, int, int, int, int, int] | None:
        """The fields of the zip64 end record, preceded by where it lies; None without one."""
        locator_at = end_at - _ZIP64_LOCATOR.size
        if locator_at < 0:
            return None
        locator = self._pread(_ZIP64_LOCATOR.size, locator_at)
        if not locator.startswith(_ZIP64_LOCATOR_SIGNATURE):
            return None
        record_at = _ZIP64_LOCATOR.unpack(locator)[2]
        record = self._pread(_ZIP64_END.size, record_at)
        if len(record) < _ZIP64_END.size or not record.startswith(_ZIP64_END_SIGNATURE):
            raise self._no_archive(f"no zip64 end record at {record_at}")
        _, record_size, _, _, disk, directory_disk, here, count, size, offset = _ZIP64_END.unpack(
            record
        )
        if record_at + 12 + record_size != locator_at:
            raise self._no_archive("its zip64 end record does not end where it should")
        return record_at, disk, directory_disk, here, count, size, offset

    def _read_directory(self, size: int, count: int) -> None:
        # A part at a time: of 200,000 records the directory alone has 14 MB.
        directory = self._pread(min(size, _DIRECTORY_PART), self._directory_at)
        left = size - len(directory)
        at = 0
        for index in range(count):
            if left > 0 and len(directory) - at < _ENTRY_AT_MOST:
                part = self._pread(min(left, _DIRECTORY_PART), self._directory_at + size - left)
                directory, at = directory[at:] + part, 0
                left = left - len(part) if part else 0
            if at + _CENTRAL.size > len(directory):
                raise self._no_archive(f"a directory of {index} records instead of {count}")
            entry_at = at + _CENTRAL_CRC
            fields = _CENTRAL.unpack_from(directory, at)
            flags, method, stored_size, full_size = fields[3], fields[4], fields[8], fields[9]
            name_length, extra_length, comment_length = fields[10:13]
            disk, header_at = fields[13], fields[16]
            name_at = at + _CENTRAL.size
            extra_at = name_at + name_length
            at = extra_at + extra_length + comment_length
            if fields[0] != _CENTRAL_SIGNATURE or at > len(directory):
                raise self._no_archive(f"record {index} of its directory is broken")
            name = _decode(directory[name_at:extra_at])
            if _IN_ZIP64_32 in (stored_size, full_size, header_at) or disk == _IN_ZIP64_16:
                extra = directory[extra_at : extra_at + extra_length]
                full_size, stored_size, header_at, disk = self._zip64_values(
                    name, extra, full_size, stored_size, header_at, disk
                )
            if disk:
                raise self._no_archive("it is one of several volumes")
            if name in self._indices:
                raise self._no_archive(f"two records are named {_short(name)}")
            if header_at + _LOCAL.size + stored_size > self._directory_at:
                raise self._broken(name, "reaches beyond the archive's records")
            if self._visit is None:
                self._indices[name] = index
            else:
                self._visit(name, index)
            self._headers.append(header_at)
            self._stored_sizes.append(stored_size)
            self._sizes.append(full_size)
            self._crcs.append(fields[7])
            self._crcs_at.append(self._directory_at + size - left - len(directory) + entry_at)
            self._methods.append(method)
            self._flags.append(flags)
        if at != len(directory) or left > 0:
            raise self._no_archive(f"its directory has more than its {count} records")

    def _zip64_values(
        self, name: str, extra: bytes, size: int, stored_size: int, header_at: int, disk: int
    ) -> tuple[int, int, int, int]:
        """The values of the zip64 extra field, which has those that do not fit elsewhere."""
        at = 0
        while at + 4 <= len(extra):
            tag, length = struct.unpack_from("<2H", extra, at)
            at += 4
            if tag == _ZIP64_EXTRA:
                break
            at += length
        else:
            raise self._broken(name, "lacks its zip64 sizes")
        values = extra[at : at + length]
        found = []
        for value, absent in (
            (size, _IN_ZIP64_32),
            (stored_size, _IN_ZIP64_32),
            (header_at, _IN_ZIP64_32),
            (disk, _IN_ZIP64_16),
        ):
            width = 4 if absent == _IN_ZIP64_16 else 8
            if value == absent:
                if len(values) < width:
                    raise self._broken(name, "lacks its zip64 sizes")
                value, values = int.from_bytes(values[:width], "little"), values[width:]
            found.append(value)
        return found[0], found[1], found[2], found[3]

    def _check_overlaps(self) -> array[int]:
        """Where at the latest each record ends: at the next header, or at the directory."""
        headers = self._headers
        order: Sequence[int] = range(len(headers))
        if any(headers[index] > headers[index + 1] for index in range(len(headers) - 1)):
            order = sorted(order, key=headers.__getitem__)
        names: list[str] | None = None
        ends = array("Q", bytes(8 * len(headers)))
        limit = self._directory_at
        for index in reversed(order):
            if headers[index] + _LOCAL.size + self._stored_sizes[index] > limit:
                names = names or list(self._indices)
                name = names[index] if names else f"number {index}"
                raise self._broken(name, "overlaps another")
            ends[index] = limit
            limit = headers[index]
        return ends


def _find_end(tail: bytes) -> int:
    """Where the end record begins whose comment ends with the archive; -1 for none."""
    at = len(tail) - _END.size
    while at >= 0:
        at = tail.rfind(_END_SIGNATURE, 0, at + 4)
        if at < 0:
            return -1
        if at + _END.size + int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail):
            return at
        at -= 1
    return -1


def _decode(name: bytes) -> str:
    # torch writes UTF-8 without setting the flag that says so
    return name.decode("utf-8", "surrogateescape")


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "...")
