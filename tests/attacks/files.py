"""Attacks within one safetensors file: its length, its header, its offsets, its data."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from tests.attacks.registry import READING_COMMANDS, attack
from tests.writers import header_entry, write_raw

FILE = "bad.safetensors"

#: A tensor of 8 bytes that is all right, and its data.
GOOD = header_entry("F32", [2], 0, 8)
DATA = bytes(8)


def entry(**changes: object) -> dict[str, object]:
    """A good entry with some keys replaced; None removes one."""
    merged = GOOD | changes
    return {key: value for key, value in merged.items() if value is not None}


def single(folder: Path, changed: object, data: bytes = DATA, name: str = "w") -> Path:
    return write_raw(folder / FILE, json.dumps({name: changed}).encode(), data)


# The file as a whole.


@attack(FILE)
def empty_file(folder: Path) -> Path:
    """Has no header length to read."""
    path = folder / FILE
    path.touch()
    return path


@attack(FILE)
def seven_bytes(folder: Path) -> Path:
    """Ends within the header length."""
    path = folder / FILE
    path.write_bytes(b"\x02\0\0\0\0\0\0")
    return path


@attack(FILE)
def git_lfs_pointer(folder: Path) -> Path:
    """Is what a clone without Git LFS leaves in place of the weights."""
    path = folder / FILE
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n")
    return path


@attack(FILE)
def html_page(folder: Path) -> Path:
    """Is what a download behind a login leaves in place of the weights."""
    path = folder / FILE
    path.write_text("<!DOCTYPE html>\n<html><head><title>401</title></head></html>\n" * 20)
    return path


@attack("weights.bin")
def torch_zip(folder: Path) -> Path:
    """Is a zip archive with another format's name."""
    path = folder / "weights.bin"
    path.write_bytes(b"PK\x03\x04" + bytes(400))
    return path


@attack("notes.txt")
def text_file(folder: Path) -> Path:
    """Is no checkpoint at all."""
    path = folder / "notes.txt"
    path.write_text("nothing to see here\n")
    return path


# The header's length.


@attack(FILE)
def header_length_zero(folder: Path) -> Path:
    """Claims a header of no bytes, which is no JSON."""
    return write_raw(folder / FILE, b"", DATA)


@attack(FILE)
def header_longer_than_the_file(folder: Path) -> Path:
    """Claims one byte more than there is."""
    header = json.dumps({"w": GOOD}).encode()
    return write_raw(folder / FILE, header, length=len(header) + 1)


@attack(FILE)
def header_of_a_hundred_megabytes_claimed(folder: Path) -> Path:
    """Wants 100 MB to be allocated for a file of a few bytes."""
    return write_raw(folder / FILE, b"{}", length=100_000_000)


@attack(FILE)
def header_over_the_limit(folder: Path) -> Path:
    """Has a header of more than 100 MB, all of it there: a hole that would be read as JSON."""
    path = write_raw(folder / FILE, b'{"w":', length=100_000_001)
    with path.open("r+b") as file:
        file.truncate(200_000_000)
    return path


@attack(FILE)
def header_length_wraps(folder: Path) -> Path:
    """Claims 2**64 - 1 bytes: adding the 8 of the length itself overflows."""
    return write_raw(folder / FILE, b"{}", length=2**64 - 1)


@attack(FILE)
def header_length_wraps_to_the_file_size(folder: Path) -> Path:
    """Claims 2**64 - 8 bytes: with the 8 of the length itself that is 0."""
    return write_raw(folder / FILE, b"{}", length=2**64 - 8)


# The header as text and as JSON.


@attack(FILE)
def header_not_utf8(folder: Path) -> Path:
    """Has a byte in a tensor's name that no UTF-8 text has."""
    header = json.dumps({"w?": GOOD}).encode().replace(b"?", b"\xff")
    return write_raw(folder / FILE, header, DATA)


@attack(FILE)
def header_with_a_lone_surrogate(folder: Path) -> Path:
    """Spells half a character, which no UTF-8 encoder can write back."""
    header = json.dumps({"w?": GOOD}).replace("?", "\\ud800").encode()
    return write_raw(folder / FILE, header, DATA)


