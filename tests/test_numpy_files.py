"""NumPy files: written by numpy itself, with what numpy loads back as the oracle."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ckptdiff
import ml_dtypes
import numpy as np
import pytest

from tests.cli import assert_one_line_of_trouble, invoke
from tests.mutations import count_mutations
from tests.samples import CHUNK
from tests.writers import Tensor, write_file

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]

NAMES = {
    "?": "BOOL", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64", "u1": "U8", "u2": "U16",
    "u4": "U32", "u8": "U64", "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64", "c16": "C128",
}  # fmt: skip


def filled(code: str, shape: tuple[int, ...]) -> Array:
    """Values of a prime cycle around zero, of any dtype."""
    count = int(np.prod(shape, dtype=np.int64))
    values = np.arange(count) % 251
    if code[0] in "fci":
        values = values - 100
    return np.asarray(values).astype(code).reshape(shape)


def samples() -> Arrays:
    arrays: Arrays = {code.replace("?", "bool"): filled(code, (7, 5)) for code in NAMES}
    arrays["bf16"] = filled("f4", (6, 3)).astype(ml_dtypes.bfloat16)
    arrays["scalar"] = np.asarray(np.float32(2.5))
    arrays["empty"] = np.zeros((3, 0, 4), np.float64)
    arrays["nothing"] = np.zeros((0,), np.int16)
    arrays["fortran"] = np.asfortranarray(filled("f4", (61, 40)))
    arrays["fortran_3d"] = np.asfortranarray(filled("i2", (5, 7, 11)))
    arrays["sliced"] = filled("f8", (40, 40))[::3, 1::2]
    arrays["layers.10.weight"] = filled("f4", (CHUNK + 17,))
    return arrays


def as_safetensors(path: Path, arrays: Arrays) -> Path:
    """The same tensors as safetensors, where its dtypes allow."""
    tensors = {}
    for name, array in arrays.items():
        dtype = (
            "BF16"
            if array.dtype == ml_dtypes.bfloat16
            else NAMES[array.dtype.str[1:].replace("b1", "?")]
        )
        if dtype != "C128":
            tensors[name] = Tensor(dtype, array.shape, np.ascontiguousarray(array).tobytes())
    return write_file(path, tensors)


WRITERS: tuple[Callable[..., None], ...] = (np.savez, np.savez_compressed)


@pytest.mark.parametrize("write", WRITERS)
def test_what_numpy_writes_is_read_as_numpy_loads_it(
    write: Callable[..., None], tmp_path: Path
) -> None:
    arrays = samples()
    path = tmp_path / "a.npz"
    write(path, **arrays)
    report = ckptdiff.stats(path)
    with np.load(path) as loaded:
        assert {row.name for row in report} == set(loaded.files) == set(arrays)
        for name in loaded.files:
            array = loaded[name]
            row = report[name]
            if array.dtype.kind == "V":
                array = array.view(ml_dtypes.bfloat16)
            assert row.shape == array.shape
            wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
            parts = wide.reshape(-1).view(np.float64)
            assert row.numel == array.size
            if parts.size:
                assert row.min == parts.min(), name
                assert row.max == parts.max(), name
                assert row.l2 == pytest.approx(np.sqrt((parts**2).sum()), rel=1e-12), name
                assert row.mean == pytest.approx(parts.mean(), rel=1e-12, abs=1e-15), name


@pytest.mark.parametrize("write", WRITERS)
def test_the_json_is_that_of_safetensors(write: Callable[..., None], tmp_path: Path) -> None:
    arrays = samples()
    del arrays["c16"]
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    write(tmp_path / "x" / "a", **arrays)
    os.rename(tmp_path / "x" / "a.npz", tmp_path / "x" / "a")
    as_safetensors(tmp_path / "y" / "a", arrays)
    texts = []
    for folder in ("x", "y"):
        report = ckptdiff.stats(tmp_path / folder / "a", content_hash=True, histogram=True)
        texts.append((report.to_json() or "").replace(str(tmp_path / folder), ""))
    assert texts[0] == texts[1]
    assert len(texts[0]) > 5000
    report_of_both = ckptdiff.diff(tmp_path / "x" / "a", tmp_path / "y" / "a")
    assert {row.verdict for row in report_of_both} == {"bit_identical"}


def test_one_array(tmp_path: Path) -> None:
    array = np.asfortranarray(filled("f4", (30, 20)))
    np.save(tmp_path / "a.npy", array)
    checkpoint = ckptdiff.open(tmp_path / "a.npy")
    assert list(checkpoint) == ["tensor"]
    assert checkpoint["tensor"].shape == (30, 20)
    largest = np.unravel_index(np.abs(array).argmax(), array.shape)
    assert ckptdiff.stats(tmp_path / "a.npy")["tensor"].abs_max_index == largest
    np.save(tmp_path / "b.npy", np.ascontiguousarray(array))
    report = ckptdiff.diff(tmp_path / "a.npy", tmp_path / "b.npy")
    assert report["tensor"].verdict == "bit_identical"
    (tensor,) = ckptdiff.open(tmp_path / "b.npy").values()
    (span,) = tensor.spans
    assert (tmp_path / "b.npy").read_bytes()[span.offset :] == np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_each_version_of_the_format(version: tuple[int, int], tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, filled("f8", (3, 4)), version=version)
    assert ckptdiff.stats(tmp_path / "a.npy")["tensor"].min == -100


def test_what_cannot_be_compared_is_listed_by_what_it_is(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz",
        objects=np.array([{"a": 1}, None], dtype=object),
        big=filled("f4", (3,)).astype(">f4"),
        structured=np.zeros(2, [("x", "f4"), ("y", "i2")]),
        text=np.array(["ab", "c"]),
        dates=np.array(["2024-01-01"], "M8[D]"),
        eight=filled("f4", (4,)).astype(ml_dtypes.float8_e4m3fn),
        long=filled("f8", (4,)).astype(np.longdouble),
        good=filled("f4", (4,)),
    )
    listed = {name: tensor.dtype for name, tensor in ckptdiff.open(tmp_path / "a.npz").items()}
    assert listed == {
        "objects": "Python objects",
        "big": "big-endian F32",
        "structured": "structured",
        "text": "<U2",
        "dates": "<M8[D]",
        "eight": listed["eight"],
        "long": "<f16",
        "good": "F32",
    }
    assert listed["eight"] not in ("F8_E4M3", "U8")


def test_long_arrays_deflated_on_both_sides_by_any_number_of_threads(tmp_path: Path) -> None:
    """Several chunks of several blocks: pieces are asked for out of order."""
    rng = np.random.default_rng(1)
    a = rng.integers(-5, 5, (5, CHUNK // 2 + 3)).astype(np.float64)
    b = a + (rng.random(a.shape) < 0.01)
    np.savez_compressed(tmp_path / "a.npz", w=a, v=a[0])
    np.savez_compressed(tmp_path / "b.npz", w=b, v=b[0])
    texts = set()
    for threads in (1, 2, 5):
        report = ckptdiff.diff(tmp_path / "a.npz", tmp_path / "b.npz", threads=threads)
        assert report["w"].changed == int((a != b).sum())
        texts.add(report.to_json())
    assert len(texts) == 1


def test_a_directory_with_one_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=filled("f4", (2,)))
    assert list(ckptdiff.open(tmp_path)) == ["w"]
    np.savez(tmp_path / "b.npz", w=filled("f4", (2,)))
    with pytest.raises(ckptdiff.InvalidCheckpointError, match=r"2 \.npz files"):
        ckptdiff.open(tmp_path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch '{tmp_path / 'pwned'}'",)

    np.save(tmp_path / "a.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    objects = np.array([Payload()], dtype=object)
    np.savez(tmp_path / "b.npz", w=objects)
    fields = np.zeros(2, dtype=[("x", "f4"), ("y", "O")])
    fields["y"] = Payload()
    np.save(tmp_path / "c.npy", fields, allow_pickle=True)
    for name in ("a.npy", "b.npz", "c.npy"):
        for command in ("ls", "stats"):
            outcome = invoke(command, tmp_path / name)
            assert_one_line_of_trouble(outcome, name, "Python objects", "not read")
    np.savez(tmp_path / "d.npz", w=objects, v=np.ones(2))
    assert ckptdiff.open(tmp_path / "d.npz")["w"].dtype == "Python objects"
    assert ckptdiff.stats(tmp_path / "d.npz")["v"].mean == 1
    assert not (tmp_path / "pwned").exists()


def seeds(folder: Path) -> list[bytes]:
    arrays = {"w": filled("f4", (3, 4)), "fortran": np.asfortranarray(filled("i2", (3, 4)))}
    np.savez(folder / "a.npz", **arrays)
    np.savez_compressed(folder / "b.npz", **arrays)
    np.save(folder / "c.npy", arrays["w"])
    with (folder / "d.npy").open("wb") as file:
        np.lib.format.write_array(file, arrays["fortran"], version=(3, 0))
    return [(folder / name).read_bytes() for name in ("a.npz", "b.npz", "c.npy", "d.npy")]


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_many_mutations_end_in_a_report_or_in_one_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"mutated{suffix}"

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        try:
            ckptdiff.stats(path)
            message = path.name
        except (ckptdiff.InvalidCheckpointError, ckptdiff.CheckpointReadError) as error:
            message = str(error)
        assert "\n" not in message
        assert path.name in message

    assert count_mutations(seeds(tmp_path), attempt) > 50


def test_listing_as_json_names_the_format(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=filled("f4", (2, 3)))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("README", "no array")
    outcome = invoke("ls", tmp_path / "a.npz", "--format", "json")
    assert outcome.status == 0
    document = json.loads(outcome.stdout)
    assert "w" in json.dumps(document)
    assert ckptdiff.open(tmp_path / "a.npz").notes == ("1 records of the archive are no arrays",)
