"""The header of one GGUF file: metadata, and where each tensor lies.

Little-endian: ``GGUF``, the version, how many tensors and how many pairs of metadata, the pairs,
the tensors' infos, and, from the next multiple of ``general.alignment`` on, the data. Nothing says
how long the header is, so it is read as it comes, never a byte more than a buffer ahead, and every
count and length is held against what is left of the file before it is believed. Arrays are
skipped: a vocabulary is most of a header, and no tensor. The format is documented at
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import os
import struct
from operator import itemgetter
from typing import BinaryIO, NamedTuple, NoReturn, TypeAlias

from ckptdiff.errors import InvalidCheckpointError
from ckptdiff.formats.recognise import refuse_special

__all__ = ["MAGIC", "Array", "Header", "Tensor", "Value", "read_header"]

MAGIC = b"GGUF"

_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32

# Vocabularies of a million tokens take some 50 MB.
_HEADER_AT_MOST = 256 << 20
_BUFFER = 1 << 20
_MOST_DIMENSIONS = 4
_KEY_AT_MOST = 65535
# A chat template takes some 10 kB.
_STRING_AT_MOST = 1 << 20
_NESTING_AT_MOST = 8
# A number for each layer is kept, a score for each token is not.
_NUMBERS_KEPT = 1024

_NUMBERS: dict[int, struct.Struct] = {
    code: struct.Struct(f"<{letter}")
    for code, letter in enumerate("BbHhIif?")
    # 8 and 9 are strings and arrays
} | {code: struct.Struct(f"<{letter}") for code, letter in ((10, "Q"), (11, "q"), (12, "d"))}
_STRING, _ARRAY, _FLOAT32, _UINT32 = 8, 9, 6, 4
_TYPE_NAMES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "string", "array",
    "uint64", "int64", "float64",
)  # fmt: skip

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_TWO_U64 = struct.Struct("<QQ")
_TYPE_AND_COUNT = struct.Struct("<IQ")
#: dimensions, type, offset
_INFO_OF_RANK = tuple(struct.Struct(f"<{rank}QIQ") for rank in range(_MOST_DIMENSIONS + 1))
_MOST_INFO_BYTES = 8 + _KEY_AT_MOST + 4 + _INFO_OF_RANK[-1].size

# The least that a pair (key length, type, one byte) and a tensor's info take.
_LEAST_PAIR_BYTES = 8 + 4 + 1
_LEAST_TENSOR_BYTES = 8 + 4 + 4 + 8

#: ggml's number of a type -> (name, elements of a block, bytes of a block). Those that cannot be
#: decoded are here for their sizes.
_TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}


class Array(NamedTuple):
    """An array of the metadata: its numbers where they are few, else only how many and of what."""

    length: int
    of: str
    numbers: tuple[int | float, ...] | None


Value: TypeAlias = int | float | bool | str | Array


class Tensor(NamedTuple):
    """A tensor; ``offset`` is that in the file. ``shape`` has the slowest dimension first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


class Header(NamedTuple):
    """What a file says of itself."""

    path: str
    metadata: dict[str, Value]
    #: metadata as text, as :attr:`ckptdiff.Checkpoint.metadata` has it
    texts: dict[str, str]
    tensors: list[Tensor]


def read_header(path: str) -> Header:
    """Read the header of the file at ``path``.

    Raises InvalidCheckpointError where the file breaks the format, is of version 1 or big-endian.
    """
    refuse_special(path)
    with open(path, "rb") as file:
        return _Reader(path, file).header()


