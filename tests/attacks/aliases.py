"""Attacks by what is used over and over: a product of two counts that a megabyte holds.

A pickle refers to a value that it has made in two bytes, however large that is. Each attack is a
checkpoint of about a megabyte, and what is to be asked of it; the answer may be a listing or an
error, but takes less than 200 MB and 10 s.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.torch_files import (
    call,
    mapping,
    name_of,
    pickled,
    plain,
    storage,
    tensor,
    write_zip,
)

FILE = "bad.pt"

Maker = Callable[[Path], tuple[Path | str, ...]]

#: name -> maker of the arguments of ``ckptdiff ls``: the path, and options.
ALIASES: dict[str, Maker] = {}


def aliases(make: Maker) -> Maker:
    ALIASES[make.__name__] = make
    return make


# What plain() keeps has small numbers.
_FIRST = 100_000


def keep(number: int) -> bytes:
    """Keep the top of the stack, and take it off."""
    return b"r" + struct.pack("<I", _FIRST + number) + b"0"


def kept(number: int) -> bytes:
    return b"j" + struct.pack("<I", _FIRST + number)


def items(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A dictionary of (opcodes, opcodes)."""
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def numbered(count: int, value: bytes) -> bytes:
    """A dictionary of ``count`` small numbers to one value."""
    return items((plain(number), value) for number in range(count))


def listed(count: int, value: bytes) -> bytes:
    return b"](" + value * count + b"e"


def many(count: int, value: bytes) -> bytes:
    """A list of one value, which is kept first."""
    return value + keep(999_999) + listed(count, kept(999_999))


def single(folder: Path, opcodes: bytes) -> Path:
    return write_zip(folder / FILE, pickled(opcodes), {"0": bytes(1 << 16)})


def optimizer(groups: bytes, state: bytes) -> bytes:
    return mapping(state=state, param_groups=groups)


# torch files.


@aliases
def models_times_optimizers(folder: Path) -> tuple[Path | str, ...]:
    """Has four thousand models of two thousand parameters, and as many optimizers that fit none."""
    model = items((plain(f"{number}"), kept(1)) for number in range(2000))
    group = mapping(params=plain(list(range(2000))))
    state = items([(plain(1999), mapping(exp_avg=tensor((1,), (1,))))])
    opcodes = (
        tensor() + keep(1) + model + keep(2),
        optimizer(b"](" + group + b"e", state) + keep(3),
        b"](" + kept(2) * 400 + kept(3) * 60_000 + b"e",
    )
    return single(folder, b"".join(opcodes)), "--optimizer"


@aliases
def optimizers_of_many_parameters(folder: Path) -> tuple[Path | str, ...]:
    """Has one optimizer of a hundred thousand parameters sixty thousand times."""
    group = mapping(params=plain(list(range(100_000))))
    one = optimizer(b"](" + group + b"e", b"}")
    return single(folder, many(60_000, one)), "--optimizer"


@aliases
def optimizers_with_names(folder: Path) -> tuple[Path | str, ...]:
    """Has one group of named parameters in thousands of groups, in thousands of optimizers."""
    group = mapping(params=plain([0] * 60_000), param_names=plain(["w"] * 60_000))
    one = group + keep(1) + optimizer(listed(10_000, kept(1)), b"}")
    return single(folder, many(20_000, one)), "--optimizer"


@aliases
def one_state_of_every_parameter(folder: Path) -> tuple[Path | str, ...]:
    """Has a state of a hundred thousand tensors that is that of every parameter."""
    held = tensor() + keep(1) + numbered(60_000, kept(1)) + keep(2)
    state = numbered(60_000, kept(2))
    group = mapping(params=plain(list(range(60_000))))
    return single(folder, held + optimizer(b"](" + group + b"e", state)), "--optimizer"


@aliases
def groups_that_can_be_merged(folder: Path) -> tuple[Path | str, ...]:
    """Has eight groups whose parameters all have one shape, and as many optimizers as fit."""
    groups = b"".join(
        mapping(params=plain(list(range(at * 1000, at * 1000 + 1000)))) for at in range(8)
    )
    model = items((plain(f"{number}"), kept(1)) for number in range(8000))
    opcodes = (
        tensor() + keep(1),
        model + keep(2),
        optimizer(b"](" + groups + b"e", b"}") + keep(3),
        b"](" + kept(2) * 50 + kept(3) * 50_000 + b"e",
    )
    return single(folder, b"".join(opcodes)), "--optimizer"


