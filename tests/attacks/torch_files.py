"""Attacks by torch files: pickles that want to run or to explode, zips that contradict themselves.

A payload touches the file ``pwned`` beside the attack; a test makes sure that none ever did.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

from tests.attacks.registry import attack
from tests.torch_files import (
    FOLDER,
    START,
    STOP,
    call,
    mapping,
    name_of,
    pickled,
    plain,
    storage,
    tensor,
    write_legacy,
    write_zip,
)

FILE = "bad.pt"
PWNED = "pwned"

GOOD = pickled(mapping(w=tensor()))
DATA = struct.pack("<2f", 1, 2)


def payload(folder: Path) -> str:
    return f"touch '{folder / PWNED}'"


class Payload:
    """Pickles as a call of os.system."""

    def __init__(self, folder: Path) -> None:
        self.command = payload(folder)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def single(folder: Path, opcodes: bytes) -> Path:
    return write_zip(folder / FILE, pickled(opcodes))


# Pickles that want to run something.


@attack(FILE, "system")
def pickle_calls_the_system(folder: Path) -> Path:
    """Has os.system called where a tensor should be."""
    return write_zip(folder / FILE, pickle.dumps({"w": Payload(folder)}, 2))


@attack(FILE, "system")
def pickle_calls_the_system_in_protocol_4(folder: Path) -> Path:
    """Names the function by STACK_GLOBAL, as newer picklers do."""
    return write_zip(folder / FILE, pickle.dumps({"w": Payload(folder)}, 4))


@attack(FILE, "system")
def payload_beside_a_tensor(folder: Path) -> Path:
    """Holds a good tensor, and a payload in a list of a list."""
    return single(folder, mapping(w=tensor(), z=plain([[Payload(folder)]])))


@attack(FILE, "builtins.eval")
def pickle_evaluates_text(folder: Path) -> Path:
    """Calls eval by the name that Python 2 gave its module."""
    code = plain(f"__import__('os').system({payload(folder)!r})")
    return single(folder, call(name_of("__builtin__", "eval"), code))


@attack(FILE, "builtins.getattr")
def pickle_walks_attributes(folder: Path) -> Path:
    """Reaches for a method of something allowed, to get at what is not."""
    return single(
        folder,
        call(name_of("builtins", "getattr"), name_of("torch", "Size"), plain("__subclasses__")),
    )


@attack(FILE, "torch.hub.load")
def pickle_calls_torch_itself(folder: Path) -> Path:
    """Calls a function of torch that would fetch and run code."""
    return single(folder, call(name_of("torch.hub", "load"), plain("a/b"), plain("c")))


@attack(FILE, "collections.namedtuple")
def pickle_calls_a_neighbour_of_what_is_allowed(folder: Path) -> Path:
    """Refers to another name of a module of which OrderedDict is allowed."""
    return single(folder, call(name_of("collections", "namedtuple"), plain("exec"), plain("x")))


@attack(FILE, "OrderedDict.__init__")
def global_with_dots(folder: Path) -> Path:
    """Refers to an attribute of something allowed by a dotted name."""
    return single(folder, name_of("collections", "OrderedDict.__init__") + b")R")


@attack(FILE)
def opcode_inst(folder: Path) -> Path:
    """Calls by INST, which has its global in the opcode."""
    return single(folder, b"(" + plain(payload(folder)) + b"ios\nsystem\n")


@attack(FILE)
def opcode_obj(folder: Path) -> Path:
    """Calls by OBJ, whose class is on the stack."""
    return single(folder, b"(" + name_of("collections", "OrderedDict") + b"o")


@attack(FILE)
def opcode_extension(folder: Path) -> Path:
    """Refers to a global by its number in a registry of the process."""
    return single(folder, b"\x82\x01)R")


@attack(FILE)
def opcode_buffer(folder: Path) -> Path:
    """Wants a buffer that lies outside of the pickle."""
    return single(folder, b"\x97")


@attack(FILE)
def call_of_a_text(folder: Path) -> Path:
    """Calls what is no function."""
    return single(folder, plain("os.system") + plain((payload(folder),)) + b"R")


@attack(FILE)
def new_object_of_a_dtype(folder: Path) -> Path:
    """Makes an instance of what is no class."""
    return single(folder, name_of("torch", "float32") + b")\x81")


@attack(FILE, "copyreg._reconstructor")
def object_without_a_constructor(folder: Path) -> Path:
    """Has a text made into an object."""
    opcodes = (plain("os.system"), name_of("builtins", "object"), plain(None))
    return single(folder, call(name_of("copy_reg", "_reconstructor"), *opcodes))


@attack(FILE, "torch._tensor._rebuild_from_type_v2")
def tensor_rebuilt_by_something_else(folder: Path) -> Path:
    """Has a tensor's subclass rebuilt by a function that copies what it is given."""
    opcodes = (
        name_of("collections", "OrderedDict"),
        name_of("torch", "Tensor"),
        plain(([["a", 1]],)),
        plain({}),
    )
    return single(folder, call(name_of("torch._tensor", "_rebuild_from_type_v2"), *opcodes))


