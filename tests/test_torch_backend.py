"""backends/torch against the oracle and the Rust engine: every dtype, column and option.

The same tests run on the CPU and, where there is one, on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path

import ckptdiff
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.accuracy import CASES, Case
from tests.compare import SUMS, assert_rows
from tests.dtypes import DTYPES, Dtype, encode, pack
from tests.engine import Rows, expected_diff, expected_stats
from tests.no_float64 import without_float64
from tests.oracle import Expected
from tests.samples import fitting, perturbed, prime_cycle, tame, wild
from tests.writers import Tensor, tensor, write_file

Tensors = dict[str, Tensor]

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)

#: Around a row of a sum, and around a chunk on the CPU.
LENGTHS = (0, 1, 2, 1023, 1024, 1025, 2**16 - 1, 2**16, 2**16 + 4)

#: Complex numbers have no order, and packed dtypes no codes that torch could see.
CASTS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")


@pytest.fixture(params=["cpu", "single", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """torch on the CPU, the same as if it had no float64, and a GPU."""
    if request.param == "single":
        with without_float64():
            yield "torch:cpu"
    else:
        yield "torch:cpu" if request.param == "cpu" else request.param


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def rows_of(report: ckptdiff.DiffReport | ckptdiff.StatsReport) -> Rows:
    return {name: dict(report[name]) for name in report.tensor_rows.values("name")}


def assert_as_the_engine(
    rows: Rows, engine: Rows, expected: Mapping[str, Expected], ignoring: Iterable[str] = ()
) -> None:
    """Counts, extremes and words are the very same; sums have the contract, by the oracle."""
    assert rows.keys() == engine.keys()
    for name, row in rows.items():
        assert row.keys() == engine[name].keys()
        exact = [column for column in row if column not in SUMS]
        ours = {column: repr(row[column]) for column in exact}
        assert ours == {column: repr(engine[name][column]) for column in exact}, name
    assert_rows(rows, expected, ignoring=ignoring)


def assert_diff(folder: Path, a: Tensors, b: Tensors, device: str, **options) -> None:
    path_a = write_file(folder / "a.safetensors", a, misalign=1)
    path_b = write_file(folder / "b.safetensors", b, misalign=3)
    engine = ckptdiff.diff(path_a, path_b, **options)
    report = ckptdiff.diff(path_a, path_b, device=device, **options)
    names = {k: v for k, v in options.items() if k != "histogram"}
    # the oracle says nothing of the bits that a NaN is cast to
    ignoring = ("bits_changed", "verdict") if options.get("cast") else ()
    expected = expected_diff(a, b, **names)
    assert_as_the_engine(rows_of(report), rows_of(engine), expected, ignoring)
    for name in a:
        assert report.histogram(name) == engine.histogram(name)


def assert_stats(folder: Path, a: Tensors, device: str, **options) -> None:
    path = write_file(folder / "a.safetensors", a, misalign=1)
    engine = ckptdiff.stats(path, **options)
    report = ckptdiff.stats(path, device=device, **options)
    assert_as_the_engine(rows_of(report), rows_of(engine), expected_stats(a))
    for name in a:
        assert report.histogram(name) == engine.histogram(name)


@every_dtype
def test_any_pattern(dtype: Dtype, device: str, tmp_path: Path) -> None:
    a: Tensors = {}
    b: Tensors = {}
    for seed, length in enumerate(LENGTHS):
        shape = (fitting(length, dtype),)
        a[f"wild.{length}"] = wild(dtype, shape, seed)
        b[f"wild.{length}"] = perturbed(a[f"wild.{length}"], seed)
        if length < 2**16:
            a[f"tame.{length}"] = tame(dtype, shape, seed)
            b[f"tame.{length}"] = tame(dtype, shape, seed + 1000)
            a[f"cycle.{length}"] = prime_cycle(dtype, shape)
            b[f"cycle.{length}"] = perturbed(a[f"cycle.{length}"], seed, share=1.5 / (length + 1))
    assert_diff(tmp_path, a, b, device)
    assert_stats(tmp_path, b, device)


@every_dtype
def test_beside_every_other_dtype(dtype: Dtype, device: str, tmp_path: Path) -> None:
    """Pairs that torch does not reduce are left to the engine, and the rows are there."""
    a: Tensors = {}
    b: Tensors = {}
    for seed, other in enumerate(DTYPES.values()):
        shape = (fitting(129, dtype, other),)
        a[f"{other.name}.wild"] = wild(dtype, shape, seed)
        b[f"{other.name}.wild"] = wild(other, shape, seed + 1)
        a[f"{other.name}.tame"] = tame(dtype, shape, seed)
        b[f"{other.name}.tame"] = tame(other, shape, seed)
    assert_diff(tmp_path, a, b, device)


@every_dtype
def test_options(dtype: Dtype, device: str, tmp_path: Path) -> None:
    a = {"wild": wild(dtype, (1028,), 1), "tame": tame(dtype, (1028,), 2)}
    b = {"wild": perturbed(a["wild"], 1), "tame": perturbed(a["tame"], 4, share=0.1)}
    thresholds = (0.0, 1e-8, 0.5, 1.0, 3e4, 2.0**63)
    for atol, rtol in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.25), (1e-3, 1e-2), (2.0**63, 0.0)):
        options = {"atol": atol, "rtol": rtol, "thresholds": thresholds, "histogram": True}
        assert_diff(tmp_path, a, b, device, **options)
    assert_stats(tmp_path, a, device, histogram=True)


@pytest.mark.parametrize("target", CASTS)
def test_casts(target: str, device: str, tmp_path: Path) -> None:
    a: Tensors = {}
    b: Tensors = {}
    for seed, dtype in enumerate(DTYPES.values()):
        if dtype.is_complex:
            continue
        shape = (fitting(700, dtype),)
        a[f"{dtype.name}.wild"] = wild(dtype, shape, seed)
        b[f"{dtype.name}.wild"] = perturbed(a[f"{dtype.name}.wild"], seed, share=0.5)
        a[f"{dtype.name}.other"] = a[f"{dtype.name}.wild"]
        b[f"{dtype.name}.other"] = wild(DTYPES["F32"], shape, seed)
    assert_diff(tmp_path, a, b, device, cast=target)


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "integers"],
                         ids=lambda case: case.name)  # fmt: skip
def test_accuracy(case: Case, device: str, tmp_path: Path) -> None:
    a, b = case.make(np.random.default_rng(2024), 70_001)
    sides: tuple[Tensors, Tensors] = {}, {}
    for name in case.dtypes:
        for side, data in zip(sides, (a, b), strict=True):
            side[name] = Tensor(name, (70_001,), encode(data, DTYPES[name]))
    assert_diff(tmp_path, *sides, device)
    assert_stats(tmp_path, sides[1], device)


def test_differences_beyond_the_range_of_float64(device: str, tmp_path: Path) -> None:
    largest = np.finfo(np.float64).max
    a = tensor([largest, -largest, 1e300, 0.0, 5e-324], "F64")
    b = tensor([-largest, largest, 1.0, 0.0, -5e-324], "F64")
    assert_diff(tmp_path, {"w": a}, {"w": b}, device, histogram=True)
    assert_stats(tmp_path, {"w": a}, device, histogram=True)


def test_the_ends_of_64_bit_integers(device: str, tmp_path: Path) -> None:
    ends = [-(2**63), 2**63 - 1, -1, 0, 2**53 + 1, -(2**53) - 3]
    signed = np.array([(x, y) for x in ends for y in ends], np.int64)
    unsigned = signed.view(np.uint64)
    sides = [
        {
            "I64": Tensor("I64", (36,), np.ascontiguousarray(signed[:, side]).tobytes()),
            "U64": Tensor("U64", (36,), np.ascontiguousarray(unsigned[:, side]).tobytes()),
        }
        for side in (0, 1)
    ]
    for atol in (0.0, 1.0, 2.0**53, 1.8446744073709550e19, 2.0**64):
        assert_diff(tmp_path, *sides, device, atol=atol, thresholds=(atol,), histogram=True)
    assert_stats(tmp_path, sides[0], device, histogram=True)


@pytest.mark.parametrize("at", [0, 1, 1024, 2**16 - 1, 2**16, 3 * 2**16])
def test_the_first_of_equal_differences_is_reported(at: int, device: str, tmp_path: Path) -> None:
    zeros = np.zeros((7, 29, 971))
    changed = zeros.copy()
    changed.reshape(-1)[[at, min(at + 1, zeros.size - 1), -2, -1]] = [2, -2, 2, -2]
    assert_diff(tmp_path, {"w": tensor(zeros)}, {"w": tensor(changed)}, device)
    assert_stats(tmp_path, {"w": tensor(changed)}, device)


@every_dtype
def test_shapes_of_no_and_of_many_dimensions(dtype: Dtype, device: str, tmp_path: Path) -> None:
    shapes = [(), (0,), (0, 5), (3, 0, 2), (1,), (1, 1, 1), (2, 3, 4), (5, 1, 4), (2,) * 8]
    fit = [shape for shape in shapes if prod(shape) % dtype.granule == 0]
    a = {str(shape): wild(dtype, shape, seed) for seed, shape in enumerate(fit)}
    b = {name: perturbed(t, 7, share=0.9) for name, t in a.items()}
    assert_diff(tmp_path, a, b, device)
    assert_stats(tmp_path, a, device)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensors, Tensors]:
    """A tensor of any dtype and length, of patterns that hypothesis chooses, and another."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    count = fitting(draw(st.integers(0, 40)), dtype)
    width = dtype.component_bits
    if dtype.name == "F64":
        # what overflows has a test of its own, as the oracle has
        patterns = st.floats(-1e300, 1e300).map(lambda v: int(np.float64(v).view(np.uint64)))
    elif dtype.kind == "bool":
        patterns = st.integers(0, 1)
    else:
        patterns = st.integers(0, 2**width - 1)
    sides = []
    for _ in range(2):
        drawn = draw(st.lists(patterns, min_size=count * dtype.components,
                              max_size=count * dtype.components))  # fmt: skip
        data = pack(np.array(drawn, np.uint64), dtype)
        sides.append({"w": Tensor(dtype.name, (count,), data)})
    return sides[0], sides[1]