@aliases
def keys_of_one_text(folder: Path) -> tuple[Path | str, ...]:
    """Has 900 keys of one text, each with the same hundred and fifty thousand entries."""
    held = items((plain(number), b"N") for number in range(150_000)) + keep(1)
    keys = b"}(" + (plain(("a",)) + kept(1)) * 900 + b"u"
    return single(folder, held + keys), "--key", "a.b"


@aliases
def one_dictionary_of_tensors(folder: Path) -> tuple[Path | str, ...]:
    """Has a thousand tensors a thousand times over, under short names."""
    held = tensor() + keep(1) + numbered(1000, kept(1)) + keep(2)
    return (single(folder, held + listed(100_000, kept(2))),)


@aliases
def one_tensor_in_a_list(folder: Path) -> tuple[Path | str, ...]:
    """Has one tensor in a list, by two bytes each."""
    return (single(folder, tensor() + b"q\x640" + listed(500_000, b"h\x64")),)


@aliases
def one_tensor_as_often_as_allowed(folder: Path) -> tuple[Path | str, ...]:
    """Has one tensor in a list as often as a pickle of this length may have it."""
    padding = plain("x" * 700_000) + b"0"
    return (single(folder, padding + tensor() + b"q\x640" + listed(150_000, b"h\x64")),)


@aliases
def one_tensor_of_many_dimensions(folder: Path) -> tuple[Path | str, ...]:
    """Has one tensor of 64 dimensions in a list, by two bytes each."""
    one = tensor((1,) * 64, (1,) * 64)
    return (single(folder, one + b"q\x640" + listed(500_000, b"h\x64")),)


@aliases
def views_that_are_nearly_twins(folder: Path) -> tuple[Path | str, ...]:
    """Has 64 views that differ in the last of 64 strides, and another one again and again."""
    views = b"".join(
        b"X\x04\0\0\0" + b"%04d" % at + tensor((1,) * 64, (1,) * 63 + (at,)) for at in range(80)
    )
    last = tensor((1,) * 64, (1,) * 63 + (81,)) + b"q\x640"
    return (single(folder, last + b"](}(" + views + b"u" + b"h\x64" * 450_000 + b"e"),)


@aliases
def views_whose_hashes_collide(folder: Path) -> tuple[Path | str, ...]:
    """Has views whose offsets have one hash, in a model that an optimizer may be of."""
    start = (
        name_of("torch._utils", "_rebuild_tensor_v2") + keep(1) + storage() + keep(2),
        plain((2,)) + keep(3) + plain((1,)) + keep(4),
    )
    model = items(
        (
            plain(f"{number}"),
            call(kept(1), kept(2), plain((2**61 - 1) * number), kept(3), kept(4), b"\x89", b"}"),
        )
        for number in range(1, 20_000)
    )
    group = mapping(params=plain(list(range(3))))
    return single(
        folder, b"".join(start) + b"](" + optimizer(b"](" + group + b"e", b"}") + model + b"e"
    ), "--optimizer"


@aliases
def metadata_of_long_lists(folder: Path) -> tuple[Path | str, ...]:
    """Has one list of sixteen long texts under ten thousand names."""
    texts = plain(["\U0001f600" * 1000] * 16) + keep(1)
    return (single(folder, texts + numbered(10_000, kept(1))),)


@aliases
def keys_that_are_slow_to_tell(folder: Path) -> tuple[Path | str, ...]:
    """Has keys that nearly are those of an optimizer, of one empty dictionary."""
    key = "optim_" * 16 + "x"
    held = items((plain(f"{number}{key}"), b"}") for number in range(4000)) + keep(1)
    return (single(folder, held + listed(50_000, kept(1))),)


# Metadata of distributed checkpoints.

META = "torch.distributed.checkpoint.metadata"
FILESYSTEM = "torch.distributed.checkpoint.filesystem"


def built(class_name: int, **attributes: bytes) -> bytes:
    """An instance of the class that was kept under this number."""
    return kept(class_name) + b")\x81" + mapping(**attributes) + b"b"