@attack(FILE)
def state_for_a_text(folder: Path) -> Path:
    """Gives attributes to a text."""
    return single(folder, plain("x") + plain({"__class__": "y"}) + b"b")


@attack(FILE, "system")
def legacy_payload_for_a_magic_number(folder: Path) -> Path:
    """Runs before anybody knows that it is no torch file."""
    return write_legacy(folder / FILE, GOOD, magic=pickle.dumps(Payload(folder), 2))


@attack(FILE, "system")
def legacy_payload(folder: Path) -> Path:
    """Has the payload in the value of a legacy file."""
    return write_legacy(folder / FILE, pickle.dumps({"w": Payload(folder)}, 2))


# Pickles that want to explode.


@attack(FILE)
def lists_nested_deeply(folder: Path) -> Path:
    """Nests a million lists."""
    return single(folder, b"]" * 1_000_000 + b"a" * 999_999)


@attack(FILE)
def tuples_nested_deeply(folder: Path) -> Path:
    """Nests a million tuples."""
    return single(folder, b")" + b"\x85" * 1_000_000)


@attack(FILE)
def list_of_itself(folder: Path) -> Path:
    """Holds a list that holds itself."""
    return single(folder, b"]q\x64(" + tensor() + b"h\x64e")


@attack(FILE)
def a_billion_laughs(folder: Path) -> Path:
    """Holds a tensor 10**30 times, in thirty lists."""
    lists = b"".join(
        b"]("
        + b"h"
        + bytes([100 + level])
        + (b"h" + bytes([100 + level])) * 9
        + b"eq"
        + bytes([101 + level])
        for level in range(30)
    )
    return single(folder, tensor() + b"q\x64" + lists)


@attack(FILE)
def a_long_name_a_thousand_times(folder: Path) -> Path:
    """Has a key of half a megabyte over ten thousand tensors: five gigabytes of names."""
    items = b"".join(plain(number) + b"h\x64" for number in range(10_000))
    inner = b"}(" + items + b"u"
    return single(folder, tensor() + b"q\x640}" + plain("n" * 500_000) + inner + b"s")


@attack(FILE)
def a_text_copied_a_thousand_times(folder: Path) -> Path:
    """Makes a list of half a million numbers into an OrderedDict, again and again."""
    pairs = b"](" + b"h\x01" * 100_000 + b"e"
    again = b"h\x02h\x03\x85R0" * 50_000
    opcodes = (
        plain(["a", 1]) + b"q\x010" + name_of("collections", "OrderedDict") + b"q\x020",
        pairs + b"q\x030",
        again + b"]",
    )
    return single(folder, b"".join(opcodes))


@attack(FILE)
def shape_copied_a_thousand_times(folder: Path) -> Path:
    """Makes a torch.Size of a list of a hundred thousand, again and again."""
    opcodes = (
        name_of("torch", "Size") + b"q\x020](" + b"K\x01" * 100_000 + b"eq\x030",
        b"h\x02h\x03\x85R0" * 100_000 + b"]",
    )
    return single(folder, b"".join(opcodes))


