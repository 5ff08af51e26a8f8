"""Attacks by NumPy files and distributed checkpoints."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from pathlib import Path

from tests.attacks.registry import READING_COMMANDS, attack
from tests.attacks.torch_files import Payload


def array(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + data


def described(shape: str, descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


@attack("bad.npy", "tensor")
def npy_of_more_elements_than_bytes(folder: Path) -> Path:
    """Claims a terabyte, and has eight bytes."""
    path = folder / "bad.npy"
    path.write_bytes(array(described("(500000, 500000)"), bytes(8)))
    return path


@attack("bad.npy", "tensor")
def npy_of_a_negative_size(folder: Path) -> Path:
    """Has sizes whose product is right, and none of which is."""
    path = folder / "bad.npy"
    path.write_bytes(array(described("(-1, -2)"), bytes(8)))
    return path


@attack("bad.npy", "tensor")
def npy_with_a_header_of_gigabytes(folder: Path) -> Path:
    """Gives its header four gigabytes."""
    path = folder / "bad.npy"
    path.write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100))
    return path


@attack("bad.npy", "tensor")
def npy_header_that_is_code(folder: Path) -> Path:
    """Has a call where the shape should be."""
    path = folder / "bad.npy"
    path.write_bytes(array(described("__import__('os').system('true')")))
    return path


@attack("bad.npy", "tensor")
def npy_header_nested_without_end(folder: Path) -> Path:
    """Nests parentheses until a parser gives up."""
    path = folder / "bad.npy"
    path.write_bytes(array(described("(" * 5000)))
    return path


@attack("bad.npz", "w", commands=READING_COMMANDS)
def npz_that_inflates_to_less(folder: Path) -> Path:
    """Says in its directory that an array is larger than it is."""
    path = folder / "bad.npz"
    content = array(described("(2,)"), bytes(8))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", content[:-4])
    data = path.read_bytes()
    short, full = struct.pack("<I", len(content) - 4), struct.pack("<I", len(content))
    path.write_bytes(data.replace(short, full))
    return path


@attack("bad.npz", "'w'")
def npz_with_noise_where_a_stream_should_be(folder: Path) -> Path:
    """Has a deflated record whose bytes are no deflate stream."""
    path = folder / "bad.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", array(described("(1000,)"), bytes(4000)))
    data = bytearray(path.read_bytes())
    data[35:45] = b"\xff" * 10
    path.write_bytes(data)
    return path


@attack("bad.npz", '"w"', "CRC", commands=READING_COMMANDS)
def npz_of_another_crc(folder: Path) -> Path:
    """Has a record of the right length and of other values than its CRC was made of."""
    path = folder / "bad.npz"
    content = array(described("(2,)"), struct.pack("<2f", 1, 2))
    other = array(described("(2,)"), struct.pack("<2f", 1, 3))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", content)
    crcs = (struct.pack("<I", zlib.crc32(one)) for one in (content, other))
    path.write_bytes(path.read_bytes().replace(*crcs))
    return path


@attack("system")
def metadata_calls_the_system(folder: Path) -> Path:
    """Has os.system called where the metadata should be."""
    (folder / "a").mkdir()
    (folder / "a" / ".metadata").write_bytes(pickle.dumps(Payload(folder), 4))
    return folder / "a"


@attack("no Metadata")
def metadata_of_something_else(folder: Path) -> Path:
    """Is a pickle of a dictionary."""
    (folder / "a").mkdir()
    (folder / "a" / ".metadata").write_bytes(pickle.dumps({"w": [1, 2]}, 4))
    return folder / "a"
