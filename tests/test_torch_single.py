"""Devices without float64: what is told exactly by pairs of float32, what is brought to the CPU.

``test_torch_backend`` holds them to the same suite as any device. Here is what decides between the
two ways, and data on which float32 alone, or float64's own rounding, would tell another story.
"""

from __future__ import annotations

from contextlib import nullcontext
from math import prod
from pathlib import Path
from typing import Any

import ckptdiff
import numpy as np
import pytest
import torch
from ckptdiff.backends.torch import run
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.accuracy import CASES, errors
from tests.dtypes import DTYPES, encode
from tests.engine import expected_diff, expected_stats
from tests.no_float64 import without_float64
from tests.oracle import DIFF_SUMS, STATS_SUMS, diff_oracle, stats_oracle
from tests.samples import tame
from tests.test_torch_backend import assert_as_the_engine, assert_diff, assert_stats, rows_of
from tests.test_torch_devices import on_a_device
from tests.writers import Tensor, tensor, write_file

#: Differences of these need all bits of a pair, or more than float64 has, and many are equal.
VALUES = (
    0.0, -0.0, 1.0, -1.0, 1.0 + 2.0**-23, 1.0 - 2.0**-24, 0.5, 2.0, 0.1, -0.1, 3.0, 2.0**-25,
    2.0**-28, -(2.0**-29), 2.0**-30, 2.0**-31, 2.0**-53, 2.0**-60, 2.0**-61, 2.0**-100,
    -(2.0**-101), 2.0**-126, 2.0**-127, 2.0**-149, -(2.0**-149), 2.0**100,
    float("inf"), float("-inf"), float("nan"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_subnormals_are_zeros_to_the_stand_in() -> None:
    """The control: without it, the tests would prove nothing of a device that does so."""
    assert torch.set_flush_denormal(True)
    try:
        assert not (torch.full((64,), 1e-40) > 0).any()
    finally:
        torch.set_flush_denormal(False)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.tuples(*[st.sampled_from(VALUES)] * 2), min_size=1, max_size=12),
    dtypes=st.sampled_from([("F32", "F32"), ("BF16", "BF16"), ("F16", "F32"), ("C64", "C64"),
                            ("F8_E5M2", "BF16")]),
    atol=st.sampled_from((0.0, 0.1, 1.0, 1 + 2.0**-30, 1 + 2.0**-50, 2.0**-60)),
    rtol=st.sampled_from((0.0, 0.1, 0.25, 1.0, 1 - 2.0**-50)),
)  # fmt: skip
def test_differences_at_the_end_of_precision(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[tuple[float, float]],
    dtypes: tuple[str, str],
    atol: float,
    rtol: float,
) -> None:
    folder = tmp_path_factory.mktemp("pair", numbered=True)
    sides = []
    for side, name in enumerate(dtypes):
        dtype = DTYPES[name]
        numbers = np.array([pair[side] for pair in values] * dtype.components)
        with np.errstate(all="ignore"):
            sides.append({"w": Tensor(name, (len(values),), encode(numbers, dtype))})
    thresholds = (0.0, 2.0**-60, 0.5, 1.0, 1.0 + 2.0**-40)
    with without_float64() as chunks:
        assert_diff(
            folder, *sides, "torch:cpu", atol=atol, rtol=rtol, thresholds=thresholds, histogram=True
        )
        assert_stats(folder, sides[0], "torch:cpu", histogram=True)
    assert chunks["reduced"] == 2


