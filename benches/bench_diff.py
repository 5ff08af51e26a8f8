"""The same tools under pytest-benchmark, for comparisons between two states of the code.

Not collected by default. ``pytest benches/bench_diff.py -o addopts= --benchmark-autosave`` saves a
run, and ``--benchmark-compare`` holds the next one against it. CKPTDIFF_BENCH_BYTES sets the size
of a side (1 GB), CKPTDIFF_BENCH_DIR where the pair is kept. For the table of ratios run
``python -m benches.table``.
"""

from __future__ import annotations

from pathlib import Path

import ckptdiff
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches import tools
from benches.pair import Pair, default_folder, wanted_bytes, write


@pytest.fixture(scope="module")
def pair() -> Pair:
    tools.build_ceiling()
    size = wanted_bytes()
    return write(default_folder(size), size)


@pytest.mark.parametrize("name", tools.TOOLS)
def test_tool(name: str, pair: Pair, benchmark: BenchmarkFixture) -> None:
    run, sides, _ = tools.TOOLS[name]
    benchmark.group = "diff" if sides == 2 else "stats"
    benchmark.extra_info["bytes"] = sides * pair.bytes
    benchmark.pedantic(run, args=(pair,), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize(
    "options",
    [
        {"cast": "F8_E4M3"},
        {"histogram": True},
        {"thresholds": [0.0, 1e-8, 1e-6, 1e-4]},
        {"atol": 1e-3},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options(options: dict[str, object], pair: Pair, benchmark: BenchmarkFixture) -> None:
    """What each option costs on top of a plain diff."""
    benchmark.group = "options"
    benchmark.pedantic(
        ckptdiff.diff, args=(pair.a, pair.b), kwargs=options, rounds=3, warmup_rounds=1
    )


@pytest.mark.parametrize("isa", ckptdiff._core.isa_levels())
def test_isa(isa: str, pair: Pair, benchmark: BenchmarkFixture) -> None:
    benchmark.group = "isa"
    benchmark.pedantic(
        ckptdiff.diff, args=(pair.a, pair.b), kwargs={"isa": isa}, rounds=3, warmup_rounds=1
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200,000 tensors: the fixed costs."""
    import numpy as np
    from safetensors.numpy import save_file

    path = tmp_path_factory.mktemp("many") / "many.safetensors"
    save_file({f"layers.{i}.w": np.zeros(8, np.float32) for i in range(200_000)}, path)
    return path


@pytest.mark.parametrize("call", ["open", "diff", "stats"])
def test_many_tensors(call: str, many: Path, benchmark: BenchmarkFixture) -> None:
    benchmark.group = "200,000 tensors"
    arguments = (many, many) if call == "diff" else (many,)
    benchmark.pedantic(getattr(ckptdiff, call), args=arguments, rounds=3, warmup_rounds=1)
