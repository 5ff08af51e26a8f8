"""The quantised types of GGUF: every value as the gguf package decodes it, every column of them."""

from __future__ import annotations

import json
from pathlib import Path

import ckptdiff
import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from tests.cli import invoke
from tests.compare import assert_rows
from tests.engine import ISA_LEVELS, diff_rows, expected_diff, expected_stats, stats_rows
from tests.gguf_writers import (
    QUANTISED,
    as_float32,
    blocks_of,
    dequantised,
    random_blocks,
    write_gguf,
)
from tests.samples import CHUNK
from tests.writers import Tensor, write_file

#: Columns that are of the codes, which elements of a block do not have.
CODES = ("dtype", "dtype_a", "dtype_b", "bytes", "bits_changed", "max_ulp", "verdict")
#: What a type of its own would count.
RANGE = ("subnormals", "saturated")

SHAPES = ((1, 256), (3, 768), (4, 256), (7, 1024))

every_kind = pytest.mark.parametrize("kind", QUANTISED)


def blocks(
    kind: str, seed: int, *, wild: bool
) -> tuple[dict[str, tuple[str, NDArray[np.uint8]]], dict[str, Tensor]]:
    """Tensors of every shape as bytes, and the same decoded by the gguf package."""
    raw = {f"w.{n}": random_blocks(kind, shape, seed + n, wild=wild)
           for n, shape in enumerate(SHAPES)}  # fmt: skip
    values = {name: as_float32(dequantised(kind, data)) for name, data in raw.items()}
    return {name: (kind, data) for name, data in raw.items()}, values


@every_kind
@pytest.mark.parametrize("wild", [False, True])
def test_every_value_is_that_of_the_gguf_package(kind: str, wild: bool, tmp_path: Path) -> None:
    """Bit for bit but for the payloads of NaN: NaN, Inf and subnormal scales among them."""
    raw, values = blocks(kind, 1, wild=wild)
    write_gguf(tmp_path / "a.gguf", raw)
    write_file(tmp_path / "a.safetensors", values)
    decoded = np.concatenate([np.frombuffer(t.data, "<f4") for t in values.values()])
    if wild and kind != "MXFP4":
        assert np.isnan(decoded).any()
        assert np.isinf(decoded).any()
    for isa in ISA_LEVELS:
        rows = diff_rows(tmp_path / "a.safetensors", tmp_path / "a.gguf", isa=isa)
        assert {row["verdict"] for row in rows.values()} == {"equal"}
        assert {row["changed"] for row in rows.values()} == {0}
        assert sum(row["nan_b"] for row in rows.values()) == np.isnan(decoded).sum()  # type: ignore[misc]


@every_kind
@pytest.mark.parametrize("wild", [False, True])
def test_columns_are_those_of_the_decoded_values(kind: str, wild: bool, tmp_path: Path) -> None:
    raw_a, values_a = blocks(kind, 2, wild=wild)
    raw_b, values_b = blocks(kind, 12, wild=wild)
    a = write_gguf(tmp_path / "a.gguf", raw_a)
    b = write_gguf(tmp_path / "b.gguf", raw_b)
    full = write_file(tmp_path / "a.safetensors", values_a)
    for isa in ISA_LEVELS:
        both = diff_rows(a, b, isa=isa)
        assert_rows(both, expected_diff(values_a, values_b), ignoring=CODES, where=isa)
        for row in both.values():
            assert row["verdict"] == ("different" if row["changed"] else "equal"), row
        assert {(row["bits_changed"], row["max_ulp"]) for row in both.values()} == {(None, None)}
        mixed = diff_rows(full, b, isa=isa)
        assert_rows(mixed, expected_diff(values_a, values_b), ignoring=CODES, where=isa)
        described = stats_rows(a, isa=isa)
        assert_rows(described, expected_stats(values_a), ignoring=(*CODES, *RANGE), where=isa)
        assert {(row["subnormals"], row["saturated"]) for row in described.values()} == {(0, 0)}


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_the_error_of_gguf_s_own_quantiser(kind: str, tmp_path: Path) -> None:
    """What a quantisation costs; the package has no quantisers of the other types."""
    rng = np.random.default_rng(3)
    values = (rng.normal(0, 0.02, (64, 1024))).astype(np.float32)
    raw = gguf.quants.quantize(values, GGMLQuantizationType[kind])
    path = write_gguf(tmp_path / "a.gguf", {"w": (kind, raw)})
    row = ckptdiff.diff({"w": values}, path)["w"]
    error = dequantised(kind, raw).astype(np.float64) - values
    assert row.dtype_b == kind
    assert row.rel_l2 == pytest.approx(
        np.linalg.norm(error) / np.linalg.norm(values.astype(np.float64)), rel=1e-7
    )
    assert row.max_abs == np.abs(error).max()
    assert 0 < row.rel_l2 < 0.2