@attack(FILE)
def memo_numbered_in_two_ways(folder: Path) -> Path:
    """Counts memo entries and numbers them, on which readers disagree."""
    return write_zip(folder / FILE, START + b"]q\x05\x94h\x05." + STOP)


@attack(FILE)
def memo_entry_that_is_none(folder: Path) -> Path:
    """Reads what was never kept."""
    return single(folder, b"j\xff\xff\xff\xff")


@attack(FILE)
def integer_of_two_gigabytes(folder: Path) -> Path:
    """Claims an integer longer than the pickle."""
    return single(folder, b"\x8b\xff\xff\xff\x7f")


@attack(FILE)
def integer_of_a_hundred_thousand_bytes(folder: Path) -> Path:
    """Has an integer that takes quadratic time to be printed."""
    return single(folder, mapping(n=b"\x8b" + struct.pack("<I", 100_000) + b"\x7f" * 100_000))


@attack(FILE)
def text_of_the_address_space(folder: Path) -> Path:
    """Claims a text of 2**63 bytes."""
    return single(folder, b"\x8d" + struct.pack("<Q", 2**63) + b"x")


@attack(FILE)
def bytes_of_the_address_space(folder: Path) -> Path:
    """Claims 2**64 - 1 bytes, which wrap if anything is added."""
    return single(folder, b"\x8e" + struct.pack("<Q", 2**64 - 1) + b"x")


@attack(FILE)
def pickle_without_an_end(folder: Path) -> Path:
    """Has no STOP."""
    return write_zip(folder / FILE, GOOD[:-1])


@attack(FILE)
def pickle_of_an_empty_stack(folder: Path) -> Path:
    """Takes from the stack what is not there."""
    return write_zip(folder / FILE, START + b"0000" + STOP)


@attack(FILE)
def tuple_without_a_mark(folder: Path) -> Path:
    """Makes a tuple of all since a mark that was never set."""
    return write_zip(folder / FILE, START + b"K\x01t" + STOP)


@attack(FILE)
def items_for_a_number(folder: Path) -> Path:
    """Appends to a number."""
    return single(folder, b"K\x01K\x02a")


@attack(FILE)
def key_without_a_value(folder: Path) -> Path:
    """Sets an odd number of items."""
    return single(folder, b"}(K\x01u")


@attack(FILE)
def protocol_of_the_future(folder: Path) -> Path:
    """Is a pickle of protocol 200."""
    return write_zip(folder / FILE, b"\x80\xc8}.")


@attack(FILE)
def text_that_is_none(folder: Path) -> Path:
    """Has bytes in a text that no UTF-8 has."""
    return single(folder, b"X\x02\0\0\0\xff\xfe")


# Tensors that are not where they say.


@attack(FILE, "w")
def tensor_beyond_its_storage(folder: Path) -> Path:
    """Has 3 elements in a storage of 2."""
    return single(folder, mapping(w=tensor((3,))))


@attack(FILE, "w")
def tensor_behind_its_storage(folder: Path) -> Path:
    """Begins where the storage ends."""
    return single(folder, mapping(w=tensor((1,), (1,), 2)))


@attack(FILE, "w")
def strides_beyond_the_storage(folder: Path) -> Path:
    """Has 2 elements 2**40 apart."""
    return single(folder, mapping(w=tensor((2,), (2**40,))))


@attack(FILE, "w")
def stride_negative(folder: Path) -> Path:
    """Walks backwards out of its storage."""
    return single(folder, mapping(w=tensor((2,), (-1,))))


@attack(FILE, "w")
def offset_negative(folder: Path) -> Path:
    """Begins before its storage."""
    return single(folder, mapping(w=tensor((1,), (1,), -1)))


@attack(FILE, "w")
def offset_of_text(folder: Path) -> Path:
    """Has a text for an offset."""
    return single(folder, mapping(w=tensor((1,), (1,), "0")))


@attack(FILE, "w")
def shape_of_floats(folder: Path) -> Path:
    """Has a dimension of 2.0."""
    return single(folder, mapping(w=tensor((2.0,))))


