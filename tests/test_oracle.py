"""Who watches the oracle: hand-worked rows, other people's decoders, and proof that it can fail."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.compare import disagreements
from tests.dtypes import DTYPES, Dtype, codes, pack, scalars
from tests.oracle import (
    DIFF_COLUMNS,
    STATS_COLUMNS,
    Expected,
    cast_oracle,
    diff_oracle,
    exact,
    log2_histogram,
    stats_oracle,
)
from tests.samples import fitting, tame, wild
from tests.test_real_writers import TORCH_DTYPES
from tests.writers import Tensor, tensor, write_file

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def test_a_diff_worked_by_hand() -> None:
    a = tensor([[3.0, 0.0, -1.0], [np.nan, np.inf, 2.0]])
    b = tensor([[3.0, 4.0, 1.0], [np.nan, 1.0, 2.0]])
    columns = diff_oracle(a, b, name="w", atol=2.0, thresholds=[1.0, 2.0]).columns
    root = 5.0**0.5
    cosine = (3 * 3 + 0 * 4 - 1 * 1 + 2 * 2) / (14 * 30) ** 0.5
    for column, value in {
        "name": "w", "dtype_a": "F32", "dtype_b": "F32", "shape": (2, 3), "numel": 6,
        "verdict": "different", "changed": 3, "bits_changed": 3, "max_abs": 4.0,
        "max_abs_index": (0, 1), "value_a": 0.0, "value_b": 4.0, "sign_flips": 1,
        "nan_a": 1, "nan_b": 1, "inf_a": 1, "inf_b": 0, "nonfinite_mismatch": 1,
        "out_of_tolerance": 1, "above_1.0": 2, "above_2.0": 1,
        "max_ulp": 2 * 0x3F800000,  # from -1 to 1, larger than from 0 to 4
    }.items():  # fmt: skip
        assert columns[column] == value, column
    for column, value in {
        "mean_diff": 6 / 4, "mean_abs": 6 / 4, "rms": root, "l2": 2 * root, "l2_a": 14**0.5,
        "l2_b": 30**0.5, "rel_l2": 2 * root / 14**0.5, "cosine": cosine,
        "cosine_distance": 1 - cosine,
    }.items():  # fmt: skip
        assert columns[column] == pytest.approx(value, rel=1e-14), column


def test_stats_worked_by_hand() -> None:
    columns = stats_oracle(tensor([0.0, -0.0, 2.0, -6.0, np.nan, -np.inf, 1e-45])).columns
    expected = {
        "numel": 7, "bytes": 28, "min": -6.0, "max": 2.0, "abs_max": 6.0, "abs_max_index": (3,),
        "zeros": 2, "negatives": 1, "subnormals": 1, "nan": 1, "pos_inf": 0, "neg_inf": 1,
        "saturated": 0,
    }  # fmt: skip
    assert {column: columns[column] for column in expected} == expected
    values = np.array([0, 0, 2, -6, 0])
    z = (values - values.mean()) / values.std()
    for column, value in {
        "mean": -0.8, "std": values.std(), "rms": 8**0.5, "l1": 8.0, "l2": 40**0.5,
        "skewness": (z**3).mean(), "kurtosis": (z**4).mean() - 3,
    }.items():  # fmt: skip
        assert columns[column] == pytest.approx(value, rel=1e-12), column


def test_histograms_worked_by_hand() -> None:
    values = np.array([0.0, 1.0, 1.5, 2.0, 0.49, 5e-324])
    assert log2_histogram(values) == (1, [(-1074, 1), (-2, 1), (0, 2), (1, 1)])
    integers = np.array([0, 2**63, 2**64 - 1, 1], object)
    assert log2_histogram(integers) == (1, [(0, 1), (63, 2)])


@every_dtype
def test_codes_and_bytes_are_inverse(dtype: Dtype) -> None:
    count = fitting(1001, dtype) * dtype.components
    data = wild(dtype, (count // dtype.components,), 3).data
    assert len(data) == dtype.nbytes(count // dtype.components)
    assert pack(codes(data, dtype), dtype) == data
    assert scalars(data, dtype).size == count


def test_packed_bits_lie_as_documented() -> None:
    """F4: the earlier element in the lower half; F6: element i in bits 6 i to 6 i + 6."""
    assert codes(b"\x21\x43", DTYPES["F4"]).tolist() == [1, 2, 3, 4]
    packed = (1 | 2 << 6 | 3 << 12 | 63 << 18).to_bytes(3, "little")
    assert codes(packed, DTYPES["F6_E2M3"]).tolist() == [1, 2, 3, 63]
    assert exact(Tensor("F4", (4,), b"\x21\xfe")).tolist() == [0.5, 1.0, -4.0, -6.0]


@pytest.mark.parametrize("name", [n for n in TORCH_DTYPES if n not in ("BOOL", "C64")])
def test_torch_decodes_alike(name: str) -> None:
    dtype = DTYPES[name]
    t = wild(dtype, (3000,), 5)
    of_torch = torch.frombuffer(bytearray(t.data), dtype=TORCH_DTYPES[name])
    if dtype.is_integer:
        assert of_torch.tolist() == [int(v) for v in exact(t).tolist()]
    else:
        with np.errstate(all="ignore"):
            assert np.array_equal(of_torch.to(torch.float64).numpy(), exact(t), equal_nan=True)


@pytest.mark.parametrize("target", ["F16", "BF16", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_torch_casts_alike(target: str) -> None:
    """F8_E4M3 is left out: torch saturates what ml_dtypes and the standard's text make NaN."""
    finite = np.isfinite(exact(wild(DTYPES["F32"], (5000,), 6)).astype(float))
    single = np.frombuffer(wild(DTYPES["F32"], (5000,), 6).data, np.float32)[finite]
    expected = torch.from_numpy(single.copy()).to(TORCH_DTYPES[target])
    ours = cast_oracle(tensor(single), target).data
    assert expected.view(torch.uint8).numpy().tobytes() == ours