@every_kind
def test_several_chunks_and_threads(kind: str, tmp_path: Path) -> None:
    shape = (5, CHUNK // 2 + 256)
    raw_a = random_blocks(kind, shape, 4, wild=False)
    raw_b = raw_a.copy()
    raw_b.reshape(-1)[-1] ^= 0xFF
    a = write_gguf(tmp_path / "a.gguf", {"w": (kind, raw_a)})
    b = write_gguf(tmp_path / "b.gguf", {"w": (kind, raw_b)})
    texts = {
        ckptdiff.diff(a, b, threads=threads, isa=isa, histogram=True).to_json()
        for threads in (1, 3)
        for isa in ISA_LEVELS
    }
    assert len(texts) == 1
    expected = {"w": as_float32(dequantised(kind, raw_a))}
    ignoring = (*CODES, *RANGE)
    assert_rows(stats_rows(a), expected_stats(expected), ignoring=ignoring)
    count, size = blocks_of(kind, shape[0] * shape[1])
    assert stats_rows(a)["w"]["bytes"] == count * size


@every_kind
def test_the_same_bytes_are_bit_identical_and_other_bytes_are_not(
    kind: str, tmp_path: Path
) -> None:
    raw = random_blocks(kind, (4, 1024), 5, wild=True)
    a = write_gguf(tmp_path / "a.gguf", {"w": (kind, raw), "v": (kind, raw)})
    other = random_blocks(kind, (4, 1024), 6, wild=False)
    b = write_gguf(tmp_path / "b.gguf", {"w": (kind, raw), "v": (kind, other)})
    report = ckptdiff.diff(a, b)
    assert report["w"].verdict == "bit_identical"
    assert report["v"].verdict == "different"
    assert report.total.verdict == "different"
    assert report.total.bits_changed is None
    assert ckptdiff.diff(a, a).identical
    assert invoke("diff", a, a).status == 0


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q6_K"])
def test_other_bytes_of_the_same_values_are_equal(kind: str, tmp_path: Path) -> None:
    """A scale of 0 makes zeros of any codes."""
    sides = []
    for seed in (7, 8):
        raw = random_blocks(kind, (2, 512), seed, wild=False)
        _, size = blocks_of(kind, 256)
        for position in (208, 209) if kind == "Q6_K" else (0, 1):
            raw.reshape(-1, size)[:, position] = 0
        sides.append(write_gguf(tmp_path / f"{seed}.gguf", {"w": (kind, raw)}))
    row = ckptdiff.diff(*sides)["w"]
    assert (row.verdict, row.changed, row.l2_a) == ("equal", 0, 0.0)


def test_merged_rows_count_the_bits_of_those_that_have_some(tmp_path: Path) -> None:
    quantised = {seed: random_blocks("Q8_0", (1, 256), seed, wild=False) for seed in (1, 2)}
    floats = {seed: np.full(8, seed, np.float32) for seed in (1, 2)}
    a, b = (
        write_gguf(
            tmp_path / f"{seed}.gguf",
            {"m.q": ("Q8_0", quantised[seed]), "m.f": ("F32", floats[seed])},
        )
        for seed in (1, 2)
    )
    report = ckptdiff.diff(a, b)
    assert (report["m.q"].bits_changed, report["m.f"].bits_changed) == (None, 8)
    assert report.total.bits_changed == 8
    document = json.loads(report.to_json() or "")
    assert [row["bits_changed"] for row in document["tensors"]] == [8, None]
    assert [row["max_ulp"] is None for row in document["tensors"]] == [False, True]
    assert np.isnan(report.columns["max_ulp"][1])


@every_kind
def test_casts_are_of_the_decoded_values(kind: str, tmp_path: Path) -> None:
    raw, values = blocks(kind, 9, wild=False)
    path = write_gguf(tmp_path / "a.gguf", raw)
    full = write_file(tmp_path / "a.safetensors", values)
    report = ckptdiff.diff(full, path, cast="BF16")
    assert report.total.verdict == "bit_identical"
    assert report.total.bits_changed == 0