@attack(FILE, "w")
def shape_of_booleans(folder: Path) -> Path:
    """Has a dimension of True, which is an int in Python."""
    return single(folder, mapping(w=tensor((True,))))


@attack(FILE, "w")
def shape_a_list(folder: Path) -> Path:
    """Has a list for a shape, which could change."""
    return single(folder, mapping(w=tensor([2])))


@attack(FILE, "w")
def shape_of_negative_sizes(folder: Path) -> Path:
    """Has two negative dimensions, whose product is as it should be."""
    return single(folder, mapping(w=tensor((-1, -2), (1, 1))))


@attack(FILE, "w")
def shape_of_more_than_64_bits(folder: Path) -> Path:
    """Has 2**80 elements, all of them one: a stride of 0."""
    return single(folder, mapping(w=tensor((2**40, 2**40), (0, 0))))


@attack(FILE, "w")
def shape_of_a_thousand_dimensions(folder: Path) -> Path:
    """Has a thousand dimensions of 1."""
    return single(folder, mapping(w=tensor((1,) * 1000, (1,) * 1000)))


@attack(FILE, "w")
def one_element_a_trillion_times(folder: Path) -> Path:
    """Expands one element to four terabytes, which would take an hour to read."""
    return single(folder, mapping(w=tensor((2**40,), (0,))))


@attack(FILE, "w")
def strides_of_another_rank(folder: Path) -> Path:
    """Has two strides for one dimension."""
    return single(folder, mapping(w=tensor((2,), (1, 1))))


@attack(FILE, "w")
def tensor_without_a_storage(folder: Path) -> Path:
    """Has a number for a storage."""
    return single(folder, mapping(w=tensor(held=plain(0))))


@attack(FILE, "w")
def tensor_without_a_dtype(folder: Path) -> Path:
    """Is a view of an untyped storage that does not say of what."""
    return single(folder, mapping(w=tensor(held=storage(kind="UntypedStorage", elements=8))))


@attack(FILE, "w")
def tensor_twice(folder: Path) -> Path:
    """Has the same dotted name once nested and once with a dot in it."""
    items = plain("a.w") + tensor() + plain("a") + b"}" + plain("w") + tensor() + b"s"
    return single(folder, b"}(" + items + b"u")


@attack(FILE, "half a character")
def name_of_half_a_character(folder: Path) -> Path:
    """Has a lone surrogate in a tensor's name."""
    name = b"X\x03\0\0\0\xed\xa0\x80"
    return single(folder, b"}(" + name + tensor() + b"u")


@attack(FILE)
def storage_without_a_record(folder: Path) -> Path:
    """Refers to a storage that the zip has not."""
    return write_zip(folder / FILE, GOOD, {})


@attack(FILE)
def storage_of_another_file(folder: Path) -> Path:
    """Names a storage by a path out of the archive."""
    (folder / "secret").write_bytes(DATA)
    return single(folder, mapping(w=tensor(held=storage("../../secret"))))


@attack(FILE)
def storage_larger_than_its_record(folder: Path) -> Path:
    """Claims a terabyte of a record of 8 bytes."""
    return single(folder, mapping(w=tensor((2**38,), held=storage(elements=2**38))))


@attack(FILE)
def storage_of_negative_size(folder: Path) -> Path:
    """Has -1 elements."""
    return single(folder, mapping(w=tensor(held=storage(elements=-1))))


@attack(FILE)
def storage_key_a_list(folder: Path) -> Path:
    """Has a key that cannot be one."""
    return single(folder, mapping(w=tensor(held=storage(key=["0"]))))


@attack(FILE)
def persistent_id_a_text(folder: Path) -> Path:
    """Has a text where a tuple should be."""
    return single(folder, plain("storage") + b"Q")


@attack(FILE)
def persistent_id_of_a_module(folder: Path) -> Path:
    """Wants the source code of a class to be compared, as old versions did."""
    module = b"(" + plain("module") + name_of("torch", "Tensor") + plain("a.py") + plain("x") * 2
    return single(folder, module + b"tQ")


# Zip archives.


