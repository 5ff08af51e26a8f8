"""The pickle machine against Python's own, and the zip directory against zipfile."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import pickle
import random
import struct
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from ckptdiff._core import strip_pickle
from ckptdiff.errors import InvalidCheckpointError
from ckptdiff.formats.inert import (
    PLAIN,
    TORCH,
    IdentityKey,
    InertObject,
    PickleCutOffError,
    inert_classes,
    unpickle,
)
from ckptdiff.formats.zip import DEFLATED, STORED, Archive, begins_as_zip
from hypothesis import given, settings
from hypothesis import strategies as st

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)

keys = st.one_of(st.text(max_size=8), st.integers(-(2**60), 2**60), st.booleans(), st.none())
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**200), 2**200),
    st.floats(allow_nan=False),
    st.text(),
    st.text(min_size=250, max_size=270),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(keys, inner, max_size=5),
    ),
    max_leaves=30,
)


def read(data: bytes, **known: object) -> object:
    return unpickle(data, source="here", known=PLAIN | TORCH | known).value


@given(value=values, protocol=st.sampled_from(PROTOCOLS))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_plain_values_are_those_of_python(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    result = read(data)
    assert result == value
    assert repr(result) == repr(value)  # True is not 1, and 0.0 not -0.0
    # and at the end of the pickle begins what follows
    assert unpickle(data + b"more", source="here", known=PLAIN).end == len(data)
    assert unpickle(b"before" + data, source="here", known=PLAIN, start=6).end == 6 + len(data)


@given(value=values, protocol=st.sampled_from(PROTOCOLS))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_stripped_pickle_is_the_same_to_python(value: object, protocol: int) -> None:
    twice = [value, value, "again", "again"]
    data = pickle.dumps(twice, protocol)
    stripped, end = strip_pickle(data)
    assert end == len(data)
    assert pickle.loads(stripped) == twice
    assert len(stripped) <= len(data) + 4 * data.count(b"h")
    for cut in range(0, len(data), 1 + len(data) // 50):
        with pytest.raises((EOFError, ValueError)):
            strip_pickle(data[:cut])


def test_lists_that_are_used_twice_are_one() -> None:
    shared: list[int] = []
    result = read(pickle.dumps([shared, shared], 4))
    assert isinstance(result, list)
    assert result[0] is result[1]
    cycle: list[object] = []
    cycle.append(cycle)
    result = read(pickle.dumps(cycle, 2))
    assert isinstance(result, list)
    assert result[0] is result


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_python_puts_in_checkpoints(protocol: int) -> None:
    ordered = collections.OrderedDict([("b", 1), ("a", 2)])
    assert list(read(pickle.dumps(ordered, protocol))) == ["b", "a"]  # type: ignore[call-overload]
    default: collections.defaultdict[str, list[int]] = collections.defaultdict(list, {"x": [1]})
    assert read(pickle.dumps(default, protocol)) == {"x": [1]}
    counter = collections.Counter("aab")
    assert read(pickle.dumps(counter, protocol)) == {"a": 2, "b": 1}
    assert sorted(read(pickle.dumps({3, 1}, protocol))) == [1, 3]  # type: ignore[call-overload]
    assert read(pickle.dumps(frozenset({1}), protocol)) == [1]
    assert read(pickle.dumps(1 + 2j, protocol)) == 1 + 2j
    namespace = read(pickle.dumps(argparse.Namespace(a=1), protocol))
    assert isinstance(namespace, InertObject)
    assert namespace.kind == "argparse.Namespace"
    assert namespace.state == {"a": 1}
    for value in (datetime.timedelta(1), range(3), Path("a/b"), np.arange(3), np.dtype("f4")):
        assert isinstance(read(pickle.dumps(value, protocol)), InertObject), value


@pytest.mark.parametrize(
    "scalar",
    [
        np.float32(1.5),
        np.float64(-2.5),
        np.int64(-3),
        np.uint8(9),
        np.bool_(True),
        np.float16(0.5),
        np.int32(2**31 - 1),
    ],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_scalars_are_numbers(scalar: np.generic, protocol: int) -> None:
    result = read(pickle.dumps(scalar, protocol))
    assert result == scalar.item()
    assert type(result) is type(scalar.item())


def test_python_2_pickles() -> None:
    """Its integers of 64 bits are lines of text, its texts are bytes, its names are old."""
    data = b"\x80\x02}q\x01(U\x01aI9007199254740993\nU\x01bI01\nU\x01c"
    data += b"c__builtin__\nset\n]K\x05a\x85RU\x01dL12L\nu."
    assert read(data) == {"a": 9007199254740993, "b": True, "c": [5], "d": 12}


def test_keys_that_could_collide_are_told_apart_by_identity() -> None:
    result = read(pickle.dumps({(1, 2): "a", 2**61: "b", "c": "d"}, 4))
    assert isinstance(result, dict)
    assert result["c"] == "d"
    others = [key.value for key in result if isinstance(key, IdentityKey)]
    assert others == [(1, 2), 2**61]


class Storage:
    """Pickles by its own class and state."""

    def __init__(self) -> None:
        self.offset = 7


def test_a_reader_adds_its_own_classes() -> None:
    data = pickle.dumps(Storage(), 4)
    with pytest.raises(InvalidCheckpointError, match=r"Storage, which is not allowed"):
        read(data)
    result = read(data, **inert_classes(f"{__name__}.Storage"))
    assert isinstance(result, InertObject)
    assert result.state == {"offset": 7}
    assert result.arguments == ()


def test_messages_name_the_source() -> None:
    for data in (b"", b"\x80\x02", pickle.dumps("x")[:-1]):
        with pytest.raises(PickleCutOffError, match=r"^here: "):
            read(data)
    for data in (b"\x80\x02h\x05.", b"\x80\x02i.", b"\x80\x02K\x01)R."):
        with pytest.raises(InvalidCheckpointError, match=r"^here: a broken pickle: "):
            read(data)


# Zip archives.


def assert_the_same(path: Path, start: int = 0, size: int | None = None) -> int:
    """Every record lies where zipfile reads it."""
    content = path.read_bytes()
    window = content[start : None if size is None else start + size]
    with zipfile.ZipFile(io.BytesIO(window)) as theirs, path.open("rb") as file:
        ours = Archive(file, str(path), start=start, size=size)
        assert list(ours) == [info.filename for info in theirs.infolist()]
        for info in theirs.infolist():
            record = ours.record(info.filename)
            stored = content[record.offset : record.offset + record.stored_size]
            if info.compress_type == zipfile.ZIP_STORED:
                assert record.method == STORED
                assert stored == theirs.read(info)
                assert ours.read(info.filename, at_most=1 << 20) == stored
            else:
                assert record.method == DEFLATED
                assert zlib.decompress(stored, -15) == theirs.read(info)
                assert record.size == info.file_size
                with pytest.raises(InvalidCheckpointError, match="compressed"):
                    ours.stored(info.filename)
        return len(ours)


def write_records(path: Path, count: int, compression: int, comment: bytes = b"") -> None:
    chance = random.Random(count)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.comment = comment
        for number in range(count):
            name = f"folder/ré {number}" if number % 2 else f"../{number}"
            archive.writestr(name, chance.randbytes(chance.randrange(200)))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("comment", [b"", b"hello", b"P" * 400, b"x" * 65535])
def test_records_of_zipfile(compression: int, comment: bytes, tmp_path: Path) -> None:
    write_records(tmp_path / "a.zip", 30, compression, comment)
    assert assert_the_same(tmp_path / "a.zip") == 30


def test_records_that_are_streamed(tmp_path: Path) -> None:
    """Sizes in a descriptor behind the data, as where a zip is written to a pipe."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: object) -> int:
            raise OSError

        def tell(self) -> int:
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        archive.writestr("a", b"12345")
        archive.writestr("b", b"678")
    (tmp_path / "a.zip").write_bytes(pipe.getvalue())
    assert assert_the_same(tmp_path / "a.zip") == 2


