"""Every column of stats, for every dtype, against the oracle."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import pytest
from ckptdiff import _core
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compare import assert_rows
from tests.dtypes import DTYPES, Dtype, encode, largest_finite, pack, smallest_normal
from tests.engine import ISA_LEVELS, expected_stats, stats_rows
from tests.oracle import STATS_COLUMNS
from tests.samples import CHUNK, LENGTHS, fitting, prime_cycle, tame, wild
from tests.writers import Tensor, tensor, write_file

Tensors = dict[str, Tensor]

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def assert_stats(folder: Path, a: Tensors) -> None:
    """Write a file, take its stats at every ISA level, and hold every column against the oracle."""
    path = write_file(folder / "a.safetensors", a, misalign=5)
    expected = expected_stats(a)
    for isa in ISA_LEVELS:
        assert_rows(stats_rows(path, isa=isa), expected, where=isa)


def test_the_columns_are_those_documented() -> None:
    assert tuple(_core.stats_column_names()) == STATS_COLUMNS


@every_dtype
def test_any_pattern_at_any_length(dtype: Dtype, tmp_path: Path) -> None:
    a: Tensors = {}
    for seed, length in enumerate(LENGTHS):
        shape = (fitting(length, dtype),)
        a[f"wild.{length}"] = wild(dtype, shape, seed)
        a[f"tame.{length}"] = tame(dtype, shape, seed)
        a[f"cycle.{length}"] = prime_cycle(dtype, shape)
    assert_stats(tmp_path, a)


@pytest.mark.parametrize(
    "dtype", [d for d in DTYPES.values() if d.bits <= 16], ids=lambda d: d.name
)
def test_every_bit_pattern(dtype: Dtype, tmp_path: Path) -> None:
    """All patterns of the 8- and 16-bit dtypes at once, and each 8-bit pattern alone."""
    count = 2 if dtype.kind == "bool" else 1 << dtype.bits
    a = {"all": Tensor(dtype.name, (count,), pack(np.arange(count), dtype))}
    if dtype.bits <= 8:
        for pattern in range(count):
            one = np.full(dtype.granule, pattern)
            a[f"only.{pattern}"] = Tensor(dtype.name, one.shape, pack(one, dtype))
    assert_stats(tmp_path, a)


@pytest.mark.parametrize("name", ["BF16", "F32", "F64", "I64", "C64", "F4", "F6_E3M2", "U8"])
def test_lengths_around_a_chunk(name: str, tmp_path: Path) -> None:
    dtype = DTYPES[name]
    a: Tensors = {}
    for seed, length in enumerate((CHUNK - 1, CHUNK, CHUNK + 1)):
        shape = (fitting(length, dtype),)
        ordinary = tame(dtype, shape, seed)
        # The extreme stands in the last element: an edge that is lost shows.
        last = encode(np.full(dtype.granule * dtype.components, largest_finite(dtype)), dtype)
        a[str(length)] = Tensor(name, shape, ordinary.data[: -len(last)] + last)
    assert_stats(tmp_path, a)


@pytest.mark.parametrize("at", [0, 1, 1023, 1024, CHUNK - 1, CHUNK, 2 * CHUNK, 2 * CHUNK + 4])
def test_the_first_of_equal_magnitudes_is_reported(at: int, tmp_path: Path) -> None:
    values = np.zeros((3, 7, 99873))
    values.reshape(-1)[[at, min(at + 1, values.size - 1), -2, -1]] = [-2, 2, 2, -2]
    assert_stats(tmp_path, {"w": tensor(values)})


@every_dtype
def test_shapes_of_no_and_of_many_dimensions(dtype: Dtype, tmp_path: Path) -> None:
    shapes = [(), (0,), (0, 5), (3, 0, 2), (1,), (1, 1, 1), (2, 3, 4), (5, 1, 4), (2,) * 8]
    fit = [shape for shape in shapes if prod(shape) % dtype.granule == 0]
    assert_stats(tmp_path, {str(s): wild(dtype, s, seed) for seed, s in enumerate(fit)})


@pytest.mark.parametrize("dtype", [d for d in DTYPES.values() if not d.is_integer], ids=str)
def test_the_ends_of_the_range(dtype: Dtype, tmp_path: Path) -> None:
    large = float(largest_finite(dtype))
    small = float(smallest_normal(dtype))
    sign = 1 if dtype.name == "F8_E8M0" else -1
    a: Tensors = {}
    for repeat in (4, 40, 2000):
        for case, pair in {
            "largest": [large, sign * large],
            "one_sided": [large, large / 2],
            "smallest": [small, sign * small],
            "halves": [small, small / 2],
            "all_largest": [large, large],
        }.items():
            values = np.tile(pair, repeat)
            shape = (values.size // dtype.components,)
            a[f"{case}.{repeat}"] = Tensor(dtype.name, shape, encode(values, dtype))
        step = np.full(4 * repeat, 1)
        shape = (step.size // dtype.components,)
        a[f"tiny.{repeat}"] = Tensor(dtype.name, shape, pack(step, dtype))
    assert_stats(tmp_path, a)


@every_dtype
def test_a_constant_has_no_spread(dtype: Dtype, tmp_path: Path) -> None:
    """Its std is 0 whatever its mean rounds to, and its skewness and kurtosis have no value."""
    a: Tensors = {}
    for length in (1, 3, 1000, 1025, 5000):
        for value in (0.1, 1.0, 3.0, 1 / 3):
            length = fitting(length, dtype)
            values = np.full(length * dtype.components, value)
            a[f"{value}.{length}"] = Tensor(dtype.name, (length,), encode(values, dtype))
    assert_stats(tmp_path, a)


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("offset", [1.0, 30.0, -1000.0])
def test_spread_far_smaller_than_the_mean(name: str, offset: float, tmp_path: Path) -> None:
    """The weights of a norm layer lie near 1: power sums about 0 would cancel."""
    rng = np.random.default_rng(11)
    a = {str(size): tensor(offset + rng.normal(0, 1e-2, size), name) for size in (5, 2048, 100_000)}
    assert_stats(tmp_path, a)


def test_what_is_not_finite_is_counted_and_poisons_nothing(tmp_path: Path) -> None:
    values = [np.nan, np.inf, -np.inf, -np.inf, 1.0, -3.0, 0.0, -0.0]
    a = {"w": tensor(values), "none_finite": tensor([np.nan, np.inf])}
    assert_stats(tmp_path, a)
    row = stats_rows(tmp_path / "a.safetensors")["w"]
    assert (row["nan"], row["pos_inf"], row["neg_inf"]) == (1, 1, 2)
    assert (row["zeros"], row["negatives"], row["l1"], row["mean"]) == (2, 1, 4.0, -0.5)


def test_any_byte_but_zero_is_true(tmp_path: Path) -> None:
    raw = np.random.default_rng(4).bytes(2100)
    assert_stats(tmp_path, {"w": Tensor("BOOL", (2100,), raw), "v": Tensor("BOOL", (1,), b"\xff")})


def test_the_exact_extremes_of_64_bit_integers(tmp_path: Path) -> None:
    signed = np.array([-(2**63), 2**63 - 1, 2**53 + 1], np.int64)
    unsigned = np.array([2**64 - 1, 2**64 - 2, 2**53 + 1], np.uint64)
    a = {
        "I64": Tensor("I64", (3,), signed.tobytes()),
        "U64": Tensor("U64", (3,), unsigned.tobytes()),
        "odd": Tensor("I64", (1,), signed[2:].tobytes()),
    }
    assert_stats(tmp_path, a)
    rows = stats_rows(tmp_path / "a.safetensors")
    assert rows["I64"]["abs_max"] == 2**63
    assert rows["U64"]["min"] == 2**53 + 1
    assert rows["odd"]["max"] == 2**53 + 1


@given(data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_tensor(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    dtype = data.draw(st.sampled_from(list(DTYPES.values())), "dtype")
    shape = tuple(data.draw(st.lists(st.integers(0, 6), max_size=4), "shape"))
    if prod(shape) % dtype.granule:
        shape = (*shape, dtype.granule)
    size = dtype.nbytes(prod(shape))
    raw = data.draw(st.binary(min_size=size, max_size=size))
    if dtype.kind == "bool":
        raw = bytes(byte & 1 for byte in raw)
    a = {"w": Tensor(dtype.name, shape, raw)}
    assert_stats(tmp_path_factory.mktemp("any"), a)