@attack(FILE)
def zip_cut_off(folder: Path) -> Path:
    """Is a download that stopped in the middle: no directory at the end."""
    path = write_zip(folder / FILE, GOOD)
    path.write_bytes(path.read_bytes()[:-30])
    return path


@attack(FILE)
def zip_without_a_pickle(folder: Path) -> Path:
    """Is a zip archive of something else."""
    path = folder / FILE
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return path


@attack(FILE)
def zip_of_two_pickles(folder: Path) -> Path:
    """Has two folders with a data.pkl: which is it?"""
    return write_zip(folder / FILE, GOOD, more={"other/data.pkl": GOOD})


@attack(FILE, "data/0")
def storage_compressed(folder: Path) -> Path:
    """Has its tensors deflated, where their bytes are needed in place."""
    return write_zip(folder / FILE, GOOD, {"0": bytes(1000)}, compression=zipfile.ZIP_DEFLATED)


@attack(FILE, "data.pkl")
def pickle_bomb(folder: Path) -> Path:
    """Has a pickle of 100 MB in a record of 100 KB."""
    path = folder / FILE
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{FOLDER}/data.pkl", START + b"]" * 100_000_000 + STOP)
    return path


@attack(FILE)
def written_on_a_big_endian_machine(folder: Path) -> Path:
    """Has its numbers the other way round."""
    return write_zip(folder / FILE, GOOD, more={f"{FOLDER}/byteorder": b"big"})


def changed(folder: Path, old: bytes, new: bytes, count: int = -1) -> Path:
    """A valid file in which some bytes are others."""
    path = write_zip(folder / FILE, GOOD)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, count))
    return path


def patched(folder: Path, record: int, offset: int, value: bytes) -> Path:
    """A valid file with other bytes in the directory entry of a record."""
    path = write_zip(folder / FILE, GOOD)
    content = bytearray(path.read_bytes())
    at = -1
    for _ in range(record + 1):
        at = content.index(b"PK\x01\x02", at + 1)
    content[at + offset : at + offset + len(value)] = value
    path.write_bytes(content)
    return path


# Directory entries: 0 is data.pkl, 1 byteorder, 2 data/0. Fields: 8 flags, 10 method, 20 stored
# size, 24 size, 34 disk, 42 offset of the local header.


@attack(FILE, "data/0")
def record_encrypted(folder: Path) -> Path:
    """Says that its tensor is encrypted, here and there."""
    path = patched(folder, 2, 8, b"\x01\0")
    content = bytearray(path.read_bytes())
    local = content.index(f"{FOLDER}/data/0".encode()) - 30
    content[local + 6] = 1
    path.write_bytes(content)
    return path


@attack(FILE, "data/0")
def record_encrypted_in_its_local_header(folder: Path) -> Path:
    """Says so only before the data."""
    path = write_zip(folder / FILE, GOOD)
    content = bytearray(path.read_bytes())
    content[content.index(f"{FOLDER}/data/0".encode()) - 30 + 6] = 1
    path.write_bytes(content)
    return path


@attack(FILE, "data/0")
def record_of_an_unknown_method(folder: Path) -> Path:
    """Is compressed by a method nobody has, in the directory only."""
    return patched(folder, 2, 10, struct.pack("<H", 99))


@attack(FILE, "data/0")
def record_out_of_the_file(folder: Path) -> Path:
    """Has its local header behind the end."""
    return patched(folder, 2, 42, struct.pack("<I", 2**31))


@attack(FILE)
def record_within_another(folder: Path) -> Path:
    """Has its local header inside the pickle: two records share bytes."""
    return patched(folder, 2, 42, struct.pack("<I", 40))


@attack(FILE)
def record_on_another_record(folder: Path) -> Path:
    """Has its local header where another record has its own."""
    return patched(folder, 2, 42, struct.pack("<I", 0))


@attack(FILE)
def record_larger_than_the_file(folder: Path) -> Path:
    """Is stored in a gigabyte."""
    return patched(folder, 2, 20, struct.pack("<2I", 2**30, 2**30))