def test_zip64_by_number(tmp_path: Path) -> None:
    """More records than 16 bits count."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(66_000):
            archive.writestr(str(number), b"x" if number % 1000 == 0 else b"")
    with path.open("rb") as file:
        archive_of_ours = Archive(file, str(path))
        assert len(archive_of_ours) == 66_000
        assert archive_of_ours.read("65000", at_most=1) == b"x"


def test_zip64_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes and offsets in the extra fields, as behind the first four gigabytes."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    write_records(tmp_path / "a.zip", 20, zipfile.ZIP_STORED)
    assert b"\x01\x00" in (tmp_path / "a.zip").read_bytes()
    assert assert_the_same(tmp_path / "a.zip") == 20


def test_beyond_four_gigabytes(tmp_path: Path) -> None:
    """A record behind a hole of five gigabytes, which takes no space."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("first", b"1")
        assert archive.fp is not None
        archive.fp.seek(5 << 30)
        archive.start_dir = archive.fp.tell()
        archive.writestr("last", b"22")
    assert path.stat().st_size > 5 << 30
    with path.open("rb") as opened:
        ours = Archive(opened, str(path))
        assert ours.read("first", at_most=10) == b"1"
        assert ours.record("last").offset > 5 << 30
        assert ours.read("last", at_most=10) == b"22"