@settings(max_examples=150, deadline=None)
@given(pair=pairs(), tolerance=st.floats(0, 10), cast=st.sampled_from([None, *CASTS]))
def test_whatever_is_in_them(
    tmp_path_factory: pytest.TempPathFactory,
    pair: tuple[Tensors, Tensors],
    tolerance: float,
    cast: str | None,
) -> None:
    assert_whatever(tmp_path_factory, pair, tolerance, cast)


@settings(max_examples=150, deadline=None)
@given(pair=pairs(), tolerance=st.sampled_from([0.0, 2.0**-60, 0.1, 0.5, 3.0, 2.0**40]))
def test_whatever_is_in_them_without_float64(
    tmp_path_factory: pytest.TempPathFactory, pair: tuple[Tensors, Tensors], tolerance: float
) -> None:
    with without_float64():
        assert_whatever(tmp_path_factory, pair, tolerance, None)


def assert_whatever(
    tmp_path_factory: pytest.TempPathFactory,
    pair: tuple[Tensors, Tensors],
    tolerance: float,
    cast: str | None,
) -> None:
    a, b = pair
    folder = tmp_path_factory.mktemp("pair", numbered=True)
    if DTYPES[a["w"].dtype].is_complex:
        cast = None
    options = {"atol": tolerance, "rtol": 0.1, "thresholds": (tolerance,), "histogram": True}
    assert_diff(folder, a, b, "torch:cpu", cast=cast, **options)
    assert_stats(folder, a, "torch:cpu", histogram=True)


def test_last_bits_do_not_depend_on_threads(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    a = write_file(tmp_path / "a.safetensors", {"w": tensor(rng.normal(0, 1, 300_000))})
    b = write_file(tmp_path / "b.safetensors", {"w": tensor(rng.normal(0, 1, 300_000))})
    texts = set()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        texts.add(ckptdiff.diff(a, b, device="torch:cpu").to_json())
        texts.add(ckptdiff.stats(a, device="torch:cpu").to_json())
    assert len(texts) == 2