class _Reader:
    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.buffer = b""
        #: where the next byte is in the buffer, and where the buffer begins in the file
        self.position = 0
        self.start = 0

    def header(self) -> Header:
        self._check_version()
        tensor_count, pair_count = _TWO_U64.unpack(self._take(16, "the counts"))
        left = self.size - self._offset()
        least = tensor_count * _LEAST_TENSOR_BYTES + pair_count * _LEAST_PAIR_BYTES
        if least > left:
            self._fail(
                f"{tensor_count} tensors and {pair_count} pairs of metadata take {least} bytes or "
                f"more, and {left} are left; truncated, or not a GGUF file"
            )
        metadata, texts = self._pairs(pair_count)
        infos = [self._tensor_info() for _ in range(tensor_count)]
        alignment = self._alignment(metadata)
        data_start = -(-self._offset() // alignment) * alignment
        return Header(self.path, metadata, texts, self._placed(infos, data_start, alignment))

    def _check_version(self) -> None:
        magic = self._take(4, "the magic number")
        if magic != MAGIC:
            self._fail(f"begins with {magic!r} where a GGUF file has {MAGIC!r}")
        version = _U32.unpack(self._take(4, "the version"))[0]
        if version in _VERSIONS:
            return
        if version & 0xFFFF == 0 and version >> 24 != 0:
            self._fail("a big-endian GGUF file, which is not supported; convert it first")
        self._fail(f"GGUF version {version}, which is not supported; versions 2 and 3 are")

    # -- metadata ---------------------------------------------------------------------------------

    def _pairs(self, count: int) -> tuple[dict[str, Value], dict[str, str]]:
        metadata: dict[str, Value] = {}
        texts: dict[str, str] = {}
        for _ in range(count):
            key = self._string("a metadata key", _KEY_AT_MOST)
            if key in metadata:
                self._fail(f"metadata {_quoted(key)} is there twice")
            what = f"metadata {_quoted(key)}"
            kind = _U32.unpack(self._take(4, what))[0]
            if kind == _STRING:
                text = self._string(what, _STRING_AT_MOST)
                metadata[key] = texts[key] = text
            elif kind == _ARRAY:
                metadata[key] = array = self._array(what)
                texts[key] = _array_text(array)
            elif kind in _NUMBERS:
                number = self._number(kind, what)
                metadata[key] = number
                texts[key] = _number_text(kind, number)
            else:
                self._fail(f"{what} has the type {kind}, which GGUF does not have")
        return metadata, texts

    def _number(self, kind: int, what: str) -> int | float:
        form = _NUMBERS[kind]
        value: int | float = form.unpack(self._take(form.size, what))[0]
        return value

    def _array(self, what: str, depth: int = 1) -> Array:
        kind, count = _TYPE_AND_COUNT.unpack(self._take(12, what))
        if kind in _NUMBERS:
            form = _NUMBERS[kind]
            self._check_left(count * form.size, f"{what}, an array of {count} numbers")
            numbers = None
            if count <= _NUMBERS_KEPT:
                data = self._take(count * form.size, what)
                numbers = tuple(value for (value,) in form.iter_unpack(data))
            else:
                self._skip(count * form.size)
            return Array(count, _TYPE_NAMES[kind], numbers)
        if kind == _STRING:
            self._check_left(count * 8, f"{what}, an array of {count} strings")
            self._skip_strings(count, what)
            return Array(count, "string", None)
        if kind != _ARRAY:
            self._fail(f"{what} is an array of the type {kind}, which GGUF does not have")
        if depth >= _NESTING_AT_MOST:
            self._fail(f"{what} has arrays nested deeper than {_NESTING_AT_MOST}")
        self._check_left(count * _TYPE_AND_COUNT.size, f"{what}, an array of {count} arrays")
        for _ in range(count):
            self._array(what, depth + 1)
        return Array(count, "array", None)

    def _skip_strings(self, count: int, what: str) -> None:
        """Step over strings without making any: there can be a million, each of few bytes."""
        unpack = _U64.unpack_from
        while count:
            buffer, position = self.buffer, self.position
            end = len(buffer) - 8
            while count and position <= end:
                position += 8 + unpack(buffer, position)[0]
                count -= 1
            if position > len(buffer):
                # The last one ends beyond the buffer.
                beyond = position - len(buffer)
                self.position = len(buffer)
                self._check_left(beyond, f"a string of {what}")
                self._skip(beyond)
            else:
                self.position = position
            if count:
                self._fill(8, what)

    def _alignment(self, metadata: dict[str, Value]) -> int:
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        power = isinstance(alignment, int) and alignment > 0 and alignment & (alignment - 1) == 0
        if not power or isinstance(alignment, bool):
            self._fail(f"metadata 'general.alignment' is {alignment!r}, which is no power of two")
        assert isinstance(alignment, int)
        return alignment

    # -- tensors ----------------------------------------------------------------------------------

    def _tensor_info(self) -> tuple[str, int, tuple[int, ...], int]:
        """(name, type, dimensions with the fastest first, offset in the data).

        There can be a hundred thousand, so the whole of it is had in the buffer first.
        """
        self._fill_up(_MOST_INFO_BYTES)
        buffer, position = self.buffer, self.position
        try:
            length = _U64.unpack_from(buffer, position)[0]
            if length > _KEY_AT_MOST:
                self._fail(f"a tensor's name has {length} bytes, more than {_KEY_AT_MOST}")
            end = position + 8 + length
            rank = _U32.unpack_from(buffer, end)[0]
            name = buffer[position + 8 : end].decode()
            if rank > _MOST_DIMENSIONS:
                self._fail(
                    f"tensor {_quoted(name)}: has {rank} dimensions, and GGUF at most "
                    f"{_MOST_DIMENSIONS}"
                )
            *dimensions, kind, offset = _INFO_OF_RANK[rank].unpack_from(buffer, end + 4)
        except struct.error:
            self._fail("the infos of the tensors take more bytes than are left; truncated?")
        except UnicodeDecodeError as error:
            self._fail(f"a tensor's name is not valid UTF-8 at byte {error.start}")
        self.position = end + 4 + _INFO_OF_RANK[rank].size
        return name, kind, tuple(dimensions), offset

    def _placed(
        self, infos: list[tuple[str, int, tuple[int, ...], int]], data_start: int, alignment: int
    ) -> list[Tensor]:
        """The tensors with their bytes, which must lie in the file and apart from each other."""
        tensors: list[Tensor] = []
        ordered = sorted(infos, key=itemgetter(3))
        # The next one that has bytes begins where this one ends, or after.
        available = max(self.size - data_start, 0)
        for index, (name, kind, dimensions, offset) in enumerate(ordered):
            what = f"tensor {_quoted(name)}"
            if offset % alignment:
                self._fail(f"{what}: its offset {offset} is no multiple of {alignment}")
            dtype, block_elements, block_bytes = _TENSOR_TYPES.get(kind, (f"type {kind}", 0, 0))
            elements = 1
            for dimension in dimensions:
                elements *= dimension
            if elements >= 1 << 63:
                self._fail(f"{what}: {list(dimensions)} elements are more than fit in 64 bits")
            following = ordered[index + 1] if index + 1 < len(ordered) else None
            limit = available if following is None else min(following[3], available)
            if block_elements == 0:
                # Nobody knows how long it is; it can be listed all the same.
                size = max(limit - offset, 0)
            else:
                row = dimensions[0] if dimensions else 1
                if row % block_elements:
                    self._fail(
                        f"{what}: rows of {row} elements are no whole {dtype} blocks of "
                        f"{block_elements}"
                    )
                size = elements // block_elements * block_bytes
            if offset + size > available:
                self._fail(
                    f"{what}: its {size} bytes from {offset} on exceed the file's {available} "
                    "bytes of data; truncated?"
                )
            if size and following is not None and offset + size > following[3]:
                self._fail(
                    f"{what}: its {size} bytes from {offset} on reach into tensor "
                    f"{_quoted(following[0])}, which begins at {following[3]}"
                )
            tensors.append(Tensor(name, dtype, dimensions[::-1], data_start + offset, size))
        return tensors

    # -- bytes ------------------------------------------------------------------------------------

    def _offset(self) -> int:
        """Where the next byte is in the file."""
        return self.start + self.position

    def _string(self, what: str, longest: int) -> str:
        length = _U64.unpack(self._take(8, what))[0]
        if length > longest:
            self._fail(f"{what} has {length} bytes, which are more than {longest}")
        raw = self._take(length, what)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            message = f"{self.path}: {what} is not valid UTF-8 at byte {error.start}"
            raise InvalidCheckpointError(message) from None

    def _take(self, count: int, what: str) -> bytes:
        end = self.position + count
        if end > len(self.buffer):
            self._fill(count, what)
            end = self.position + count
        data = self.buffer[self.position : end]
        self.position = end
        return data

    def _fill(self, count: int, what: str) -> None:
        """Have at least ``count`` bytes in the buffer."""
        self._check_left(count, what)
        self.start += self.position
        rest = self.buffer[self.position :]
        self.buffer = rest + self.file.read(max(_BUFFER, count) - len(rest))
        self.position = 0
        if len(self.buffer) < count:
            self._fail(f"the file ends within {what}; it was truncated while it was read")

    def _fill_up(self, count: int) -> None:
        """Have ``count`` bytes in the buffer, or all that are left where those are fewer."""
        if len(self.buffer) - self.position < count and self.start + len(self.buffer) < self.size:
            self._fill(min(count, self.size - self._offset()), "the infos of the tensors")

    def _skip(self, count: int) -> None:
        """Step over bytes that are known to be there."""
        position = self.position + count
        if position > len(self.buffer):
            self.start += position
            self.file.seek(self.start)
            self.buffer = b""
            position = 0
        self.position = position

    def _check_left(self, count: int, what: str) -> None:
        left = self.size - self._offset()
        if count > left:
            self._fail(f"{what} takes {count} bytes, and {left} are left; truncated?")
        if self._offset() + count > _HEADER_AT_MOST:
            self._fail(f"the header exceeds the limit of {_HEADER_AT_MOST} bytes at {what}")

    def _fail(self, message: str) -> NoReturn:
        raise InvalidCheckpointError(f"{self.path}: {message}")


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 200 else f"{name[:100]}…{name[-100:]}")


def _number_text(kind: int, number: int | float) -> str:
    if isinstance(number, bool):
        return "true" if number else "false"
    if kind == _FLOAT32 and isinstance(number, float):
        return _float32_text(number)
    return str(number)


def _float32_text(number: float) -> str:
    """The shortest text that reads back as the same float of 32 bits."""
    form = _NUMBERS[_FLOAT32]
    for digits in range(6, 9):
        text = f"{number:.{digits}g}"
        try:
            if form.pack(float(text)) == form.pack(number):
                return str(float(text))
        except OverflowError:
            # rounded up beyond the largest
            continue
    return str(float(f"{number:.9g}"))


_NUMBERS_SHOWN = 16


def _array_text(array: Array) -> str:
    if array.numbers is None or array.length > _NUMBERS_SHOWN:
        return f"[{array.length} × {array.of}]"
    kind = _TYPE_NAMES.index(array.of)
    return f"[{', '.join(_number_text(kind, number) for number in array.numbers)}]"
