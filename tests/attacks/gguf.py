"""Attacks within a GGUF file: its counts, its metadata, its tensors, its parts."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from tests.attacks.registry import attack
from tests.gguf_writers import Info, array, text, uint32, write_raw_gguf

FILE = "bad.gguf"

ARCHITECTURE = text("general.architecture") + struct.pack("<I", 8) + text("llama")
DATA = struct.pack("<2f", 1, 2)


# The file as a whole.


@attack(FILE, "version")
def gguf_of_four_bytes(folder: Path) -> Path:
    """Ends behind the magic number."""
    path = folder / FILE
    path.write_bytes(b"GGUF")
    return path


@attack(FILE, "counts")
def gguf_ends_within_the_counts(folder: Path) -> Path:
    """Ends behind the version."""
    path = folder / FILE
    path.write_bytes(b"GGUF" + struct.pack("<IQ", 3, 1))
    return path


@attack(FILE, "version 1")
def gguf_version_1(folder: Path) -> Path:
    """Is of the first version, whose lengths have 32 bits."""
    return write_raw_gguf(folder / FILE, version=1)


@attack(FILE, "version 77")
def gguf_version_of_the_future(folder: Path) -> Path:
    """Is of a version that nobody has written yet."""
    return write_raw_gguf(folder / FILE, version=77)


@attack(FILE, "big-endian")
def gguf_big_endian(folder: Path) -> Path:
    """Is a file of a big-endian machine, whose counts would be astronomic."""
    return write_raw_gguf(folder / FILE, version=3 << 24)


@attack(FILE, "tensors and")
def gguf_tensor_count_wraps(folder: Path) -> Path:
    """Claims 2**64 - 1 tensors."""
    return write_raw_gguf(folder / FILE, tensor_count=2**64 - 1)


@attack(FILE, "pairs of metadata")
def gguf_pair_count_is_huge(folder: Path) -> Path:
    """Claims a billion pairs of metadata in a file of a hundred bytes."""
    return write_raw_gguf(folder / FILE, pair_count=10**9)


@attack(FILE)
def gguf_one_tensor_more_than_there_is(folder: Path) -> Path:
    """Claims two tensors; the second would be read from the data."""
    return write_raw_gguf(folder / FILE, tensor_count=2, data=bytes(64))


# Metadata.


@attack(FILE, "metadata key")
def gguf_key_longer_than_the_file(folder: Path) -> Path:
    """Has a key of 2**63 bytes."""
    return write_raw_gguf(folder / FILE, pairs=[struct.pack("<QI", 2**63, 4) + bytes(9)])


@attack(FILE, "'k'", "truncated")
def gguf_string_longer_than_the_file(folder: Path) -> Path:
    """Has a text of a million bytes in a file of a hundred."""
    pair = text("k") + struct.pack("<IQ", 8, 1_000_000)
    return write_raw_gguf(folder / FILE, pairs=[pair])


@attack(FILE, "'k'", "more than")
def gguf_string_over_the_limit(folder: Path) -> Path:
    """Has a text of two million bytes, all of them there."""
    pair = text("k") + struct.pack("<I", 8) + text("x" * 2_000_000)
    return write_raw_gguf(folder / FILE, pairs=[pair])


@attack(FILE, "'k'", "UTF-8")
def gguf_string_not_utf8(folder: Path) -> Path:
    """Has a text that is none."""
    return write_raw_gguf(folder / FILE, pairs=[text("k") + struct.pack("<I", 8) + text(b"\xff")])


@attack(FILE, "'k'", "type 13")
def gguf_value_of_an_unknown_type(folder: Path) -> Path:
    """Has a value whose length nobody knows."""
    return write_raw_gguf(folder / FILE, pairs=[text("k") + struct.pack("<II", 13, 0)])


@attack(FILE, "'k'", "type 13")
def gguf_array_of_an_unknown_type(folder: Path) -> Path:
    """Has an array of values whose length nobody knows."""
    return write_raw_gguf(folder / FILE, pairs=[array("k", 13, 1, bytes(8))])


@attack(FILE, "'k'", "strings")
def gguf_array_of_more_strings_than_bytes(folder: Path) -> Path:
    """Has an array of 2**61 strings: their lengths alone take 2**64 bytes."""
    return write_raw_gguf(folder / FILE, pairs=[array("k", 8, 2**61)])


@attack(FILE, "'k'")
def gguf_array_with_a_string_beyond_the_end(folder: Path) -> Path:
    """Has an array whose last string ends behind the file."""
    items = text("a") + struct.pack("<Q", 2**40)
    return write_raw_gguf(folder / FILE, pairs=[array("k", 8, 2, items)])


@attack(FILE, "'k'")
def gguf_array_with_a_string_that_wraps(folder: Path) -> Path:
    """Has a string of 2**64 - 8 bytes, which leads back to where it began."""
    items = struct.pack("<Q", 2**64 - 8)
    return write_raw_gguf(folder / FILE, pairs=[array("k", 8, 1, items)])


@attack(FILE, "'k'", "numbers")
def gguf_array_of_more_numbers_than_bytes(folder: Path) -> Path:
    """Has an array of 2**61 numbers of 8 bytes each."""
    return write_raw_gguf(folder / FILE, pairs=[array("k", 12, 2**61)])


@attack(FILE, "limit")
def gguf_header_over_the_limit(folder: Path) -> Path:
    """Has an array of 300 million bytes, all of them there: a hole that would be a header."""
    path = write_raw_gguf(folder / FILE, pairs=[array("k", 0, 300_000_000)])
    with path.open("r+b") as file:
        file.truncate(301_000_000)
    return path


@attack(FILE, "'k'", "nested")
def gguf_arrays_nested_deeply(folder: Path) -> Path:
    """Has arrays in arrays, ten thousand deep, to overflow a stack."""
    items = struct.pack("<IQ", 9, 1) * 10_000
    return write_raw_gguf(folder / FILE, pairs=[array("k", 9, 1, items)])


@attack(FILE, "'k'", "twice")
def gguf_key_twice(folder: Path) -> Path:
    """Has two values of one key, of which readers may take either."""
    return write_raw_gguf(folder / FILE, pairs=[uint32("k", 1), uint32("k", 2)])


@attack(FILE, "general.alignment")
def gguf_alignment_zero(folder: Path) -> Path:
    """Wants the data at the next multiple of 0."""
    return write_raw_gguf(folder / FILE, pairs=[uint32("general.alignment", 0)])


@attack(FILE, "general.alignment")
def gguf_alignment_no_power_of_two(folder: Path) -> Path:
    """Wants the data at the next multiple of 24."""
    return write_raw_gguf(folder / FILE, pairs=[uint32("general.alignment", 24)])


@attack(FILE, "general.alignment")
def gguf_alignment_is_a_text(folder: Path) -> Path:
    """Has a text for an alignment."""
    pair = text("general.alignment") + struct.pack("<I", 8) + text("32")
    return write_raw_gguf(folder / FILE, pairs=[pair])


@attack(FILE, "exceed")
def gguf_alignment_beyond_the_file(folder: Path) -> Path:
    """Wants the data at 2**31."""
    return write_raw_gguf(folder / FILE, pairs=[uint32("general.alignment", 2**31)])


# Tensors.


@attack(FILE, "w", "dimensions")
def gguf_tensor_of_a_billion_dimensions(folder: Path) -> Path:
    """Has a rank that would make a shape of 8 GB."""
    return write_raw_gguf(folder / FILE, [Info(rank=10**9)])


@attack(FILE, "w", "dimensions")
def gguf_tensor_of_five_dimensions(folder: Path) -> Path:
    """Has one dimension more than the format allows."""
    return write_raw_gguf(folder / FILE, [Info(dimensions=[1, 1, 1, 1, 2])])


@attack(FILE, "w", "64 bits")
def gguf_shape_overflows(folder: Path) -> Path:
    """Has 2**64 elements, which are none if they are counted in 64 bits."""
    return write_raw_gguf(folder / FILE, [Info(dimensions=[2**32, 2**32])])


@attack(FILE, "w", "truncated")
def gguf_offset_wraps(folder: Path) -> Path:
    """Begins so far behind that its end comes round to the front."""
    return write_raw_gguf(folder / FILE, [Info(offset=2**64 - 32)])


@attack(FILE, "w", "truncated")
def gguf_tensor_beyond_the_end(folder: Path) -> Path:
    """Has an element more than the file."""
    return write_raw_gguf(folder / FILE, [Info(dimensions=[3])])


@attack(FILE, "w", "truncated")
def gguf_quantised_tensor_beyond_the_end(folder: Path) -> Path:
    """Has blocks of which the last is cut short."""
    info = Info(dimensions=[256, 2], kind=12)
    return write_raw_gguf(folder / FILE, [info], data=bytes(287))


@attack(FILE, "w", "multiple of 32")
def gguf_offset_not_aligned(folder: Path) -> Path:
    """Begins where no tensor begins."""
    return write_raw_gguf(folder / FILE, [Info(offset=4)], data=bytes(64))


@attack(FILE, "a", "reach into", "b")
def gguf_tensors_overlap(folder: Path) -> Path:
    """Has two tensors that share bytes."""
    infos = [Info("a", [16], 0, 0), Info("b", [2], 0, 32)]
    return write_raw_gguf(folder / FILE, infos, data=bytes(64))


@attack(FILE, "a", "reach into", "b")
def gguf_tensors_in_one_place(folder: Path) -> Path:
    """Has two tensors in the place of one."""
    infos = [Info(name, [256], 0, 0) for name in ("a", "b")]
    return write_raw_gguf(folder / FILE, infos, data=bytes(1024))


@attack(FILE, "twice")
def gguf_tensor_twice(folder: Path) -> Path:
    """Has two tensors of one name."""
    infos = [Info("twice", [2], 0, 0), Info("twice", [2], 0, 32)]
    return write_raw_gguf(folder / FILE, infos, data=bytes(64))


@attack(FILE, "model.embed_tokens.weight")
def gguf_tensor_twice_by_its_other_name(folder: Path) -> Path:
    """Has a tensor that llama.cpp calls so, and another that Hugging Face does."""
    infos = [
        Info("token_embd.weight", [2], 0, 0),
        Info("model.embed_tokens.weight", [2], 0, 32),
    ]
    return write_raw_gguf(folder / FILE, infos, [ARCHITECTURE], data=bytes(64))


@attack(FILE, "w", "blocks")
def gguf_row_is_no_whole_blocks(folder: Path) -> Path:
    """Has rows of a block and a half, so that a block would span two rows."""
    info = Info(dimensions=[384, 2], kind=12)
    return write_raw_gguf(folder / FILE, [info], data=bytes(1000))


@attack(FILE, "tensor's name", "more than")
def gguf_name_of_a_hundred_thousand_bytes(folder: Path) -> Path:
    """Has a name that fills the screen."""
    return write_raw_gguf(folder / FILE, [Info("w" * 100_000)])


@attack(FILE, "UTF-8")
def gguf_name_not_utf8(folder: Path) -> Path:
    """Has a name that is no text."""
    return write_raw_gguf(folder / FILE, [Info(b"\xff\xfe")])


# Parts.


def _split(count: int, number: int, tensors: int = 1) -> list[bytes]:
    return [
        uint32("split.count", count),
        uint32("split.no", number),
        uint32("split.tensors.count", tensors),
    ]


@attack("model.gguf", "split into 2")
def gguf_part_without_a_number(folder: Path) -> Path:
    """Is part of a split model under a name that says nothing of the others."""
    return write_raw_gguf(folder / "model.gguf", pairs=_split(2, 0))


@attack("m-00001-of-00003.gguf", "split into 2")
def gguf_part_of_another_count(folder: Path) -> Path:
    """Is one of three by its name and one of two by its metadata."""
    return write_raw_gguf(folder / "m-00001-of-00003.gguf", pairs=_split(2, 0))


@attack("m-00002-of-99999.gguf")
def gguf_parts_by_the_thousand(folder: Path) -> Path:
    """Claims 99999 parts, of which there is one."""
    return write_raw_gguf(folder / "m-00001-of-99999.gguf", pairs=_split(99999, 0))


@attack("m-00002-of-00002.gguf", "split.no")
def gguf_part_that_is_the_same_again(folder: Path) -> Path:
    """Has the first part again where the second should be."""
    path = write_raw_gguf(folder / "m-00001-of-00002.gguf", pairs=_split(2, 0, 2))
    (folder / "m-00002-of-00002.gguf").write_bytes(path.read_bytes())
    return path


@attack("m-00002-of-00002.gguf", "begins with")
def gguf_part_that_is_something_else(folder: Path) -> Path:
    """Has a second part that is no GGUF file."""
    path = write_raw_gguf(folder / "m-00001-of-00002.gguf", pairs=_split(2, 0, 2))
    (folder / "m-00002-of-00002.gguf").write_bytes(b"nothing of the kind")
    return path


@attack("m-00001-of-00002.gguf", "announces 3")
def gguf_parts_of_fewer_tensors(folder: Path) -> Path:
    """Announces a tensor that no part has."""
    for number, name in enumerate("vw"):
        path = folder / f"m-0000{number + 1}-of-00002.gguf"
        write_raw_gguf(path, [Info(name)], _split(2, number, 3))
    return folder


@attack("w")
def gguf_tensor_in_two_parts(folder: Path) -> Path:
    """Has one tensor in both parts, with other values."""
    for number in range(2):
        path = folder / f"m-0000{number + 1}-of-00002.gguf"
        write_raw_gguf(path, pairs=_split(2, number, 2))
    return folder


@attack("m-00002-of-00002.gguf", "regular file")
def gguf_pipe_as_a_part(folder: Path) -> Path:
    """Has a named pipe where its second part should be: opening it would wait for ever."""
    os.mkfifo(folder / "m-00002-of-00002.gguf")
    return write_raw_gguf(folder / "m-00001-of-00002.gguf", pairs=_split(2, 0, 2))


@attack("a.gguf", "regular file")
def gguf_pipe_in_a_directory(folder: Path) -> Path:
    """Has a named pipe where its file should be."""
    os.mkfifo(folder / "a.gguf")
    return folder


@attack("split.count")
def gguf_split_count_is_a_text(folder: Path) -> Path:
    """Has a text for the number of parts."""
    pair = text("split.count") + struct.pack("<I", 8) + text("2")
    return write_raw_gguf(folder / FILE, pairs=[pair])


@attack("a.gguf", "b.gguf", "2 GGUF models")
def gguf_two_models_in_a_directory(folder: Path) -> Path:
    """Leaves open which of two models is meant."""
    write_raw_gguf(folder / "a.gguf")
    write_raw_gguf(folder / "b.gguf")
    return folder


@attack("a.gguf")
def gguf_directory_with_something_else(folder: Path) -> Path:
    """Has a file that is no GGUF file under a name of one."""
    (folder / "a.gguf").write_bytes(b"nothing of the kind")
    return folder


@attack("a.gguf")
def gguf_by_name_only(folder: Path) -> Path:
    """Is no GGUF file but by its name."""
    (folder / "a.gguf").write_bytes(b"nothing of the kind")
    return folder / "a.gguf"
