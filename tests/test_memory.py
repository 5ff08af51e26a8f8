"""Bounded memory and fixed costs: sparse files of any size, 200,000 tensors, huge headers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli import Usage, invoke, measure
from tests.writers import header_entry, write_raw, write_sparse

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs sparse files and getrusage")

LIMIT = 150_000_000


def show(what: str, usage: Usage) -> None:
    print(f"{what}: {usage.seconds:.2f} s, peak {usage.peak_rss / 1e6:.0f} MB")  # noqa: T201


def sparse_model(layers: int) -> dict[str, tuple[int, ...]]:
    """0.5 GB per layer in BF16, in one large and some small tensors."""
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (1000,)}
    for layer in range(layers):
        shapes[f"layers.{layer}.mlp.weight"] = (25_000, 9_990)
        shapes[f"layers.{layer}.norm.weight"] = (250_000,)
    return shapes


@pytest.mark.slow
def test_a_pair_of_20_gigabytes_in_150_megabytes(tmp_path: Path) -> None:
    shapes = sparse_model(40)
    a = write_sparse(tmp_path / "a.safetensors", shapes)
    b = write_sparse(tmp_path / "b.safetensors", shapes)
    assert a.stat().st_size > 20_000_000_000
    usage = measure(["diff", a, b, "--format", "json"], tmp_path / "usage")
    show("diff of 2 x 20 GB", usage)
    assert usage.status == 0, usage.stderr
    assert usage.peak_rss < LIMIT
    summary = json.loads(usage.stdout)["summary"]
    assert summary["verdicts"]["bit_identical"] == 81
    assert summary["coverage"]["a"]["bytes_compared"] > 20_000_000_000


def test_one_tensor_larger_than_the_limit_in_150_megabytes(tmp_path: Path) -> None:
    """A single tensor of 4 GB, with hash and histogram."""
    a = write_sparse(tmp_path / "a.safetensors", {"w": (2_000, 1_000_000)})
    usage = measure(["stats", a, "--hash", "--histogram"], tmp_path / "usage")
    show("stats of a tensor of 4 GB", usage)
    assert usage.status == 0, usage.stderr
    assert usage.peak_rss < LIMIT


def test_two_dtypes_a_cast_and_many_threads_in_150_megabytes(tmp_path: Path) -> None:
    shapes = {"w": (500, 1_000_000), "v": (100, 1_000_000)}
    a = write_sparse(tmp_path / "a.safetensors", shapes, "F32")
    b = write_sparse(tmp_path / "b.safetensors", shapes, "BF16")
    arguments = ["diff", a, b, "--cast", "BF16", "--histogram", "--threshold", "0", "--threads"]
    usage = measure([*arguments, "16"], tmp_path / "usage")
    show("diff of F32 against BF16, 16 threads", usage)
    assert usage.status == 0, usage.stderr
    assert usage.peak_rss < LIMIT


def experts(count: int) -> dict[str, tuple[int, ...]]:
    """A mixture of experts: many small tensors under long names."""
    projections = ("gate_proj", "up_proj", "down_proj")
    return {
        f"model.layers.{i // 3000}.mlp.experts.{i // 3 % 1000}.{projections[i % 3]}.weight": (2, 8)
        for i in range(count)
    }


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200,000 tensors of 32 bytes."""
    return write_sparse(tmp_path_factory.mktemp("many") / "many.safetensors", experts(200_000))


@pytest.mark.parametrize(
    "arguments",
    [
        ["diff"],
        ["diff", "--format", "json"],
        ["diff", "--format", "csv"],
        ["diff", "--by", "layer"],
        ["diff", "--include", "*up_proj*"],
        ["diff", "--exclude", "*.0.up_proj*"],
        ["stats", "--format", "json"],
        ["stats", "--by", "module"],
    ],
    ids=" ".join,
)
def test_two_hundred_thousand_tensors(arguments: list[str], many: Path, tmp_path: Path) -> None:
    command, *options = arguments
    paths = [many, many] if command == "diff" else [many]
    usage = measure([command, *paths, *options, "-o", tmp_path / "out"], tmp_path / "usage")
    show(" ".join(arguments), usage)
    assert usage.status == 0, usage.stderr
    assert usage.peak_rss < LIMIT
    assert usage.seconds < 15
    if "json" in options:
        document = json.loads((tmp_path / "out").read_text())
        assert len(document["tensors"]) == 200_000


def test_the_overhead_of_200_000_tensors(many: Path, tmp_path: Path) -> None:
    """The engine itself needs less than a second for them (a loose bound for a busy machine)."""
    import ckptdiff

    report = ckptdiff.diff(many, many)
    print(f"engine: {report.seconds:.2f} s")  # noqa: T201 - for pytest -rP
    assert report.seconds < 3
    assert len(report) == 200_000


def test_listing_a_trillion_parameters_in_an_instant(tmp_path: Path) -> None:
    """2 TB on paper: only the header is read."""
    shapes = {f"layers.{i}.w.{j}": (16_384, 65_536) for i in range(96) for j in range(10)}
    path = write_sparse(tmp_path / "trillion.safetensors", shapes)
    assert path.stat().st_size > 2_000_000_000_000
    usage = measure(["ls", path], tmp_path / "usage")
    show("ls of 1 T parameters", usage)
    assert usage.status == 0, usage.stderr
    assert "1.03 T elements" in usage.stdout
    assert usage.seconds < 1.5
    assert usage.peak_rss < LIMIT


def test_a_header_close_to_the_limit(tmp_path: Path) -> None:
    """90 MB of valid header are read, and not in quadratic time."""
    header: dict[str, object] = {}
    offset = 0
    for number in range(200_000):
        name = f"model.layers.{number}.{'block.' * 55}weight"
        header[name] = header_entry("F32", [1], offset, offset + 4)
        offset += 4
    text = json.dumps(header, separators=(",", ":")).encode()
    assert 80_000_000 < len(text) < 100_000_000
    path = write_raw(tmp_path / "a.safetensors", text, bytes(offset))
    usage = measure(["ls", path, "-o", tmp_path / "out"], tmp_path / "usage")
    show("ls with a header of 90 MB", usage)
    assert usage.status == 0, usage.stderr
    assert usage.seconds < 15


def test_an_empty_tensor_of_a_huge_shape(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "a.safetensors", {"w": (2**40, 0, 2**20)})
    outcome = invoke("diff", path, path)
    assert outcome.status == 0, outcome