@attack(FILE, "data/0")
def record_of_two_sizes(folder: Path) -> Path:
    """Is stored, but larger than what is stored."""
    return patched(folder, 2, 24, struct.pack("<I", 2**30))


@attack(FILE, "data/0")
def record_without_its_zip64_sizes(folder: Path) -> Path:
    """Says that its sizes are elsewhere, where they are not."""
    return patched(folder, 2, 20, b"\xff" * 8)


@attack(FILE)
def record_on_another_disk(folder: Path) -> Path:
    """Is on the second of several floppy disks."""
    return patched(folder, 2, 34, b"\x01\0")


@attack(FILE)
def local_header_with_another_name(folder: Path) -> Path:
    """Calls a record otherwise before its data than in the directory."""
    return changed(folder, f"{FOLDER}/data/0".encode(), f"{FOLDER}/data/1".encode(), 1)


@attack(FILE)
def local_header_with_a_long_extra_field(folder: Path) -> Path:
    """Has an extra field before the data, so that the data reaches into what follows."""
    path = write_zip(folder / FILE, GOOD)
    content = bytearray(path.read_bytes())
    name = content.index(f"{FOLDER}/data/0".encode())
    content[name - 2] = 8
    path.write_bytes(content)
    return path


@attack(FILE)
def record_quoted_in_another(folder: Path) -> Path:
    """Has a whole second record inside the data of a first: two storages share bytes."""
    name = f"{FOLDER}/data/1".encode()
    quoted = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 8, 8, len(name), 0)
    quoted += name + DATA
    path = write_zip(folder / FILE, GOOD, {"0": DATA + quoted, "1": DATA})
    content = path.read_bytes()
    at = content.rindex(b"PK\x01\x02", 0, content.rindex(name))
    inside = struct.pack("<I", content.index(quoted))
    path.write_bytes(content[: at + 42] + inside + content[at + 46 :])
    return path


@attack(FILE)
def two_records_of_one_name(folder: Path) -> Path:
    """Has two records of one name, of which some readers see the first and others the second."""
    path = write_zip(folder / FILE, GOOD, {"0": DATA, "1": DATA})
    path.write_bytes(
        path.read_bytes().replace(f"{FOLDER}/data/1".encode(), f"{FOLDER}/data/0".encode())
    )
    return path


def patched_end(folder: Path, offset: int, value: bytes) -> Path:
    path = write_zip(folder / FILE, GOOD)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x05\x06")
    content[at + offset : at + offset + len(value)] = value
    path.write_bytes(content)
    return path


@attack(FILE)
def directory_of_too_many_records(folder: Path) -> Path:
    """Counts 65534 records in a directory of three."""
    return patched_end(folder, 8, b"\xfe\xff" * 2)


@attack(FILE)
def directory_of_too_few_records(folder: Path) -> Path:
    """Counts two records in a directory of three: the last is hidden."""
    return patched_end(folder, 8, b"\x02\0" * 2)


@attack(FILE)
def directory_elsewhere(folder: Path) -> Path:
    """Has a directory that does not end where the end record begins."""
    return patched_end(folder, 16, struct.pack("<I", 0))


@attack(FILE)
def directory_of_four_gigabytes(folder: Path) -> Path:
    """Claims a directory of 4 GB."""
    return patched_end(folder, 12, b"\xfe\xff\xff\xff")


@attack(FILE)
def archive_of_several_disks(folder: Path) -> Path:
    """Is the third of three volumes."""
    return patched_end(folder, 4, b"\x02\0")


@attack(FILE)
def zip64_end_elsewhere(folder: Path) -> Path:
    """Has a locator of a zip64 end record that points out of the file."""
    path = write_zip(folder / FILE, GOOD)
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, 2**63, 1)
    path.write_bytes(content[:end] + locator + content[end:])
    return path


# Legacy files.


@attack(FILE)
def legacy_of_another_magic(folder: Path) -> Path:
    """Is a row of pickles of something else."""
    return write_legacy(folder / FILE, GOOD, magic=pickle.dumps(42, 2))