def test_the_writers_write_what_the_safetensors_library_reads(tmp_path: Path) -> None:
    tensors = {name: wild(DTYPES[name], (4, 6), 1) for name in DTYPES if not name.startswith("F6")}
    path = write_file(tmp_path / "a.safetensors", tensors, metadata={"k": "v"}, misalign=3)
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert (8 + length) % 8 == 3
    assert json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"] == {"k": "v"}
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(tensors)
    plain = {name: t for name, t in tensors.items() if name in ("F32", "I64", "U8", "F16")}
    loaded = load_file(write_file(tmp_path / "plain.safetensors", plain))
    for name, t in plain.items():
        assert loaded[name].tobytes() == t.data
        assert loaded[name].shape == t.shape


def spoiled(value: object) -> object:
    """A wrong value of the same kind, off by as little as must be noticed."""
    if value is None:
        return 0.5
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value[:-1], value[-1] + 1) if value else (0,)
    if isinstance(value, int):
        return value + 1
    assert isinstance(value, float)
    return 1.0 if value != value or value == 0 else value * (1 + 1e-5)


@pytest.mark.parametrize("kind", ["F32", "I64"])
def test_a_wrong_value_in_any_column_is_noticed(kind: str) -> None:
    a, b = tame(DTYPES[kind], (9, 9), 1), tame(DTYPES[kind], (9, 9), 2)
    for expected, names in (
        (diff_oracle(a, b, name="w"), DIFF_COLUMNS),
        (stats_oracle(a, name="w"), STATS_COLUMNS),
    ):
        assert tuple(expected.columns) == names
        assert not disagreements(expected.columns, expected)
        for column in names:
            wrong = expected.columns | {column: spoiled(expected.columns[column])}
            assert len(disagreements(wrong, expected)) == 1, column
            without = {k: v for k, v in expected.columns.items() if k != column}
            assert disagreements(without, expected) == [f"{column}: missing"]


def test_undefined_and_special_values_are_told_apart() -> None:
    expected = Expected({"max": 1.0, "l2": float("inf"), "max_ulp": 2, "std": float("nan")})
    right = {"max": 1.0, "l2": float("inf"), "max_ulp": 2, "std": None}
    assert not disagreements(right, expected)
    for column, wrong in (
        ("max", None),
        ("max", float("nan")),
        ("max", 1),
        ("l2", 1e300),
        ("l2", float("nan")),
        ("max_ulp", 2.0),
        ("max_ulp", None),
        ("std", 0.0),
    ):
        assert len(disagreements(right | {column: wrong}, expected)) == 1, (column, wrong)
    assert disagreements({"l2": -0.0}, Expected({"l2": 0.0}))
