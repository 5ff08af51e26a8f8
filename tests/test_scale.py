"""200,000 tensors, as a mixture of experts has: seconds and little memory, whatever is written.

``test_memory`` holds what a run takes; here is what its rows take as text and as Python objects.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ckptdiff
import pytest

from tests.cli import measure
from tests.writers import write_sparse

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs sparse files and getrusage")

COUNT = 200_000
LIMIT = 150_000_000


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shapes = {f"model.layers.{i // 512}.mlp.experts.{i % 512}.w": (4, 8) for i in range(COUNT)}
    return write_sparse(tmp_path_factory.mktemp("many") / "many.safetensors", shapes)


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_listing_them(form: str, many: Path, tmp_path: Path) -> None:
    usage = measure(["ls", many, "--format", form, "-o", tmp_path / "out"], tmp_path / "usage")
    assert usage.status == 0, usage.stderr
    # 1 s on an idle machine
    assert usage.seconds < 5
    assert usage.peak_rss < 100_000_000
    lines = (tmp_path / "out").read_text().splitlines()
    assert sum("experts.511.w" in line for line in lines) == COUNT // 512
    if form == "json":
        document = json.loads("\n".join(lines))
        assert document["summary"]["elements"] == sum(row["numel"] for row in document["tensors"])
        assert document["tensors"][-1]["shape"] == [4, 8]


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_every_row_for_people(form: str, many: Path, tmp_path: Path) -> None:
    arguments = ["diff", many, many, "--top", "0", "--format", form, "-o", tmp_path / "out"]
    usage = measure(arguments, tmp_path / "usage")
    assert usage.status == 0, usage.stderr
    assert usage.seconds < 30
    assert usage.peak_rss < LIMIT
    with (tmp_path / "out").open() as file:
        assert sum("experts." in line for line in file) == COUNT


def test_sorted_rows_as_json(many: Path, tmp_path: Path) -> None:
    """Rows out of the table's order are asked for one by one."""
    arguments = ["stats", many, "--sort", "name", "--format", "json", "-o", tmp_path / "out"]
    usage = measure(arguments, tmp_path / "usage")
    assert usage.status == 0, usage.stderr
    assert usage.seconds < 15
    assert usage.peak_rss < LIMIT
    names = [row["name"] for row in json.loads((tmp_path / "out").read_text())["tensors"]]
    assert names == ckptdiff.open(many).names()


def test_json_does_not_depend_on_threads(many: Path) -> None:
    texts = {ckptdiff.diff(many, many, threads=threads).to_json() for threads in (1, 2, 5)}
    assert len(texts) == 1


def test_a_report_of_many_shows_itself_at_once(many: Path) -> None:
    report = ckptdiff.diff(many, many)
    assert len(repr(report).splitlines()) < 40
    assert len(report._repr_html_()) < 50_000
    assert len(report.by("layer")) == -(-COUNT // 512)