@attack(FILE)
def legacy_of_another_version(folder: Path) -> Path:
    """Is of a protocol version that never was."""
    return write_legacy(folder / FILE, GOOD, version=1002)


@attack(FILE)
def legacy_written_on_a_big_endian_machine(folder: Path) -> Path:
    """Has its numbers the other way round."""
    return write_legacy(folder / FILE, GOOD, little_endian=False)


@attack(FILE)
def legacy_without_its_storage(folder: Path) -> Path:
    """Lists no storages, though its tensor has one."""
    return write_legacy(folder / FILE, GOOD, {})


@attack(FILE)
def legacy_with_a_foreign_storage(folder: Path) -> Path:
    """Lists a storage that no tensor has, so that its dtype is unknown."""
    return write_legacy(folder / FILE, GOOD, {"0": DATA, "1": DATA})


@attack(FILE)
def legacy_cut_off_in_a_storage(folder: Path) -> Path:
    """Is a download that stopped just before the end."""
    path = write_legacy(folder / FILE, GOOD)
    path.write_bytes(path.read_bytes()[:-1])
    return path


@attack(FILE)
def legacy_cut_off_in_a_pickle(folder: Path) -> Path:
    """Is a download that stopped early."""
    path = write_legacy(folder / FILE, GOOD)
    path.write_bytes(path.read_bytes()[:90])
    return path


@attack(FILE)
def legacy_storage_of_the_address_space(folder: Path) -> Path:
    """Has 2**64 - 1 elements in a storage: the bytes wrap."""
    path = write_legacy(folder / FILE, GOOD)
    content = path.read_bytes()
    path.write_bytes(content[:-16] + b"\xff" * 8 + content[-8:])
    return path


# Indexes and folders.


def write_index(folder: Path, document: object) -> Path:
    path = folder / "pytorch_model.bin.index.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


INDEX = "pytorch_model.bin.index.json"


@attack(INDEX, "secret")
def torch_shard_in_the_parent(folder: Path) -> Path:
    """Names a shard that lies outside of the checkpoint."""
    write_zip(folder.parent / "secret.bin", GOOD)
    return write_index(folder, {"weight_map": {"w": "../secret.bin"}})


@attack(INDEX, "gone.bin")
def torch_shard_missing(folder: Path) -> Path:
    """Names a shard that is not there."""
    return write_index(folder, {"weight_map": {"w": "gone.bin"}})


@attack(INDEX, "'v'")
def torch_shard_without_the_tensor(folder: Path) -> Path:
    """Names a tensor that its shard has not."""
    write_zip(folder / "a.bin", GOOD)
    return write_index(folder, {"weight_map": {"w": "a.bin", "v": "a.bin"}})


@attack(INDEX)
def torch_index_with_a_name_twice(folder: Path) -> Path:
    """Says of one tensor that it is in two shards."""
    write_zip(folder / "a.bin", GOOD)
    write_zip(folder / "b.bin", GOOD)
    return write_index(folder, '{"weight_map": {"w": "a.bin", "w": "b.bin"}}')


@attack(INDEX)
def torch_index_without_a_map(folder: Path) -> Path:
    """Has no weight_map."""
    return write_index(folder, {"metadata": {}})


@attack(INDEX)
def torch_index_of_numbers(folder: Path) -> Path:
    """Has a number for a shard."""
    return write_index(folder, {"weight_map": {"w": 1}})


@attack(INDEX)
def torch_index_nested_deeply(folder: Path) -> Path:
    """Nests a hundred thousand arrays where the map should be."""
    return write_index(folder, '{"weight_map":' + "[" * 100_000 + "]" * 100_000 + "}")


@attack("a.pt", "b.pt")
def folder_of_two_torch_files(folder: Path) -> Path:
    """Leaves open which of two files is meant."""
    write_zip(folder / "a.pt", GOOD)
    write_zip(folder / "b.pt", GOOD)
    return folder


@attack("system")
def folder_with_a_payload(folder: Path) -> Path:
    """Is a model whose only file runs something."""
    write_zip(folder / "pytorch_model.bin", pickle.dumps(Payload(folder), 2))
    return folder
