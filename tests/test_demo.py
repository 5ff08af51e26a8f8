"""The demonstration: the same bytes every time, and it shows what its text promises."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path

import ckptdiff
import numpy as np
import pytest
from ckptdiff.demo.checkpoints import (
    FROZEN_LAYERS,
    LAYERS,
    NAN_AT,
    NAN_IN,
    NORM_IN_BASE,
    NORM_IN_TUNED,
    RENAME,
    make_pair,
)
from ckptdiff.diff_report import DiffReport

from tests.cli import run


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_pair(str(tmp_path_factory.mktemp("demo") / "made"))


@pytest.fixture(scope="module")
def report(pair: tuple[str, str]) -> DiffReport:
    return ckptdiff.diff(*pair, rename=RENAME)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The output of each command that the demo runs, by its command line."""
    folder = tmp_path_factory.mktemp("shown")
    outcome = run("demo", "pair", cwd=folder)
    assert outcome.status == 0, outcome
    pieces = re.split(r"^\$ (.*)\n", outcome.stdout, flags=re.MULTILINE)
    return {
        line: output.split("\n\n# ")[0]
        for line, output in zip(pieces[1::2], pieces[2::2], strict=True)
    }


def output_of(shown: dict[str, str], *words: str) -> str:
    found = [output for line, output in shown.items() if all(w in shlex.split(line) for w in words)]
    assert len(found) == 1, (words, list(shown))
    return found[0]


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_writes_the_same_bytes_every_time(pair: tuple[str, str], tmp_path: Path) -> None:
    first = contents(Path(pair[0]).parent)
    make_pair(str(tmp_path / "again"))
    assert contents(tmp_path / "again") == first
    # over its own work, with something stray in it
    (tmp_path / "again" / "base" / "model-00009-of-00009.safetensors").write_text("stray")
    make_pair(str(tmp_path / "again"))
    assert contents(tmp_path / "again") == first


def test_it_touches_no_folder_of_others(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("", "file", "link"):
        with pytest.raises(FileExistsError):
            make_pair(str(tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
    assert (tmp_path / "file").read_text() == "mine"
    # an empty one it may have
    (tmp_path / "empty").mkdir()
    make_pair(str(tmp_path / "empty"))


def test_the_checkpoints_are_small_sharded_and_named_as_olmo_2_is(pair: tuple[str, str]) -> None:
    base, tuned = map(ckptdiff.open, pair)
    assert len(base) == len(tuned) == 11 * LAYERS + 3
    assert (len(base.files), len(tuned.files)) == (2, 3)
    assert base.bytes == tuned.bytes < 8_000_000
    assert {tensor.dtype for tensor in base.values()} == {"BF16"}
    assert base["model.layers.0.self_attn.q_norm.weight"].shape == (128,)


def test_the_changes_are_those_that_the_text_speaks_of(report: DiffReport) -> None:
    assert not report.only_in_a
    assert not report.only_in_b
    frozen = [row for row in report if row.verdict == "bit_identical"]
    meant = {"model.embed_tokens.weight"} | {
        row.name
        for row in report
        if row.name.startswith(tuple(f"model.layers.{i}." for i in range(FROZEN_LAYERS)))
    }
    assert meant <= {row.name for row in frozen}
    # a step below the resolution of bf16 leaves a norm around 1 as it was
    assert all("norm" in row.name for row in frozen if row.name not in meant)
    by_layer = [report.by("layer")[f"model.layers.{i}"].rel_l2 for i in range(LAYERS)]
    assert by_layer == sorted(by_layer)
    assert by_layer[FROZEN_LAYERS - 1] == 0.0 < by_layer[FROZEN_LAYERS]
    assert [row.name for row in report if row.nan_b] == [NAN_IN]
    assert report[NAN_IN].nan_b == report[NAN_IN].nonfinite_mismatch == 1
    assert report[NORM_IN_TUNED].verdict == "different"


def test_the_nan_is_where_it_says(pair: tuple[str, str]) -> None:
    tensor = ckptdiff.open(pair[1])[NAN_IN]
    (span,) = tensor.spans
    with open(span.file, "rb") as file:
        file.seek(span.offset)
        bits = np.frombuffer(file.read(span.length), "<u2").reshape(tensor.shape)
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    assert [tuple(map(int, index)) for index in np.argwhere(np.isnan(values))] == [NAN_AT]


def test_the_first_command_shows_the_nan_first_and_the_norm_missing(shown: dict[str, str]) -> None:
    output = next(iter(shown.values()))
    rows = [line for line in output.splitlines() if line.startswith("≠  ")]
    assert NAN_IN in rows[0]
    assert "NaN 0→1" in rows[0]
    assert "1 only in A" in output
    assert "1 only in B" in output
    assert NORM_IN_BASE in output
    assert NORM_IN_TUNED in output
    assert "--top 0 shows all" in output


def test_the_rename_pairs_the_norm(shown: dict[str, str]) -> None:
    output = output_of(shown, "--include", "*norm*")
    assert "only in A" not in output.replace("0 only in A", "")
    assert NORM_IN_BASE not in output
    assert re.search(r"≠ [1-9]\d* different", output)


def test_layers_come_in_their_order_and_move_more_and_more(shown: dict[str, str]) -> None:
    output = output_of(shown, "--by", "layer")
    order = re.findall(r"model\.layers\.\d+(?= )", output)
    assert order == [f"model.layers.{i}" for i in range(LAYERS)]


def test_the_json_counts_what_the_report_does(shown: dict[str, str], report: DiffReport) -> None:
    output = output_of(shown, "--format", "json", "|")
    assert output.splitlines()[0] == str(report.verdicts)


def test_stats_and_ls_are_of_the_same_pair(shown: dict[str, str]) -> None:
    stats = output_of(shown, "stats")
    assert "1 tensor with NaN" in stats
    listing = output_of(shown, "ls")
    assert "11 tensors" in listing
    assert "left out by globs" in listing
