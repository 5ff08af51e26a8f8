"""What today's tools get wrong on real files, each held against this one."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import ckptdiff
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.cli import assert_one_line_of_trouble, invoke
from tests.dtypes import DTYPES
from tests.samples import tame
from tests.writers import Tensor, tensor, write_file, write_sharded


def write_pair(folder: Path, a: dict[str, Tensor], b: dict[str, Tensor]) -> tuple[Path, Path]:
    return write_file(folder / "a.safetensors", a), write_file(folder / "b.safetensors", b)


def embedding(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """A bf16 embedding that training has moved a little, with a common offset."""
    rng = np.random.default_rng(6)
    a = np.empty((rows, columns), ml_dtypes.bfloat16)
    b = np.empty((rows, columns), ml_dtypes.bfloat16)
    for start in range(0, rows, 4096):
        block = rng.standard_normal((min(4096, rows - start), columns), np.float32)
        block = block * 0.02 + 0.1
        a[start : start + 4096] = block
        b[start : start + 4096] = block * np.float32(1.01)
    return a, b


def check_embedding(rows: int, columns: int, folder: Path) -> None:
    a, b = embedding(rows, columns)
    save_file({"w": a}, folder / "a.safetensors")
    save_file({"w": b}, folder / "b.safetensors")
    row = ckptdiff.diff(folder / "a.safetensors", folder / "b.safetensors")["w"]
    squares_a = squares_b = dot = 0.0
    for start in range(0, rows, 4096):
        x = a[start : start + 4096].astype(np.float64)
        y = b[start : start + 4096].astype(np.float64)
        squares_a, squares_b, dot = (
            squares_a + float((x * x).sum()),
            squares_b + float((y * y).sum()),
            dot + float((x * y).sum()),
        )
    assert row.l2_a == pytest.approx(math.sqrt(squares_a), rel=1e-7)
    assert row.l2_b == pytest.approx(math.sqrt(squares_b), rel=1e-7)
    assert row.cosine == pytest.approx(dot / math.sqrt(squares_a * squares_b), abs=1e-9)
    assert row.cosine <= 1


def test_norms_and_cosine_of_an_embedding(tmp_path: Path) -> None:
    """A float32 sum loses 2.5 % here and a cosine of 1.0556 comes out."""
    check_embedding(2000, 4096, tmp_path)


@pytest.mark.slow
def test_norms_and_cosine_of_an_embedding_of_100_million(tmp_path: Path) -> None:
    check_embedding(24_576, 4096, tmp_path)


def test_a_float32_running_sum_would_fail_the_same_check() -> None:
    """The check can fail: adding in float32, one after the other, stops growing."""
    a, _ = embedding(2000, 4096)
    x = a.astype(np.float32).ravel()
    naive = float(np.sqrt(np.cumsum(x * x, dtype=np.float32)[-1]))
    exact = float(np.sqrt((x.astype(np.float64) ** 2).sum()))
    assert abs(naive - exact) / exact > 1e-5


@pytest.mark.parametrize("dtype", ["BF16", "F32", "F64"])
def test_a_tensor_that_moved_has_a_distance(dtype: str, tmp_path: Path) -> None:
    """Clamped cosines read exactly 1.0 for tensors that moved."""
    a = tame(DTYPES[dtype], (1_000_000,), 1)
    moved = bytearray(a.data)
    moved[0] ^= 1  # the last bit of the first of a million elements
    paths = write_pair(tmp_path, {"w": a}, {"w": Tensor(dtype, a.shape, bytes(moved))})
    row = ckptdiff.diff(*paths)["w"]
    assert (row.changed, row.verdict) == (1, "different")
    assert 0 < row.cosine_distance < 1e-6
    assert row.rel_l2 > 0


def test_one_bit_of_a_small_value_is_a_change(tmp_path: Path) -> None:
    """Tolerances of 1e-8 swallow these; so does decoding to float32."""
    small = np.array([1e-30, 1e-12], np.float32)
    small_b = np.nextafter(small, np.float32(1))
    double, double_b = np.array([0.5]), np.array([0.5 + 1e-9])
    subnormal = np.array([1], "<u2")
    a = {
        "F32": tensor(small),
        "F64": tensor(double, "F64"),
        "BF16": Tensor("BF16", (1,), subnormal.tobytes()),
        "F16": Tensor("F16", (1,), subnormal.tobytes()),
    }
    b = {
        "F32": tensor(small_b),
        "F64": tensor(double_b, "F64"),
        "BF16": Tensor("BF16", (1,), (subnormal + 1).tobytes()),
        "F16": Tensor("F16", (1,), (subnormal + 1).tobytes()),
    }
    paths = write_pair(tmp_path, a, b)
    report = ckptdiff.diff(*paths)
    assert {row.name: row.changed for row in report} == {"F32": 2, "F64": 1, "BF16": 1, "F16": 1}
    assert report.verdicts["different"] == 4
    assert report["F32"].max_ulp == 1
    assert report["F64"].max_abs == pytest.approx(1e-9, rel=1e-6)
    assert invoke("diff", *paths).status == 1


def test_int64_above_two_to_the_53(tmp_path: Path) -> None:
    """Through float64 these are equal."""
    a = np.array([2**53, 2**63 - 1, -(2**53)], np.int64)
    b = np.array([2**53 + 1, 2**63 - 2, -(2**53) - 1], np.int64)
    row = ckptdiff.diff({"step": a}, {"step": b})["step"]
    assert (row.changed, row.max_abs, row.max_ulp) == (3, 1, 1)
    assert (row.value_a, row.value_b) == (2**53, 2**53 + 1)


def test_imaginary_parts_are_compared(tmp_path: Path) -> None:
    a = np.array([1 + 2j, 3 + 4j], np.complex64)
    b = np.array([1 + 2j, 3 + 5j], np.complex64)
    save_a, save_b = tensor(a, "C64"), tensor(b, "C64")
    row = ckptdiff.diff(*write_pair(tmp_path, {"w": save_a}, {"w": save_b}))["w"]
    assert (row.numel, row.changed, row.max_abs, row.max_abs_index) == (2, 1, 1.0, (1, 1))
    assert (row.value_a, row.value_b) == (4.0, 5.0)


def test_f16_near_its_largest_has_a_finite_norm() -> None:
    a, b = np.array([60000, -60000], np.float16), np.array([-60000, 60000], np.float16)
    row = ckptdiff.diff({"w": a}, {"w": b})["w"]
    exact = float(a[0])
    assert exact == 60000.0
    assert row.max_abs == 2 * exact
    assert row.l2 == pytest.approx(2 * exact * math.sqrt(2), rel=1e-12)
    assert row.l2_a == pytest.approx(exact * math.sqrt(2), rel=1e-12)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2", "C64"])
def test_a_tensor_that_differs_by_a_nan_alone_is_different(dtype: str, tmp_path: Path) -> None:
    """Not bit-identical with high confidence, and no crash."""
    values = np.linspace(-1, 1, 5000)
    broken = values.copy()
    broken[4321] = np.nan
    paths = write_pair(tmp_path, {"w": tensor(values, dtype)}, {"w": tensor(broken, dtype)})
    report = ckptdiff.diff(*paths, atol=1e9)
    row = report["w"]
    assert (row.verdict, row.nonfinite_mismatch, row.nan_a, row.nan_b) == ("different", 1, 0, 1)
    assert (row.max_abs, row.l2) == (0.0, 0.0)
    assert invoke("diff", *paths, "--atol", "1e9").status == 1


def test_a_nan_on_both_sides_is_no_difference(tmp_path: Path) -> None:
    a = tensor([1.0, np.nan, np.inf])
    paths = write_pair(tmp_path, {"w": a}, {"w": a})
    row = ckptdiff.diff(*paths)["w"]
    assert (row.verdict, row.changed, row.nan_a, row.nan_b) == ("bit_identical", 0, 1, 1)
    assert invoke("diff", *paths).status == 0
    other = Tensor("F32", (1,), b"\x01\0\xc0\x7f")
    row = ckptdiff.diff({"w": np.array([np.nan], np.float32)},
                        write_file(tmp_path / "c.safetensors", {"w": other}))["w"]  # fmt: skip
    assert (row.verdict, row.changed, row.bits_changed) == ("equal", 0, 1)


def test_eight_bit_floats_are_compared() -> None:
    for scalar in (torch.float8_e4m3fn, torch.float8_e5m2):
        a = torch.linspace(-1, 1, 1000).to(scalar)
        b = a.clone()
        b.view(torch.uint8)[500] ^= 1
        row = ckptdiff.diff({"w": a}, {"w": b})["w"]
        assert (row.changed, row.max_ulp, row.verdict) == (1, 1, "different")


def test_an_empty_tensor_is_equal_to_itself(tmp_path: Path) -> None:
    """It neither ends the run nor gets a cosine of 0."""
    tensors = {"empty": tensor(np.zeros((0, 4096))), "w": tensor([1.0])}
    paths = write_pair(tmp_path, tensors, tensors)
    row = ckptdiff.diff(*paths)["empty"]
    assert (row.verdict, row.numel, row.cosine, row.l2) == ("bit_identical", 0, 1.0, 0.0)
    assert invoke("diff", *paths).status == 0


def test_nothing_vanishes_in_one_skipped_count(tmp_path: Path) -> None:
    """Small tensors are compared; other shapes are named, with both shapes."""
    a = {f"bias.{n}": tensor(np.ones(n)) for n in (1, 10, 999, 1000)} | {"w": tensor([1.0, 2.0])}
    b = {f"bias.{n}": tensor(np.full(n, 2.0)) for n in (1, 10, 999, 1000)} | {
        "w": tensor([1.0, 2.0, 3.0])
    }
    paths = write_pair(tmp_path, a, b)
    report = ckptdiff.diff(*paths)
    assert {row.name for row in report} == {"bias.1", "bias.10", "bias.999", "bias.1000"}
    assert report.verdicts["different"] == 4
    outcome = invoke("diff", *paths)
    assert outcome.status == 1
    assert "w" in outcome.stdout
    assert "2 → 3" in outcome.stdout


def test_a_stray_or_stale_shard_overrides_nothing(tmp_path: Path) -> None:
    """The index decides: neither the order of the names nor what else lies there."""
    tensors = {"a": tensor([1.0]), "b": tensor([2.0])}
    stale = {"a": tensor([99.0]), "b": tensor([99.0]), "extra": tensor([99.0])}
    directory = write_sharded(tmp_path / "sharded", tensors, 2)
    for name in ("aaa.safetensors", "model.safetensors", "zzz.safetensors"):
        write_file(directory / name, stale)
    clean = write_file(tmp_path / "clean.safetensors", tensors)
    outcome = invoke("diff", clean, directory)
    assert outcome.status == 0, outcome


def test_truncated_files_and_missing_shards_are_trouble(tmp_path: Path) -> None:
    good = write_file(tmp_path / "good.safetensors", {"a": tensor([1.0, 2.0])})
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-1])
    assert_one_line_of_trouble(invoke("diff", good, cut), "cut.safetensors")
    directory = write_sharded(tmp_path / "s", {"a": tensor([1.0, 2.0]), "b": tensor([1.0])}, 2)
    (directory / "model-00002-of-00002.safetensors").unlink()
    assert_one_line_of_trouble(invoke("diff", good, directory), "model-00002-of-00002.safetensors")


def test_json_holds_no_bare_nan(tmp_path: Path) -> None:
    a, b = {"w": tensor([0.0, np.nan])}, {"w": tensor([1.0, np.inf])}
    paths = write_pair(tmp_path, a, b)
    for arguments in (("diff", *paths), ("stats", paths[0])):
        text = invoke(*arguments, "--format", "json").stdout
        document = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
        assert "Infinity" in text or arguments[0] == "stats"
        assert document["tensors"]


def test_the_exit_status_is_that_of_diff(tmp_path: Path) -> None:
    a = {"w": tensor([1.0, 2.0])}
    same, other = write_pair(tmp_path, a, {"w": tensor([1.0, 2.5])})
    assert invoke("diff", same, same).status == 0
    assert invoke("diff", same, other).status == 1
    assert invoke("diff", same, other, "--atol", "0.5").status == 0
    assert invoke("diff", same, tmp_path / "nowhere").status == 2
    missing = write_file(tmp_path / "missing.safetensors", {**a, "v": tensor([1.0])})
    assert invoke("diff", same, missing).status == 1
    assert invoke("diff", missing, same).status == 1


def test_csv_is_written(tmp_path: Path) -> None:
    a = {"w": tensor([1.0, 2.0])}
    paths = write_pair(tmp_path, a, {"w": tensor([1.0, 2.5])})
    outcome = invoke("diff", *paths, "--format", "csv")
    (line,) = csv.DictReader(io.StringIO(outcome.stdout))
    assert (line["name"], line["changed"], float(line["max_abs"])) == ("w", "1", 0.5)