@attack(FILE)
def header_cut_off(folder: Path) -> Path:
    """Stops in the middle of the JSON."""
    return write_raw(folder / FILE, json.dumps({"w": GOOD}).encode()[:-3], DATA)


@attack(FILE)
def header_with_more_behind(folder: Path) -> Path:
    """Has a second JSON value behind the first."""
    return write_raw(folder / FILE, json.dumps({"w": GOOD}).encode() + b" {}", DATA)


@attack(FILE)
def header_an_array(folder: Path) -> Path:
    """Is JSON, but no object."""
    return write_raw(folder / FILE, b"[1, 2, 3]")


@attack(FILE)
def header_null(folder: Path) -> Path:
    """Is JSON, but nothing."""
    return write_raw(folder / FILE, b"null    ")


@attack(FILE)
def header_with_a_byte_order_mark(folder: Path) -> Path:
    """Begins with the mark that Windows editors add."""
    return write_raw(folder / FILE, b"\xef\xbb\xbf" + json.dumps({"w": GOOD}).encode(), DATA)


@attack(FILE)
def header_nested_deeply(folder: Path) -> Path:
    """Nests a million arrays to overflow the parser's stack."""
    return write_raw(folder / FILE, b'{"w":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}")


@attack(FILE)
def header_nested_objects(folder: Path) -> Path:
    """Nests a hundred thousand objects where the metadata should be."""
    return write_raw(
        folder / FILE, b'{"__metadata__":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001
    )


@attack(FILE)
def number_of_a_million_digits(folder: Path) -> Path:
    """Has a dimension that takes quadratic time in a parser of big integers."""
    header = b'{"w":{"dtype":"F32","shape":[' + b"9" * 1_000_000 + b'],"data_offsets":[0,8]}}'
    return write_raw(folder / FILE, header, DATA)


@attack(FILE)
def number_with_a_huge_exponent(folder: Path) -> Path:
    """Has a dimension of 1e999999999."""
    header = b'{"w":{"dtype":"F32","shape":[1e999999999],"data_offsets":[0,8]}}'
    return write_raw(folder / FILE, header, DATA)


@attack(FILE)
def number_that_is_none(folder: Path) -> Path:
    """Has NaN for a dimension, which Python's own parser reads."""
    header = b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'
    return write_raw(folder / FILE, header, DATA)


@attack(FILE, "twice")
def duplicate_name(folder: Path) -> Path:
    """Gives one name to two tensors: readers that keep the last would hide the first."""
    first = json.dumps({"twice": GOOD})
    second = json.dumps({"twice": header_entry("F32", [2], 8, 16)})
    return write_raw(folder / FILE, (first[:-1] + "," + second[1:]).encode(), DATA * 2)


@attack(FILE, "twice")
def duplicate_name_spelt_otherwise(folder: Path) -> Path:
    """Spells the second of two equal names with an escape."""
    first = json.dumps({"twice": GOOD})
    second = json.dumps({"twice": header_entry("F32", [2], 8, 16)}).replace("twice", "twic\\u0065")
    return write_raw(folder / FILE, (first[:-1] + "," + second[1:]).encode(), DATA * 2)


@attack(FILE)
def duplicate_key_in_an_entry(folder: Path) -> Path:
    """Gives one tensor two dtypes: readers disagree on which holds."""
    header = b'{"w":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}'
    return write_raw(folder / FILE, header, DATA)


@attack(FILE)
def metadata_not_text(folder: Path) -> Path:
    """Has a number where the format allows only strings."""
    header = json.dumps({"__metadata__": {"step": 1000}, "w": GOOD}).encode()
    return write_raw(folder / FILE, header, DATA)


@attack(FILE)
def metadata_an_array(folder: Path) -> Path:
    """Has a list where the format wants an object of strings."""
    header = json.dumps({"__metadata__": ["a"], "w": GOOD}).encode()
    return write_raw(folder / FILE, header, DATA)


# One tensor's entry.


@attack(FILE, "w")
def entry_an_array(folder: Path) -> Path:
    """Has a list where a tensor's description should be."""
    return single(folder, ["F32", [2], [0, 8]])


@attack(FILE, "w")
def entry_without_dtype(folder: Path) -> Path:
    """Does not say what the bytes are."""
    return single(folder, entry(dtype=None))


@attack(FILE, "w")
def entry_without_shape(folder: Path) -> Path:
    """Does not say how many there are."""
    return single(folder, entry(shape=None))


@attack(FILE, "w")
def entry_without_offsets(folder: Path) -> Path:
    """Does not say where they are."""
    return single(folder, entry(data_offsets=None))


@attack(FILE, "w")
def dtype_a_number(folder: Path) -> Path:
    """Has a number for a dtype."""
    return single(folder, entry(dtype=32))


@attack(FILE, "w")
def shape_a_number(folder: Path) -> Path:
    """Has a number for a shape."""
    return single(folder, entry(shape=2))


@attack(FILE, "w")
def shape_negative(folder: Path) -> Path:
    """Has two negative dimensions, whose product is as it should be."""
    return single(folder, entry(shape=[-1, -2]))


@attack(FILE, "w")
def shape_fractional(folder: Path) -> Path:
    """Has a dimension of 2.0."""
    return single(folder, entry(shape=[2.0]))


@attack(FILE, "w")
def shape_of_text(folder: Path) -> Path:
    """Has a dimension of "2"."""
    return single(folder, entry(shape=["2"]))


@attack(FILE, "w")
def shape_overflows(folder: Path) -> Path:
    """Has 2**63 x 2**63 elements: more than 64 bits count."""
    return single(folder, entry(shape=[2**63, 2**63]))


@attack(FILE, "w")
def shape_overflows_to_nothing(folder: Path) -> Path:
    """Has 2**32 x 2**32 elements, which is 0 in 64 bits, and so an empty tensor if unchecked."""
    return single(folder, entry(shape=[2**32, 2**32], data_offsets=[0, 0]), b"")


@attack(FILE, "w")
def shape_overflows_in_bits(folder: Path) -> Path:
    """Has 2**61 elements of 64 bits: the bits wrap to 0."""
    return single(folder, entry(dtype="F64", shape=[2**61], data_offsets=[0, 0]), b"")


@attack(FILE, "w")
def dimension_of_65_bits(folder: Path) -> Path:
    """Has a dimension that no 64 bits hold."""
    return single(folder, entry(shape=[2**64]))


@attack(FILE, "w")
def offsets_negative(folder: Path) -> Path:
    """Begins before the data."""
    return single(folder, entry(data_offsets=[-8, 0]))


@attack(FILE, "w")
def offsets_fractional(folder: Path) -> Path:
    """Has floats for offsets."""
    return single(folder, entry(data_offsets=[0.0, 8.0]))


@attack(FILE, "w")
def offsets_of_text(folder: Path) -> Path:
    """Has strings for offsets."""
    return single(folder, entry(data_offsets=["0", "8"]))


@attack(FILE, "w")
def offsets_three(folder: Path) -> Path:
    """Has one offset too many."""
    return single(folder, entry(data_offsets=[0, 4, 8]))


@attack(FILE, "w")
def offsets_one(folder: Path) -> Path:
    """Has one offset too few."""
    return single(folder, entry(data_offsets=[0]))


@attack(FILE, "w")
def offsets_reversed(folder: Path) -> Path:
    """Ends before it begins: the size wraps if unchecked."""
    return single(folder, entry(data_offsets=[8, 0]))


@attack(FILE, "w")
def offsets_out_of_range(folder: Path) -> Path:
    """Points far behind the end of the file."""
    return single(folder, entry(shape=[2**40], data_offsets=[0, 2**42]))


@attack(FILE, "w")
def offsets_at_the_end_of_the_address_space(folder: Path) -> Path:
    """Adding the header's length to these overflows."""
    return single(folder, entry(data_offsets=[2**64 - 9, 2**64 - 1]))


@attack(FILE, "w")
def size_does_not_fit_shape_and_dtype(folder: Path) -> Path:
    """Has 8 bytes for 3 elements of 4."""
    return single(folder, entry(shape=[3]))


@attack(FILE, "w")
def packed_elements_do_not_fill_a_byte(folder: Path) -> Path:
    """Has 3 elements of 4 bits: a byte and a half."""
    return single(folder, header_entry("F4", [3], 0, 2), bytes(2))


@attack(FILE, "w")
def packed_elements_of_six_bits_do_not_fill_bytes(folder: Path) -> Path:
    """Has 5 elements of 6 bits: 30 bits in 4 bytes."""
    return single(folder, header_entry("F6_E2M3", [5], 0, 4), bytes(4))


@attack(FILE, "w", "F128", commands=READING_COMMANDS)
def dtype_unknown(folder: Path) -> Path:
    """Has a dtype nobody knows; its header can be listed all the same."""
    return single(folder, entry(dtype="F128"))


@attack(FILE, "w", commands=READING_COMMANDS)
def dtype_empty(folder: Path) -> Path:
    """Has the empty string for a dtype."""
    return single(folder, entry(dtype=""))


@attack(FILE, "dtype", commands=READING_COMMANDS)
def dtype_with_a_line_break(folder: Path) -> Path:
    """Wants its own line in the message, and the terminal cleared."""
    return single(folder, entry(dtype="F32\nerror: all is well\x1b[2J"), name="dtype")


@attack(FILE, "\\n")
def name_with_a_line_break(folder: Path) -> Path:
    """Wants its own line in the message, and the terminal cleared."""
    return single(folder, entry(shape=[3]), name="w\nerror: all is well\x1b[2J")


@attack(FILE)
def name_of_a_megabyte(folder: Path) -> Path:
    """Wants a megabyte of message."""
    return single(folder, entry(shape=[3]), name="w" * 1_000_000)


# The layout of the data.


@attack(FILE)
def overlapping_tensors(folder: Path) -> Path:
    """Has two tensors that share four bytes."""
    header = {"v": header_entry("F32", [2], 0, 8), "w": header_entry("F32", [2], 4, 12)}
    return write_raw(folder / FILE, json.dumps(header).encode(), bytes(12))


@attack(FILE)
def identical_spans(folder: Path) -> Path:
    """Has two tensors of the same bytes."""
    header = {"v": GOOD, "w": GOOD}
    return write_raw(folder / FILE, json.dumps(header).encode(), DATA)


@attack(FILE)
def hole_between_tensors(folder: Path) -> Path:
    """Has four bytes that belong to no tensor."""
    header = {"v": header_entry("F32", [2], 0, 8), "w": header_entry("F32", [2], 12, 20)}
    return write_raw(folder / FILE, json.dumps(header).encode(), bytes(20))


@attack(FILE)
def hole_at_the_start(folder: Path) -> Path:
    """Has its first tensor begin at 4."""
    header = {"w": header_entry("F32", [2], 4, 12)}
    return write_raw(folder / FILE, json.dumps(header).encode(), bytes(12))


@attack(FILE)
def trailing_bytes(folder: Path) -> Path:
    """Has a byte behind the last tensor."""
    return single(folder, GOOD, DATA + b"\0")


@attack(FILE)
def data_without_tensors(folder: Path) -> Path:
    """Has data, and a header that knows of none."""
    return write_raw(folder / FILE, b"{}", DATA)


@attack(FILE)
def truncated_by_one_byte(folder: Path) -> Path:
    """Is a download that stopped just before the end."""
    return single(folder, GOOD, DATA[:-1])


@attack(FILE)
def truncated_to_the_header(folder: Path) -> Path:
    """Is a download that stopped after the header."""
    return single(folder, GOOD, b"")


@attack(FILE)
def second_file_behind_the_first(folder: Path) -> Path:
    """Is two files in one, as a careless ``cat`` makes them."""
    path = single(folder, GOOD)
    path.write_bytes(path.read_bytes() * 2)
    return path


@attack(FILE)
def length_big_endian(folder: Path) -> Path:
    """Has its length in the other byte order."""
    path = single(folder, GOOD)
    content = path.read_bytes()
    path.write_bytes(struct.pack(">Q", len(content) - 16) + content[8:])
    return path