def metadata(folder: Path, before: bytes, described: bytes, places: bytes, paths: bytes) -> Path:
    """A directory with metadata alone. The classes are kept from 1 on."""
    classes = b"".join(
        name_of(module, name) + keep(number)
        for number, (module, name) in enumerate(
            [
                (META, "Metadata"),
                (META, "TensorStorageMetadata"),
                (META, "ChunkStorageMetadata"),
                (META, "MetadataIndex"),
                (FILESYSTEM, "_StorageInfo"),
                (META, "TensorProperties"),
                (META, "BytesStorageMetadata"),
            ],
            1,
        )
    )
    whole = built(1, state_dict_metadata=described, storage_data=places, planner_data=paths)
    directory = folder / "a"
    directory.mkdir()
    (directory / ".metadata").write_bytes(pickled(classes + before + whole))
    return directory


def place(file: bytes) -> bytes:
    return built(5, relative_path=file, offset=plain(0), length=plain(100))


def described_tensor(size: bytes, chunks: bytes) -> bytes:
    properties = built(6, dtype=name_of("torch", "float32"))
    return built(2, size=size, properties=properties, chunks=chunks)


@aliases
def places_of_a_long_name(folder: Path) -> tuple[Path | str, ...]:
    """Has one name of half a megabyte for thousands of items."""
    before = plain("n" * 500_000) + keep(10) + place(plain("x")) + keep(11)
    places = items(
        (built(4, fqn=kept(10), offset=plain((number,))), kept(11)) for number in range(8000)
    )
    return (metadata(folder, before, b"}", places, b"}"),)


@aliases
def places_in_a_long_file(folder: Path) -> tuple[Path | str, ...]:
    """Has a file name of half a megabyte in a hundred thousand items."""
    before = place(plain("x" * 500_000)) + keep(11) + built(4, fqn=plain("w"), offset=b"N")
    places = items((kept(12), kept(11)) for _ in range(50_000))
    return (metadata(folder, before + keep(12), b"}", places, b"}"),)


@aliases
def tensors_of_listed_sizes(folder: Path) -> tuple[Path | str, ...]:
    """Has one tensor of 64 dimensions, whose sizes are a list, under a hundred thousand names."""
    before = described_tensor(plain([1] * 64), b"]") + b"q\x640"
    described = items((plain(f"{number}"), b"h\x64") for number in range(80_000))
    return (metadata(folder, before, described, b"}", b"}"),)


@aliases
def paths_of_many_parts(folder: Path) -> tuple[Path | str, ...]:
    """Has one path of 99 parts for a hundred thousand names."""
    before = plain(tuple(["optim_" * 16] * 99)) + b"q\x640"
    before += described_tensor(plain((1,)), b"]") + b"q\x650"
    paths = items((plain(f"{number}"), b"h\x64") for number in range(40_000))
    described = items((plain(f"{number}"), b"h\x65") for number in range(40_000))
    return (metadata(folder, before, described, b"}", paths),)


@aliases
def boxes_of_many_tensors(folder: Path) -> tuple[Path | str, ...]:
    """Has one list of a hundred thousand empty boxes of 64 dimensions in as many tensors."""
    origins = b"".join(plain((number,) + (0,) * 63) + keep(100 + number) for number in range(150))
    sizes = b"".join(plain((0,) + (1,) * 62 + (n,)) + keep(1000 + n) for n in range(150))
    chunks = b"](" + b"".join(
        built(3, offsets=kept(100 + at), sizes=kept(1000 + size))
        for at in range(150)
        for size in range(100)
    )
    before = origins + sizes + chunks + b"e" + keep(10)
    before += described_tensor(plain((1,) * 64), kept(10)) + keep(11)
    described = items((plain(f"{number}"), kept(11)) for number in range(20_000))
    return (metadata(folder, before, described, b"}", b"}"),)


@aliases
def config_of_a_long_name(folder: Path) -> tuple[Path | str, ...]:
    """Has a key of half a megabyte over a thousand numbers, and fifty thousand nulls."""
    directory = metadata(folder, b"", b"}", b"}", b"}")
    inner = {f"{number}": (1 if number < 999 else None) for number in range(30_000)}
    text = json.dumps({"n" * 500_000: inner})
    (folder / "step7").mkdir()
    directory.rename(folder / "step7" / "model_and_optim")
    (folder / "step7" / "config.json").write_text(text)
    return (folder / "step7",)