#: Subnormals of 32, 16 and 8 bits, magnitudes whose squares leave float32, ends of ranges.
MIXED = (
    0.0, -0.0, 1.0, -1.0, 0.1, -0.3, 3.0, 7.0, 127.0, -128.0, 255.0, 448.0, -57344.0, 65504.0,
    6e-8, -3e-5, 1e-40, -1.4e-45, 1.2e-38, 1e30, -1e30, 3e38, 1e-30, -1e-30, 1e15, 2.0**24 + 2,
    float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
ORDINARY = MIXED[2:12]


@st.composite
def laid_anyhow(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tensors of one dtype and shape, of which each lies in memory in a way of its own."""
    # all that the oracle knows
    known = [encoding for encoding in run.ENCODINGS.values() if encoding.name in DTYPES]
    dtype = draw(st.sampled_from(known)).torch_dtype
    shape = draw(st.sampled_from([(), (0,), (1,), (5,), (0, 3), (2, 3), (3, 1, 4), (7, 5), (40,)]))
    pool = draw(st.sampled_from([MIXED, ORDINARY, (1e30, -1e30, 3e29), (1e-30, -2e-30)]))
    sides = []
    for _ in range(2):
        if len(shape) < 2:
            way = draw(st.sampled_from(["plain", "every other"]))
        else:
            way = draw(st.sampled_from(["plain", "every other", "turned", "expanded"]))
        values = torch.tensor(
            draw(st.lists(st.sampled_from(pool), min_size=prod(shape), max_size=prod(shape))),
            dtype=torch.float64,
        ).reshape(shape)
        if not (dtype.is_floating_point or dtype.is_complex):
            info = torch.iinfo(dtype) if dtype != torch.bool else torch.iinfo(torch.uint8)
            low, high = max(info.min, -(2**40)), min(info.max, 2**40)
            values = values.nan_to_num(3.0).clamp(low, high).to(torch.int64)
        tensor = values.to(dtype)
        if way == "every other" and shape:
            doubled = torch.stack([tensor, tensor], dim=len(shape))
            tensor = doubled.reshape(*shape[:-1], 2 * shape[-1])[..., ::2]
        elif way == "turned":
            tensor = tensor.transpose(0, -1).contiguous().transpose(0, -1)
        elif way == "expanded":
            tensor = tensor[:1].expand(shape)
        sides.append(tensor)
    return sides[0], sides[1]


def as_stored(value: torch.Tensor) -> dict[str, Tensor]:
    name = next(e.name for e in run.ENCODINGS.values() if e.torch_dtype == value.dtype)
    flat = value.clone(memory_format=torch.contiguous_format).reshape(-1)
    return {"w": Tensor(name, tuple(value.shape), flat.view(torch.uint8).numpy().tobytes())}


@settings(max_examples=150, deadline=None)
@given(
    sides=laid_anyhow(),
    chunk=st.sampled_from([2, 6, 1 << 16]),
    single=st.booleans(),
    atol=st.sampled_from([0.0, 0.5]),
)
def test_every_dtype_in_any_order_and_many_chunks(
    sides: tuple[torch.Tensor, torch.Tensor], chunk: int, single: bool, atol: float
) -> None:
    a, b = sides
    options: dict[str, Any] = {"atol": atol, "thresholds": (0.0, 0.25), "histogram": True}
    engine, of_stats = ckptdiff.diff({"w": a}, {"w": b}, **options), ckptdiff.stats({"w": a})
    held_a, held_b = (on_a_device({"w": side}) for side in sides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "CPU_CHUNK_FLOATS", chunk)
        with without_float64() if single else nullcontext():
            report = ckptdiff.diff(held_a, held_b, **options)
            stats = ckptdiff.stats(held_a)
    stored = as_stored(a), as_stored(b)
    expected = expected_diff(*stored, atol=atol, thresholds=(0.0, 0.25))
    assert_as_the_engine(rows_of(report), rows_of(engine), expected)
    assert_as_the_engine(rows_of(stats), rows_of(of_stats), expected_stats(stored[0]))
    assert report.histogram("w") == engine.histogram("w")


@pytest.mark.parametrize(
    ("a", "b", "at_risk"),
    [
        ([0.1, -3.0, 1e-40, float("nan")], [0.2, 4.0, -1e-40, float("inf")], False),
        ([1e38, 1.0], [1e36, 2.0], True),
        ([1e-20, 0.0], [0.0, 1e-19], True),
        ([0.0, 0.0], [0.0, -0.0], False),
        ([0.0, 0.0], [0.0, 1e-45], True),
        ([1.0, 1.0], [1.0, 1.0 + 2.0**-23], False),
        # ordinary sides, and a difference that is not
        ([2.0**-50, 0.0], [2.0**-50 + 2.0**-73, 0.0], True),
        # equal in float64: the first is reported, not the larger
        ([1.0, 1.0], [-(2.0**-54), -(2.0**-53)], True),
        ([1.0, 1.0], [-(2.0**-27), -(2.0**-26)], False),
        # the largest is less than its head
        ([0.0, 1.0, 0.0], [0.0, 2.0**-27, 0.0], False),
    ],
)
def test_a_chunk_at_risk_is_brought_to_the_cpu(
    a: list[float], b: list[float], at_risk: bool, tmp_path: Path
) -> None:
    with without_float64() as chunks:
        assert_diff(tmp_path, {"w": tensor(a, "F32")}, {"w": tensor(b, "F32")}, "torch:cpu")
    assert chunks == {"reduced": 1, "at risk": int(at_risk)}


@pytest.mark.parametrize(
    ("options", "at_risk"),
    [
        ({"thresholds": (1.0,)}, 0),
        ({"atol": 1.0}, 0),
        ({"rtol": 0.3}, 0),
        ({"rtol": 0.25}, 1),  # exactly the limit
        ({"rtol": 0.25, "atol": 2.0**-50}, 1),
        ({"histogram": True}, 0),
        ({"atol": 1e-30}, None),
        ({"thresholds": (1e-30,)}, None),
        ({"rtol": 2.0}, None),
        ({"cast": "BF16"}, None),
    ],
)
def test_options_that_are_told_in_float32(
    options: dict[str, Any], at_risk: int | None, tmp_path: Path
) -> None:
    """None is for those that are not tried, as they need float64."""
    sides = [{"w": tensor(values, "F32")} for values in ([4.0, 3.0, 0.0], [5.0, 3.5, 0.0])]
    with without_float64() as chunks:
        assert_diff(tmp_path, *sides, "torch:cpu", **options)
    assert chunks == {"reduced": int(at_risk is not None), "at risk": at_risk or 0}


@pytest.mark.parametrize(
    ("limit", "b", "at_risk"),
    [
        (1.0, -(2.0**-54), 1),
        (1.0 + 2.0**-35, -(2.0**-35 + 2.0**-58), 1),
        (1.0 + 2.0**-25 - 2.0**-52, -(2.0**-25), 0),
        (1.0, -(2.0**-25), 0),
    ],
)
def test_differences_next_to_a_limit(limit: float, b: float, at_risk: int, tmp_path: Path) -> None:
    """Of which the first is equal to it in float64, and none is the largest."""
    sides = [{"w": tensor(values, "F32")} for values in ([1.0, 0.0], [b, 5.0])]
    for options in ({"atol": limit}, {"thresholds": (limit,)}):
        with without_float64() as chunks:
            assert_diff(tmp_path, *sides, "torch:cpu", **options)
        assert chunks == {"reduced": 1, "at risk": at_risk}


@pytest.mark.parametrize("dtype", ["I32", "U32", "I64", "U64"])
@pytest.mark.parametrize("largest", [2**24, 2**24 + 1, 2**31, 2**32 - 1])
def test_integers_of_24_bits_are_float32(dtype: str, largest: int, tmp_path: Path) -> None:
    signed = dtype.startswith("I")
    if dtype == "I32":
        largest = min(largest, 2**31 - 1)
    a = [largest, 0, -largest if signed else largest, 5]
    b = [0, 1, largest, largest]
    scalar = DTYPES[dtype].scalar
    sides = [{"w": Tensor(dtype, (4,), np.array(v).astype(scalar).tobytes())} for v in (a, b)]
    options = {"atol": 1.0, "thresholds": (0.5, 2.0**24), "histogram": True}
    with without_float64() as chunks:
        assert_diff(tmp_path, *sides, "torch:cpu", **options)
        assert_stats(tmp_path, sides[0], "torch:cpu", histogram=True)
    assert chunks == {"reduced": 2, "at risk": 2 * int(largest > 2**24)}


@pytest.mark.parametrize("dtype", ["F64", "F8_E8M0"])
def test_dtypes_beyond_float32_are_not_tried(dtype: str, tmp_path: Path) -> None:
    side = {"w": tame(DTYPES[dtype], (3,), 1)}
    with without_float64() as chunks:
        assert_diff(tmp_path, side, side, "torch:cpu")
        assert_stats(tmp_path, side, "torch:cpu")
    assert chunks == {"reduced": 0, "at risk": 0}


@pytest.mark.parametrize("name", ["random", "tiled", "outliers", "second moments", "integers"])
def test_sums_are_far_within_the_contract(name: str, tmp_path: Path) -> None:
    """Float32 alone is off by 1e-8 and more here; and nothing of this is at risk."""
    case = next(case for case in CASES if case.name == name)
    size = 70_001
    a, b = case.make(np.random.default_rng(2024), size)
    for dtype in case.dtypes:
        if dtype == "F64":
            continue
        held_a, held_b = (Tensor(dtype, (size,), encode(v, DTYPES[dtype])) for v in (a, b))
        path_a = write_file(tmp_path / "a.safetensors", {"w": held_a})
        path_b = write_file(tmp_path / "b.safetensors", {"w": held_b})
        with without_float64() as chunks:
            diff = dict(ckptdiff.diff(path_a, path_b, device="torch:cpu")["w"])
            stats = dict(ckptdiff.stats(path_b, device="torch:cpu")["w"])
        assert chunks == {"reduced": 4, "at risk": 0}
        found = [
            *errors(case, dtype, diff, diff_oracle(held_a, held_b), DIFF_SUMS),
            *errors(case, dtype, stats, stats_oracle(held_b), STATS_SUMS),
        ]
        assert max(found, key=lambda item: item.error).error < 1e-12


def test_what_leaves_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A fourteenth of a byte for each pair of elements, and a twentieth of one element's stats."""
    monkeypatch.setattr(run, "CPU_CHUNK_FLOATS", run.CHUNK_FLOATS)
    size = run.CHUNK_FLOATS
    paths = [
        write_file(tmp_path / name, {"w": tensor(np.random.default_rng(1).normal(0, 1, size))})
        for name in ("a.safetensors", "b.safetensors")
    ]
    brought = 0
    to_host = torch.Tensor.cpu

    def watched(value: torch.Tensor) -> torch.Tensor:
        nonlocal brought
        brought += value.nbytes
        return to_host(value)

    monkeypatch.setattr(torch.Tensor, "cpu", watched)
    with without_float64() as chunks:
        ckptdiff.diff(*paths, device="torch:cpu")
        of_diff, brought = brought, 0
        ckptdiff.stats(paths[0], device="torch:cpu")
    assert chunks == {"reduced": 2, "at risk": 0}
    print(f"{of_diff / size:.4f} and {brought / size:.4f} bytes per element")  # noqa: T201
    assert 0.05 < of_diff / size < 0.06
    assert 0.03 < brought / size < 0.05
