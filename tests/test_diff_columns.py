"""Every column of a diff, for every dtype and every pair of dtypes, against the oracle."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import pytest
from ckptdiff import _core
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compare import assert_rows
from tests.dtypes import DTYPES, Dtype, codes, encode, largest_finite, pack, smallest_normal
from tests.engine import ISA_LEVELS, diff_rows, expected_diff
from tests.oracle import DIFF_COLUMNS, cast_oracle
from tests.samples import CHUNK, LENGTHS, fitting, perturbed, prime_cycle, tame, wild
from tests.writers import Tensor, tensor, write_file

Tensors = dict[str, Tensor]

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def assert_diff(folder: Path, a: Tensors, b: Tensors, **options) -> None:
    """Write both sides, diff them at every ISA level, and hold every column against the oracle."""
    path_a = write_file(folder / "a.safetensors", a, misalign=1)
    path_b = write_file(folder / "b.safetensors", b, misalign=3)
    expected = expected_diff(a, b, **options)
    for isa in ISA_LEVELS:
        assert_rows(diff_rows(path_a, path_b, isa=isa, **options), expected, where=isa)


def test_the_columns_are_those_documented() -> None:
    assert tuple(_core.diff_column_names()) == DIFF_COLUMNS
    assert set(DTYPES) <= set(_core.dtype_names())


@every_dtype
def test_any_pattern_at_any_length(dtype: Dtype, tmp_path: Path) -> None:
    a: Tensors = {}
    b: Tensors = {}
    for seed, length in enumerate(LENGTHS):
        shape = (fitting(length, dtype),)
        a[f"wild.{length}"] = wild(dtype, shape, seed)
        b[f"wild.{length}"] = perturbed(a[f"wild.{length}"], seed)
        a[f"tame.{length}"] = tame(dtype, shape, seed)
        b[f"tame.{length}"] = tame(dtype, shape, seed + 1000)
        a[f"cycle.{length}"] = prime_cycle(dtype, shape)
        b[f"cycle.{length}"] = perturbed(a[f"cycle.{length}"], seed, share=1.5 / (length + 1))
    assert_diff(tmp_path, a, b)


@pytest.mark.parametrize(
    "dtype", [d for d in DTYPES.values() if d.bits <= 16], ids=lambda d: d.name
)
def test_every_bit_pattern(dtype: Dtype, tmp_path: Path) -> None:
    """All patterns of the 8- and 16-bit dtypes, against itself, its reverse and a rotation."""
    count = 2 if dtype.kind == "bool" else max(256, 1 << dtype.bits)
    patterns = np.arange(count) % (1 << dtype.bits)
    forward = Tensor(dtype.name, (count,), pack(patterns, dtype))
    others = {"same": patterns, "reverse": patterns[::-1], "rotated": np.roll(patterns, 1)}
    a = dict.fromkeys(others, forward)
    b = {name: Tensor(dtype.name, (count,), pack(p, dtype)) for name, p in others.items()}
    assert_diff(tmp_path, a, b)


@pytest.mark.parametrize("dtype_a", DTYPES.values(), ids=lambda dtype: dtype.name)
@every_dtype
def test_every_pair_of_dtypes(dtype: Dtype, dtype_a: Dtype, tmp_path: Path) -> None:
    """Equal values in two dtypes, nearly equal ones, and unrelated patterns."""
    a: Tensors = {}
    b: Tensors = {}
    for seed, length in enumerate((0, 4, 36, 1028, 2052)):
        shape = (fitting(length, dtype, dtype_a),)
        rng = np.random.default_rng(seed)
        # 1, 2 and 4 exist in every dtype but BOOL, which takes them all as true.
        small = np.exp2(rng.integers(0, 3, prod(shape) * dtype_a.components))
        single = small.reshape(-1, dtype_a.components)
        if dtype_a.is_complex and not dtype.is_complex:
            single = single * [1, 0]
        a[f"equal.{length}"] = Tensor(dtype_a.name, shape, encode(single.ravel(), dtype_a))
        real = np.zeros((prod(shape), dtype.components))
        real[:, : single.shape[1]] = single[:, : dtype.components]
        b[f"equal.{length}"] = Tensor(dtype.name, shape, encode(real.ravel(), dtype))
        a[f"tame.{length}"] = tame(dtype_a, shape, seed)
        b[f"tame.{length}"] = tame(dtype, shape, seed)
        a[f"wild.{length}"] = wild(dtype_a, shape, seed)
        b[f"wild.{length}"] = wild(dtype, shape, seed + 1000)
    assert_diff(tmp_path, a, b)


@pytest.mark.parametrize("name", ["BF16", "F32", "F64", "I64", "C64", "F4", "F6_E3M2", "U8"])
def test_lengths_around_a_chunk(name: str, tmp_path: Path) -> None:
    dtype = DTYPES[name]
    a: Tensors = {}
    b: Tensors = {}
    for seed, length in enumerate((CHUNK - 1, CHUNK, CHUNK + 1)):
        shape = (fitting(length, dtype),)
        a[str(length)] = tame(dtype, shape, seed)
        # Few changes, the last in the last element: an edge that is lost, or read twice, shows.
        patterns = codes(perturbed(a[str(length)], seed, share=1e-5).data, dtype).copy()
        patterns[-1] ^= 1
        b[str(length)] = Tensor(name, shape, pack(patterns, dtype))
    assert_diff(tmp_path, a, b)


@pytest.mark.parametrize("at", [0, 1, 1023, 1024, CHUNK - 1, CHUNK, 2 * CHUNK, 2 * CHUNK + 4])
def test_the_first_of_equal_differences_is_reported(at: int, tmp_path: Path) -> None:
    """Ties within a lane, across lanes, across blocks and across chunks."""
    zeros = np.zeros((3, 7, 99873))
    assert zeros.size > 2 * CHUNK + 4
    changed = zeros.copy()
    changed.reshape(-1)[[at, min(at + 1, zeros.size - 1), -2, -1]] = [2, -2, 2, -2]
    assert_diff(tmp_path, {"w": tensor(zeros)}, {"w": tensor(changed)})


@every_dtype
def test_shapes_of_no_and_of_many_dimensions(dtype: Dtype, tmp_path: Path) -> None:
    shapes = [(), (0,), (0, 5), (3, 0, 2), (1,), (1, 1, 1), (2, 3, 4), (5, 1, 4), (2,) * 8]
    fit = [shape for shape in shapes if prod(shape) % dtype.granule == 0]
    a = {str(shape): wild(dtype, shape, seed) for seed, shape in enumerate(fit)}
    b = {name: perturbed(t, 7, share=0.9) for name, t in a.items()}
    assert_diff(tmp_path, a, b)


@every_dtype
@pytest.mark.parametrize(("atol", "rtol"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.25), (1e-3, 1e-2)])
def test_tolerances(dtype: Dtype, atol: float, rtol: float, tmp_path: Path) -> None:
    a = {"wild": wild(dtype, (1028,), 1), "tame": tame(dtype, (1028,), 2)}
    a["near"] = a["tame"]
    b = {
        "wild": perturbed(a["wild"], 1),
        "tame": tame(dtype, (1028,), 3),
        "near": perturbed(a["near"], 4, share=0.01),
    }
    assert_diff(tmp_path, a, b, atol=atol, rtol=rtol)


def test_the_tolerance_is_exclusive_and_within_is_a_verdict(tmp_path: Path) -> None:
    """|d| == atol + rtol |a| is within; a hair more is out; a NaN on one side is never within."""
    a = {
        "at_the_limit": tensor([1.0, 2.0], "F64"),
        "a_hair_more": tensor([1.0, 2.0], "F64"),
        "nan_beside": tensor([1.0, 2.0], "F64"),
        "negative": tensor([-4.0], "F64"),
    }
    b = {
        "at_the_limit": tensor([1.75, 3.0], "F64"),
        "a_hair_more": tensor([np.nextafter(1.75, 2), 3.0], "F64"),
        "nan_beside": tensor([1.0, np.nan], "F64"),
        "negative": tensor([-5.5], "F64"),
    }
    assert_diff(tmp_path, a, b, atol=0.5, rtol=0.25)
    rows = diff_rows(tmp_path / "a.safetensors", tmp_path / "b.safetensors", atol=0.5, rtol=0.25)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "at_the_limit": "within_tolerance",
        "a_hair_more": "different",
        "nan_beside": "different",
        "negative": "within_tolerance",
    }


@every_dtype
def test_thresholds(dtype: Dtype, tmp_path: Path) -> None:
    thresholds = (0.0, 1e-08, 1e-4, 0.5, 1.0, 3.0, 1e30)
    a = {"tame": tame(dtype, (2052,), 2), "wild": wild(dtype, (2052,), 1)}
    b = {"tame": perturbed(a["tame"], 3), "wild": perturbed(a["wild"], 1)}
    assert_diff(tmp_path, a, b, thresholds=thresholds)


def test_the_exact_extremes_of_64_bit_integers(tmp_path: Path) -> None:
    low, high, top = -(2**63), 2**63 - 1, 2**64 - 1
    signed = np.array([low, high, 2**53, 0, -1], np.int64)
    signed_b = np.array([high, low, 2**53 + 1, 0, 1], np.int64)
    unsigned = np.array([top, 0, 2**53 + 1, 2**63, 1], np.uint64)
    floats = np.array([2.0**53, -(2.0**63), 2.0**63, 0.1, -1e300])
    sides = {
        "I64": Tensor("I64", (5,), signed.tobytes()),
        "I64b": Tensor("I64", (5,), signed_b.tobytes()),
        "U64": Tensor("U64", (5,), unsigned.tobytes()),
        "F64": Tensor("F64", (5,), floats.tobytes()),
    }
    a = {f"{x}-{y}": sides[x] for x in sides for y in sides}
    b = {f"{x}-{y}": sides[y] for x in sides for y in sides}
    assert_diff(tmp_path, a, b)
    rows = diff_rows(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert rows["I64-U64"]["max_abs"] == top - low
    assert rows["I64-I64b"]["changed"] == 4


@pytest.mark.parametrize("name", ["F16", "BF16", "F32", "F64", "C64", "F8_E5M2"])
def test_the_ends_of_the_range(name: str, tmp_path: Path) -> None:
    """Differences and squares of the largest and smallest values neither overflow nor vanish."""
    dtype = DTYPES[name]
    large, small = float(largest_finite(dtype)), smallest_normal(dtype)
    tiny = pack(np.array([1]), dtype)
    cases = {
        "opposite": ([large, -large], [-large, large]),
        "same": ([large, -large], [large, -large]),
        "half": ([large, large], [large / 2, large]),
        "small": ([small, 0], [0, small]),
        "mixed": ([large, small], [large, -small]),
    }
    a: Tensors = {}
    b: Tensors = {}
    for repeat in (1, 8, 600):
        for case, (x, y) in cases.items():
            key = f"{case}.{repeat}"
            shape = (2 * repeat // dtype.components,)
            a[key] = Tensor(name, shape, encode(np.tile(x, repeat), dtype))
            b[key] = Tensor(name, shape, encode(np.tile(y, repeat), dtype))
        size = len(tiny) * 2 * repeat
        shape = (2 * repeat // dtype.components,)
        a[f"tiny.{repeat}"] = Tensor(name, shape, bytes(size))
        b[f"tiny.{repeat}"] = Tensor(name, shape, tiny * 2 * repeat)
    assert_diff(tmp_path, a, b)


def test_signs_flip_even_where_the_product_underflows(tmp_path: Path) -> None:
    a = {"F64": tensor([1e-300, -1e-200, 0.0, -0.0], "F64"), "F32": tensor([1e-40, -1e-45])}
    b = {"F64": tensor([-1e-300, 1e-200, -1.0, 1.0], "F64"), "F32": tensor([-1e-40, 1e-45])}
    assert_diff(tmp_path, a, b)
    rows = diff_rows(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (rows["F64"]["sign_flips"], rows["F32"]["sign_flips"]) == (2, 2)


def test_what_is_not_finite_is_counted_and_poisons_nothing(tmp_path: Path) -> None:
    nan, inf = np.nan, np.inf
    a = {"w": tensor([nan, nan, 1.0, inf, inf, -inf, 0.0, 3.0, inf])}
    b = {"w": tensor([nan, 1.0, nan, inf, -inf, 5.0, inf, 4.0, nan])}
    assert_diff(tmp_path, a, b)
    row = diff_rows(tmp_path / "a.safetensors", tmp_path / "b.safetensors")["w"]
    assert (row["nan_a"], row["nan_b"], row["inf_a"], row["inf_b"]) == (2, 3, 4, 3)
    assert (row["changed"], row["nonfinite_mismatch"], row["l2"]) == (7, 6, 1.0)


def test_any_byte_but_zero_is_true(tmp_path: Path) -> None:
    """A BOOL byte of 2 is true, as in numpy and torch: equal to 1 in value, and not in bits."""
    rng = np.random.default_rng(4)
    a = {"w": Tensor("BOOL", (2100,), rng.bytes(2100)), "v": Tensor("BOOL", (3,), b"\x01\x00\xff")}
    b = {"w": Tensor("BOOL", (2100,), rng.bytes(2100)), "v": Tensor("BOOL", (3,), b"\x02\x00\x80")}
    assert_diff(tmp_path, a, b)
    row = diff_rows(tmp_path / "a.safetensors", tmp_path / "b.safetensors")["v"]
    assert (row["verdict"], row["changed"], row["bits_changed"]) == ("equal", 0, 2)


def test_words_of_equality(tmp_path: Path) -> None:
    """bit_identical, equal and different are three words."""
    payload = np.array([0x7FC00001], "<u4").view("<f4")
    a = {
        "same": tensor([1.0, np.nan]),
        "zero_sign": tensor([0.0, 1.0]),
        "nan_payload": tensor([np.nan]),
        "two_dtypes": tensor([1.0, 2.0], "BF16"),
        "off": tensor([1.0]),
    }
    b = {
        "same": tensor([1.0, np.nan]),
        "zero_sign": tensor([-0.0, 1.0]),
        "nan_payload": Tensor("F32", (1,), payload.tobytes()),
        "two_dtypes": tensor([1.0, 2.0], "F32"),
        "off": tensor([1.5]),
    }
    assert_diff(tmp_path, a, b)
    rows = diff_rows(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert {name: (row["verdict"], row["bits_changed"]) for name, row in rows.items()} == {
        "same": ("bit_identical", 0),
        "zero_sign": ("equal", 1),
        "nan_payload": ("equal", 1),
        "two_dtypes": ("equal", None),
        "off": ("different", 1),
    }


CASTABLE = tuple(_core.cast_dtype_names())


@pytest.mark.parametrize("target", CASTABLE)
@pytest.mark.parametrize(
    "dtype", [d for d in DTYPES.values() if not d.is_complex], ids=lambda d: d.name
)
def test_cast_rounds_both_sides_to_nearest_even(dtype: Dtype, target: str, tmp_path: Path) -> None:
    """Patterns at random, all values of small dtypes, and the exact cast of a side."""
    a = {"wild": wild(dtype, (1028,), 1), "tame": tame(dtype, (1028,), 2)}
    b = {"wild": perturbed(a["wild"], 1), "tame": tame(DTYPES["F32"], (1028,), 3)}
    # NaN becomes NaN, but with which payload no standard says: bits are held on finite values.
    path_a = write_file(tmp_path / "a.safetensors", a)
    path_b = write_file(tmp_path / "b.safetensors", b)
    rows = diff_rows(path_a, path_b, cast=target)
    expected = expected_diff(a, b, cast=target)
    tame_only = {"tame": expected["tame"]}
    assert_rows({"tame": rows["tame"]}, tame_only)
    assert_rows(rows, expected, ignoring=("bits_changed", "verdict"))


def midpoints(target: Dtype) -> np.ndarray:
    """In F64: every value of a small dtype, every midpoint, and the neighbours of the midpoints."""
    patterns = np.arange(1 << (target.bits - 1), dtype=target.code_type)
    with np.errstate(invalid="ignore"):
        values = patterns.view(target.scalar).astype(np.float64)
    values = values[np.isfinite(values)]
    steps = np.append(values, 2 * values[-1] - values[-2])
    middle = (steps[1:] + steps[:-1]) / 2
    around = [values, middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf)]
    positive = np.concatenate(around)
    return np.concatenate([positive, -positive, [np.inf, -np.inf]])


@pytest.mark.parametrize("target", [name for name in CASTABLE if DTYPES[name].bits <= 16])
@pytest.mark.parametrize("source", ["F64", "F32"])
def test_cast_at_every_midpoint(target: str, source: str, tmp_path: Path) -> None:
    """Ties go to even, and a value a hair from a tie is not rounded twice (through float32)."""
    values = midpoints(DTYPES[target])
    a = {"w": tensor(values, source)}
    # The oracle's rounding is stored in the dtype itself, which casting leaves as it is: equal bits
    # in every position, where a sum would hide a wrong tie behind its neighbours.
    b = {"w": cast_oracle(a["w"], target)}
    path_a = write_file(tmp_path / "a.safetensors", a)
    path_b = write_file(tmp_path / "b.safetensors", b)
    row = diff_rows(path_a, path_b, cast=target)["w"]
    assert (row["changed"], row["bits_changed"]) == (0, 0)
    assert_rows({"w": row}, expected_diff(a, b, cast=target))


def test_cast_tells_whether_a_file_is_the_rounded_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    exact = rng.normal(0, 0.02, 5000).astype(np.float32)
    truncated = ((exact.view("<u4") >> 16) << 16).view("<f4")
    a = {"rounded": tensor(exact), "truncated": tensor(exact), "with_nan": tensor([np.nan, 1.0])}
    b = {
        "rounded": tensor(exact, "BF16"),
        "truncated": tensor(truncated, "BF16"),
        "with_nan": Tensor("BF16", (2,), b"\xc0\x7f\x80\x3f"),  # the quiet NaN, and 1
    }
    path_a = write_file(tmp_path / "a.safetensors", a)
    path_b = write_file(tmp_path / "b.safetensors", b)
    rows = diff_rows(path_a, path_b, cast="BF16")
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "rounded": "bit_identical",
        "truncated": "different",
        "with_nan": "bit_identical",
    }
    assert (rows["rounded"]["dtype_a"], rows["rounded"]["dtype_b"]) == ("F32", "BF16")


@given(data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_pair(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any dtypes, shape and bytes at all."""
    dtype_a = data.draw(st.sampled_from(list(DTYPES.values())), "dtype_a")
    dtype_b = data.draw(st.sampled_from([dtype_a, *DTYPES.values()]), "dtype_b")
    shape = tuple(data.draw(st.lists(st.integers(0, 6), max_size=4), "shape"))
    granule = max(dtype_a.granule, dtype_b.granule)
    if prod(shape) % granule:
        shape = (*shape, granule)

    def raw(dtype: Dtype) -> bytes:
        size = dtype.nbytes(prod(shape))
        drawn = data.draw(st.binary(min_size=size, max_size=size))
        return bytes(byte & 1 for byte in drawn) if dtype.kind == "bool" else drawn

    data_a = raw(dtype_a)
    data_b = raw(dtype_b)
    if dtype_a == dtype_b and data.draw(st.booleans(), "mostly equal"):
        keep = data.draw(st.integers(0, len(data_a)), "equal bytes")
        data_b = data_a[:keep] + data_b[keep:]
    a = {"w": Tensor(dtype_a.name, shape, data_a)}
    b = {"w": Tensor(dtype_b.name, shape, data_b)}
    assert_diff(tmp_path_factory.mktemp("any"), a, b)