def test_an_archive_within_a_file(tmp_path: Path) -> None:
    """As items of a distributed checkpoint lie in their file."""
    buffer = io.BytesIO()
    torch.save(torch.arange(5.0), buffer)
    inner = buffer.getvalue()
    path = tmp_path / "items"
    path.write_bytes(b"x" * 1001 + inner + b"y" * 77)
    assert_the_same(path, 1001, len(inner))
    with path.open("rb") as file:
        archive = Archive(file, str(path), start=1001, size=len(inner))
        record = archive.stored(next(name for name in archive if name.endswith("data/0")))
        file.seek(record.offset)
        assert struct.unpack("<5f", file.read(20)) == (0, 1, 2, 3, 4)
        for start, size in ((1001, len(inner) + 100), (-1, 10), (0, None), (1002, len(inner) - 1)):
            with pytest.raises(InvalidCheckpointError, match="items"):
                Archive(file, str(path), start=start, size=size)


def test_an_end_record_in_a_comment_is_a_comment(tmp_path: Path) -> None:
    """Which zipfile itself takes for the end."""
    write_records(tmp_path / "a.zip", 3, zipfile.ZIP_STORED, b"PK\x05\x06" * 400)
    with (tmp_path / "a.zip").open("rb") as file:
        assert len(Archive(file, "a.zip")) == 3


def test_an_empty_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w"):
        pass
    assert begins_as_zip(path.read_bytes())
    assert assert_the_same(path) == 0


def test_a_record_is_no_larger_than_asked(tmp_path: Path) -> None:
    write_records(tmp_path / "a.zip", 1, zipfile.ZIP_STORED)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("large", b"x" * 100)
    with (tmp_path / "a.zip").open("rb") as file:
        ours = Archive(file, "a.zip")
        assert ours.read("large", at_most=100) == b"x" * 100
        with pytest.raises(InvalidCheckpointError, match="more than"):
            ours.read("large", at_most=99)
        with pytest.raises(KeyError):
            ours.record("none")


@given(
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4)
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_changed_bytes_of_an_archive(
    edits: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No answer but our error, or records within the file that share no byte."""
    path = tmp_path_factory.getbasetemp() / "fuzz.zip"
    write_records(path, 5, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    for position, value in edits:
        content[position % len(content)] = value
    path.write_bytes(content)
    with path.open("rb") as file:
        try:
            archive = Archive(file, "fuzz.zip")
            records = sorted(archive.record(name) for name in archive)
        except InvalidCheckpointError as refusal:
            message = str(refusal)
        else:
            ranges = sorted((r.offset, r.offset + r.stored_size) for r in records)
            assert all(end <= len(content) for _, end in ranges)
            assert all(a[1] <= b[0] for a, b in pairwise(ranges))
            return
    assert message.startswith("fuzz.zip: ")
    assert "\n" not in message
