"""Write torch files from opcodes and raw records: valid ones, and those that torch never writes.

The real files of other tests come from torch itself. Here is what it takes to lie: a pickle put
together piece by piece, records with any name, size and offset.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

MAGIC = 0x1950A86A20F9469CFC6C
FOLDER = "archive"

START = b"\x80\x02"
STOP = b"."


def plain(value: object) -> bytes:
    """The opcodes that leave a plain value on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def name_of(module: str, name: str) -> bytes:
    """The opcode that refers to a global."""
    return f"c{module}\n{name}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def storage(key: object = "0", elements: object = 2, kind: str = "FloatStorage") -> bytes:
    """A persistent id of a storage."""
    pieces = (plain("storage"), name_of("torch", kind), plain(key), plain("cpu"), plain(elements))
    return b"(" + b"".join(pieces) + b"tQ"


def tensor(
    shape: object = (2,),
    stride: object = (1,),
    offset: object = 0,
    held: bytes | None = None,
) -> bytes:
    """A call that rebuilds a tensor, as torch.save writes it."""
    return call(
        name_of("torch._utils", "_rebuild_tensor_v2"),
        storage() if held is None else held,
        plain(offset),
        plain(shape),
        plain(stride),
        plain(False),
        name_of("collections", "OrderedDict") + b")R",
    )


def mapping(**entries: bytes) -> bytes:
    """A dictionary of texts to what the opcodes make."""
    items = b"".join(plain(key) + value for key, value in entries.items())
    return b"}(" + items + b"u"


def pickled(opcodes: bytes) -> bytes:
    return START + opcodes + STOP


def write_zip(
    path: Path,
    data_pickle: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    more: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """A torch zip file of these records; ``more`` has further ones by their whole names.

    ``compression`` is that of the storages.
    """
    records = {f"{FOLDER}/data.pkl": data_pickle, f"{FOLDER}/byteorder": b"little"}
    for key, data in ({"0": struct.pack("<2f", 1, 2)} if storages is None else storages).items():
        records[f"{FOLDER}/data/{key}"] = data
    # torch itself wants a version
    records |= {f"{FOLDER}/version": b"3\n"} | dict(more or {})
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            # of a storage only: a pickle that is compressed is refused before
            method = compression if "/data/" in name else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def write_legacy(
    path: Path,
    data_pickle: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    magic: bytes = pickle.dumps(MAGIC, 2),
    version: int = 1001,
    little_endian: bool = True,
    element_bytes: int = 4,
) -> Path:
    """The row of pickles of torch before 1.6, and the storages behind it."""
    held = {"0": struct.pack("<2f", 1, 2)} if storages is None else storages
    with path.open("wb") as file:
        file.write(magic)
        pickle.dump(version, file, 2)
        pickle.dump({"protocol_version": 1001, "little_endian": little_endian}, file, 2)
        file.write(data_pickle)
        pickle.dump(list(held), file, 2)
        for data in held.values():
            file.write(struct.pack("<Q", len(data) // element_bytes) + data)
    return path
