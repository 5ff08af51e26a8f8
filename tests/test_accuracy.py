"""The accuracy contract: every sum and norm within 1e-7 of the truth, and typically 1e-9."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.accuracy import CASES, Case, Measurement, measure_case, table
from tests.compare import assert_rows
from tests.dtypes import DTYPES, codes, pack
from tests.engine import diff_rows, expected_diff, expected_stats, stats_rows
from tests.oracle import TOLERANCE, Wide
from tests.writers import Tensor, tensor, write_file


def test_the_oracle_is_finer_than_what_it_judges() -> None:
    """On a platform whose long double is no wider than double the oracle would prove nothing."""
    assert np.finfo(Wide).eps < 1e-18
    assert np.finfo(Wide).max > Wide("1e4000")


@pytest.fixture(scope="module")
def measurements() -> list[Measurement]:
    return []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_within_the_contract(case: Case, tmp_path: Path, measurements: list[Measurement]) -> None:
    found = list(measure_case(case, tmp_path))
    measurements.extend(found)
    faults = [m for m in found if not m.error <= TOLERANCE]
    assert not faults, "\n".join(map(str, faults))


def test_typically_a_hundred_times_better(measurements: list[Measurement]) -> None:
    """Printed with ``pytest -rP``."""
    if len(measurements) < 500:
        pytest.skip("needs the whole suite to have run")
    print(table(measurements))  # noqa: T201
    assert median(m.error for m in measurements) <= 1e-9


@pytest.mark.parametrize("names", [("BF16", "BF16"), ("F16", "F16"), ("U16", "U16"),
                                   ("F16", "BF16"), ("U16", "I16"), ("BF16", "U16"),
                                   ("F32", "F32"), ("F32", "BF16"), ("F16", "F32")],
                         ids="-".join)  # fmt: skip
def test_repeating_data_that_rounds_the_same_way_everywhere(
    names: tuple[str, str], tmp_path: Path
) -> None:
    """Where the same few values fill every lane, f32 rounding errors add up and never cancel.

    Periods 1 to 64 put each value into every lane, into every row of a lane, or both.
    """
    rng = np.random.default_rng(99)
    closeness = (1, 1e-1, 1e-2, 1e-4)
    a: dict[str, Tensor] = {}
    b: dict[str, Tensor] = {}
    for trial in range(400):
        period = int(rng.choice([1, 2, 8, 16, 64]))
        sides = []
        first: NDArray[np.float64] | None = None
        for name in names:
            dtype = DTYPES[name]
            # Full mantissas, exponents near each other: what makes products and sums round.
            values = rng.uniform(0.5, 1, period) * rng.choice([1, 2, 256, 4096], period)
            values *= 8 if dtype.is_integer else rng.choice([-1, 1], period)
            # Every other pair is close, as checkpoints are.
            if first is None:
                first = values
            elif trial % 2 and not dtype.is_integer:
                values = first * (1 + values / np.abs(values).max() * closeness[trial // 2 % 4])
            with np.errstate(all="ignore"):
                native = values.astype(dtype.scalar)
            patterns = np.tile(native.view(dtype.code_type), 2048 // period)
            sides.append(Tensor(name, patterns.shape, pack(patterns, dtype)))
        a[str(trial)], b[str(trial)] = sides
    path_a = write_file(tmp_path / "a.safetensors", a)
    path_b = write_file(tmp_path / "b.safetensors", b)
    assert_rows(diff_rows(path_a, path_b), expected_diff(a, b))
    assert_rows(stats_rows(path_a), expected_stats(a))


@pytest.mark.parametrize("name", ["F64", "F32", "BF16"])
@pytest.mark.parametrize("step", [1e-3, 1e-5, 3e-8, 1e-10])
def test_the_cosine_distance_resolves_what_the_cosine_cannot(
    name: str, step: float, tmp_path: Path
) -> None:
    """Distances down to 1e-20 are right to a thousandth, where 1 - cosine would be 0 or noise."""
    dtype = DTYPES[name]
    rng = np.random.default_rng(3)
    n = 300_000
    values = tensor(rng.normal(0, 1, n), name)
    if name == "F64":
        exact = np.frombuffer(values.data)
        moved = tensor(exact * (1 + step * rng.normal(0, 1, n)), name)
    else:  # one step of the dtype, in as many elements as make up the same distance
        patterns = codes(values.data, dtype).copy()
        ulp = float(np.spacing(np.float32(1))) * (1 << 16 if name == "BF16" else 1)
        share = min(1.0, (step / ulp) ** 2 * 2)
        patterns[rng.random(n) < max(share, 2 / n)] ^= 1
        moved = Tensor(name, (n,), pack(patterns, dtype))
    path_a = write_file(tmp_path / "a.safetensors", {"w": values})
    path_b = write_file(tmp_path / "b.safetensors", {"w": moved})
    expected = expected_diff({"w": values}, {"w": moved})["w"].columns["cosine_distance"]
    row = diff_rows(path_a, path_b)["w"]
    assert isinstance(expected, float)
    assert expected > 0
    assert row["cosine_distance"] == pytest.approx(expected, rel=1e-3)
    assert row["cosine"] <= 1
