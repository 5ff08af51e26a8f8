"""``ckptdiff series``: what a shell sees, JSON and CSV, and a series that was saved."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ckptdiff
import numpy as np
import pytest
from ckptdiff.dynamics.data import SeriesCheckpoint
from ckptdiff.dynamics.report import SeriesReport
from ckptdiff.dynamics.trajectory import QUANTITIES
from ckptdiff.errors import InvalidCheckpointError
from ckptdiff.render.bars import levels_line

from tests.cli import Outcome, assert_one_line_of_trouble, invoke, run
from tests.series_runs import chain, in_stages
from tests.snapshots import FOLDER, assert_snapshot
from tests.writers import tensor, write_file


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    in_stages(folder / "run")
    return folder


@pytest.fixture
def here(real_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with ``run/`` in it."""
    monkeypatch.chdir(real_run)
    return real_run


# Snapshots, of a run whose numbers are short.

POSITIONS = {
    # label -> how often each tensor has taken its step
    "stage1-step100-tokens1B": 0,
    "stage1-step200-tokens2B": 1,
    "stage1-step300-tokens3B": 3,
    "stage1-step500-tokens5B": 4,
    "stage2-ingredient1-step10-tokens1B": 5,
    "stage2-ingredient2-step10-tokens1B": 4.5,
    "stage2-ingredient1+2-step10": 4.75,
}


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``short/``: a run on a line, in which every norm can be told by hand."""
    start = {"embed.weight": [3.0, 4.0], "layers.0.w": [8.0] * 4, "layers.1.w": [0.0] * 4}
    way = {"embed.weight": [0.0, 1.0], "layers.0.w": [1.0] * 4, "layers.1.w": [2.0] * 4}
    for label, count in POSITIONS.items():
        held = {
            name: tensor(np.array(values) + count * np.array(way[name]), "F32")
            for name, values in start.items()
        }
        held["layers.1.w"] = tensor(np.array(start["layers.1.w"]) + count * 2, "BF16")
        write_file(tmp_path / "short" / label / "model.safetensors", held)
    write_file(tmp_path / "short/stage1-step400-tokens4B/model.safetensors", {"w": tensor([1.0])})
    (tmp_path / "short/step7").mkdir()
    write_file(tmp_path / "other/step1.safetensors", {"w": tensor([1.0, 2.0])})
    write_file(tmp_path / "other/step2.safetensors", {"w": tensor([1.0, np.nan])})
    monkeypatch.chdir(tmp_path)
    return tmp_path


SNAPSHOTS = {
    "table": "series short --pick 3",
    "layers": "series short --by layer",
    "tensors_of_some": "series short --by tensor --include 'layers*' --exclude 'nothing'",
    "nan": "series other",
    "given": "series other/step2.safetensors other/step1.safetensors --order given",
    "error_missing": "series nowhere",
    "error_one": "series other/step1.safetensors",
    "error_nothing": "series",
    "error_list": "series --list short/stage1-step100-tokens1B/model.safetensors",
    "error_chosen": "series short --include 'nothing*'",
}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_snapshot(name: str, short: Path) -> None:
    command = SNAPSHOTS[name]
    assert_snapshot(f"series/{name}", command, invoke(*shlex.split(command)))


def test_every_snapshot_is_of_a_test() -> None:
    assert {path.stem for path in (FOLDER / "series").iterdir()} == set(SNAPSHOTS)


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_lines_keep_within_a_screen(columns: int, here: Path) -> None:
    outcome = invoke("series", "run", "--pick", "4", "--by", "layer", env={"COLUMNS": str(columns)})
    too_long = [line for line in outcome.stdout.splitlines() if len(line) > columns]
    assert too_long == []
    assert "stage1-step100" in outcome.stdout


HEADERS = ("‖update‖", "relative", "cos", "from first", "to last", "changed")


@pytest.mark.parametrize("columns", [60, 80, 100, 140, 200])
def test_what_a_line_is_of_stays_and_quantities_go_from_the_right(columns: int, here: Path) -> None:
    text = invoke("series", "run", env={"COLUMNS": str(columns)}).stdout
    header = next(line for line in text.splitlines() if line.startswith("checkpoint"))
    assert "tokens" in header
    lines = [line.split() for line in text.splitlines() if line.startswith("stage")]
    assert lines[0][:3] == ["stage1-step100", "1.00", "B"]
    shown = [name for name in HEADERS if name in header]
    assert shown == list(HEADERS[: len(shown)])
    gone = list(HEADERS[len(shown) :])
    told = [line for line in text.splitlines() if line.startswith("not shown in")]
    gone += ["branches from"] if "branches from" not in header else []
    assert bool(gone) == bool(told) == (columns < 140)
    if gone:
        # it may go on in a second line
        expected = f"not shown in {columns} columns: {', '.join(gone)}"
        assert expected.startswith(told[0])


def test_numbers_of_labels_that_are_cut_have_columns(tmp_path: Path) -> None:
    """A long label may be cut where a screen is narrow, and what it told is beside it then."""
    name = "a-model-of-a-name-that-takes-half-of-any-screen"
    chain(tmp_path, [f"{name}-stage1-step{step}-tokens1T" for step in (1000, 2000)])
    text = invoke("series", tmp_path, env={"COLUMNS": "80"}).stdout
    header, first = text.splitlines()[2:4]
    assert header.split()[:4] == ["checkpoint", "stage", "step", "tokens"]
    assert first.split()[1:5] == ["1", "1,000", "1.00", "T"]


def test_plain_text_without_colours(here: Path) -> None:
    coloured = invoke("series", "run", env={"FORCE_COLOR": "1"})
    plain = invoke("series", "run", env={"FORCE_COLOR": "1", "NO_COLOR": "1"})
    assert "\x1b[" in coloured.stdout
    assert "\x1b" not in plain.stdout


def test_a_line_for_each_checkpoint(here: Path) -> None:
    lines = invoke("series", "run", env={"COLUMNS": "200"}).stdout.splitlines()
    labels = [path.name for path in (here / "run").iterdir()]
    # the tokens have a column of their own
    assert {line.split()[0] for line in lines[3:16]} == {
        label.partition("-tokens")[0] for label in labels
    }


def test_names_of_files_cannot_command_a_terminal(tmp_path: Path) -> None:
    for label in ("step1\x1b[2J", "step2‮x"):
        write_file(tmp_path / label / "model.safetensors", {"w\x1b[1m": tensor([1.0])})
    outcome = invoke("series", tmp_path, "--by", "tensor")
    assert "\x1b" not in outcome.stdout
    assert "‮" not in outcome.stdout


# Exit statuses.


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("run", 1),  # a step is missing, and a checkpoint there twice
        ("run/stage1-step100-tokens1B run/stage1-step200-tokens2B", 0),
        ("run --format json", 1),
        ("run --quiet", 1),
        ("run --by layr", 2),
        ("run --order backwards", 2),
        ("run --pick 0", 2),
        ("run --format csv", 2),
        ("run --threads=-1", 2),
        ("run nowhere", 2),
        ("run/stage1-step100-tokens1B", 2),
        ("", 2),
        ("--list nowhere.csv", 2),
        ("run --save nowhere/x.series", 2),
        ("run --csv run/stage1-step100-tokens1B/model.safetensors", 2),
        ("run --evals nowhere.csv", 2),
        ("run -o nowhere/x.txt", 2),
    ],
)
def test_exit_status(arguments: str, status: int, here: Path) -> None:
    outcome = invoke("series", *shlex.split(arguments))
    assert outcome.status == status, outcome
    if status == 2:
        assert_one_line_of_trouble(outcome)
    if "--quiet" in arguments:
        assert outcome.stdout == outcome.stderr == ""


def test_what_cannot_be_written_is_said_before_the_reading(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptdiff.api.series", lambda *_, **__: pytest.fail("it was read"))
    for option in ("--save", "--csv", "--plots", "-o"):
        file = here / "run/stage1-step100-tokens1B/model.safetensors"
        outcome = invoke("series", "run", option, file / "x")
        assert_one_line_of_trouble(outcome, "model.safetensors")


def test_plots_need_matplotlib(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = invoke("series", "run", "--plots", "plots")
    assert_one_line_of_trouble(outcome, "matplotlib", "pip install 'ckptdiff[plots]'")
    assert not (here / "plots").exists()


def test_from_a_process(here: Path) -> None:
    outcome = run("series", "run", "--pick", "2", cwd=here)
    inside = invoke("series", "run", "--pick", "2")
    assert (outcome.status, outcome.stdout) == (1, inside.stdout)


# JSON and CSV.


def document(*arguments: str | Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(invoke("series", *arguments, "--format", "json").stdout)
    return loaded


def test_the_json_schema(here: Path) -> None:
    """Every key of docs/json.md, every array of the shape that it says."""
    found = document("run", "--by", "layer", "--pick", "3")
    report = ckptdiff.series("run")
    assert list(found) == [
        "schema", "options", "checkpoints", "levels", "events", "problems", "picked",
        "correlations",
    ]  # fmt: skip
    assert found["schema"] == "ckptdiff.series/1"
    assert found["options"] == {
        "include": [], "exclude": [], "order": "position", "map": "auto", "by": "layer", "pick": 3,
    }  # fmt: skip
    assert [SeriesCheckpoint(**one) for one in found["checkpoints"]] == list(report.checkpoints)
    count = len(report)
    assert [level["level"] for level in found["levels"]] == ["total", "layer"]
    for level in found["levels"]:
        data = report.level(level["level"])
        rows = len(data.names)
        assert level["names"] == list(data.names)
        assert list(level["trajectory"]) == list(QUANTITIES)
        for kind, columns in (("stats", data.stats), ("diffs", data.diffs)):
            assert list(level[kind]) == list(columns)
            for name, values in columns.items():
                read = np.array(level[kind][name], dtype=float)
                np.testing.assert_array_equal(read, values)
        for values in level["trajectory"].values():
            assert np.array(values, dtype=float).shape == (count, rows)
        assert np.array(level["gram"]).shape == (rows, count, count)
        np.testing.assert_array_equal(np.array(level["gram"]), data.gram)
        assert np.array(level["distances"]).shape == (rows, count, count)
        assert len(level["diffusion_exponent"]) == rows
        components = level["principal_components"]
        assert np.array(components["coordinates"]).shape == (rows, count, 3)
        assert np.array(components["explained"]).shape == (rows, 3)
        assert level["clock"] == "steps"
    assert level["trajectory"]["update_norm"][0][0] == "NaN"
    assert [one["kind"] for one in found["problems"]] == ["missing_step", "duplicate"]
    assert len(found["picked"]) == 3
    labels = [one["label"] for one in found["checkpoints"]]
    assert {one["checkpoint"] for one in found["picked"] + found["events"]} <= set(labels)


def test_json_is_strict_and_the_same_every_time(here: Path) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    text = invoke("series", "run", "--by", "tensor", "--format", "json").stdout
    json.loads(text, parse_constant=refuse)
    assert text.isascii()
    assert invoke("series", "run", "--by", "tensor", "--format", "json").stdout == text
    assert ckptdiff.series("run").to_json(by="tensor") == text


def test_documentation_names_every_key() -> None:
    text = (Path(__file__).parents[1] / "docs" / "json.md").read_text()
    section = text[text.index("## `ckptdiff.series/1`") :]
    for word in ("checkpoints", "levels", "gram", "distances", "principal_components", "picked",
                 "correlations", "evidence", "is_note", *QUANTITIES):  # fmt: skip
        assert f"`{word}`" in section, word


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_csv_files(here: Path, tmp_path: Path) -> None:
    evals = tmp_path / "evals.csv"
    labels = [one.label for one in ckptdiff.series("run").checkpoints]
    lines = [f"{label},{0.1 * at}" for at, label in enumerate(labels)]
    evals.write_text("revision,accuracy\n" + "\n".join(lines) + "\n")
    folder = tmp_path / "csv"
    arguments = ["run", "--csv", folder, "--by", "module", "--pick", "2", "--evals", evals]
    outcome = invoke("series", *arguments)
    assert outcome.status == 1, outcome
    names = (
        "checkpoints", "updates", "distances", "rows", "components", "coordinates", "stats",
        "diffs", "events", "problems", "picked", "correlations",
    )  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {f"{name}.csv" for name in names}
    assert all(f"wrote {folder / name}.csv" in outcome.stderr for name in names)
    report = ckptdiff.series("run")
    checkpoints = rows(folder / "checkpoints.csv")
    assert [row["label"] for row in checkpoints] == labels
    assert checkpoints[0]["parent"] == ""
    assert checkpoints[10]["parent"] == labels[7]
    updates = rows(folder / "updates.csv")
    assert {row["level"] for row in updates} == {"total", "module"}
    assert {row["quantity"] for row in updates} <= set(QUANTITIES)
    trajectory = report.trajectory("module")
    for row in updates:
        if row["level"] == "module":
            at = (labels.index(row["checkpoint"]), trajectory.names.index(row["row"]))
            assert float(row["value"]) == getattr(trajectory, row["quantity"])[at]
    assert not any(row["value"] == "NaN" for row in updates)
    distances = [row for row in rows(folder / "distances.csv") if row["level"] == "total"]
    assert len(distances) == 13 * 12 // 2
    assert float(distances[0]["distance"]) == report.trajectory().distances[0, 0, 1]
    assert [row["kind"] for row in rows(folder / "problems.csv")] == ["missing_step", "duplicate"]
    assert json.loads(rows(folder / "problems.csv")[1]["labels"]) == [labels[2], labels[6]]
    assert [row["rank"] for row in rows(folder / "picked.csv")] == ["1", "2"]
    assert {row["metric"] for row in rows(folder / "correlations.csv")} == {"accuracy"}


# A series that was saved.


@pytest.fixture(scope="module")
def saved(real_run: Path) -> Path:
    path = real_run / "run.series"
    ckptdiff.series(real_run / "run", exclude="*norm*").save(path)
    return path


def test_a_saved_series_shows_the_same(here: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.series"
    shown = ["--pick", "4", "--by", "tensor"]
    first = invoke("series", "run", *shown, "--save", path)
    again = invoke("series", path, *shown)
    assert (again.status, again.stdout) == (first.status, first.stdout) == (1, first.stdout)
    assert again.stderr == ""
    as_json = [*shown, "--format", "json"]
    assert invoke("series", path, *as_json).stdout == invoke("series", "run", *as_json).stdout
    # a copy, and the same series read once more, are the same bytes
    invoke("series", path, "--save", tmp_path / "copy")
    invoke("series", "run", "--threads", "1", "--save", tmp_path / "again")
    data = path.read_bytes()
    assert (tmp_path / "copy").read_bytes() == data == (tmp_path / "again").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["again", "copy", "x.series"]


def test_weights_are_not_needed(tmp_path: Path) -> None:
    chain(tmp_path / "run", ["step1", "step2"])
    ckptdiff.series(tmp_path / "run").save(tmp_path / "x.series")
    text = ckptdiff.series(tmp_path / "run").to_json()
    (tmp_path / "run").rename(tmp_path / "gone")
    assert SeriesReport.load(tmp_path / "x.series").to_json() == text


def test_options_of_reading_are_refused(saved: Path) -> None:
    for options in (
        ["--include", "*"],
        ["--order", "given"],
        ["--key", "model"],
        ["--optimizer"],
        ["--map", "none"],
    ):
        assert_one_line_of_trouble(invoke("series", saved, *options), options[0], "read already")


def test_numpy_reads_it(saved: Path) -> None:
    """It is an .npz, for those who have no ckptdiff."""
    report = SeriesReport.load(saved)
    assert report.options.exclude == ("*norm*",)
    with np.load(saved, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["total/gram"], report.data.total.gram)
        np.testing.assert_array_equal(
            arrays["layer/stats/mean"], report.level("layer").stats["mean"]
        )


Members = dict[str, bytes]


def rewrite(path: Path, target: Path, change: Callable[[Members], object], **how: Any) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w", **how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def in_document(change: Callable[[dict[str, Any]], object]) -> Callable[[Members], object]:
    def changed(members: Members) -> None:
        loaded = json.loads(members["ckptdiff_series.json"])
        change(loaded)
        members["ckptdiff_series.json"] = json.dumps(loaded).encode()

    return changed


def of_pickles(members: Members) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([print, "x"], dtype=object), allow_pickle=True)
    members["total/numel.npy"] = buffer.getvalue()


def of_another_shape(members: Members) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((1, 2, 2)))
    members["total/gram.npy"] = buffer.getvalue()


def huge(members: Members) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1, 99999999, 99999999)}\n"
    length = len(header).to_bytes(2, "little")
    members["total/gram.npy"] = b"\x93NUMPY\x01\x00" + length + header


# What each tries, and a word of what is said.
HOSTILE: dict[str, tuple[Callable[[Members], object], str]] = {
    "a pickle in an array": (of_pickles, "total/numel.npy"),
    "an array of another shape": (of_another_shape, "total/gram.npy"),
    "a header that asks for 80 petabytes": (huge, "total/gram.npy"),
    "no array where one belongs": (lambda m: m.pop("layer/gram.npy"), "is missing"),
    "text for an array": (lambda m: m.update({"total/gram.npy": b"x" * 300}), "no array of <f8"),
    "a header nested without end": (
        lambda m: m.update({"total/gram.npy": b"\x93NUMPY\x01\x00\x10\x0e" + b"(" * 3600}),
        "total/gram.npy",
    ),
    "no JSON": (lambda m: m.update({"ckptdiff_series.json": b"{"}), "no JSON"),
    "JSON nested without end": (
        lambda m: m.update({"ckptdiff_series.json": b"[" * 10**6}),
        "no JSON",
    ),
    "another version": (in_document(lambda d: d.update(schema="ckptdiff.series-file/2")), "/2"),
    "no checkpoints": (in_document(lambda d: d.update(checkpoints=[])), "0 checkpoints"),
    "a parent behind its child": (
        in_document(lambda d: d["checkpoints"][1].update(parent=5)),
        "before its parent",
    ),
    "a parent that is a text": (
        in_document(lambda d: d["checkpoints"][1].update(parent="0")),
        "before its parent",
    ),
    "two checkpoints of one label": (
        in_document(lambda d: d["checkpoints"][1].update(label=d["checkpoints"][0]["label"])),
        "two checkpoints of one label",
    ),
    "a step that is a float": (
        in_document(lambda d: d["checkpoints"][1].update(step=1.5)),
        "step that is no integer",
    ),
    "a learning rate that is not finite": (
        in_document(lambda d: d["checkpoints"][1].update(learning_rate=float("nan"))),
        "learning_rate",
    ),
    "a field too many": (
        in_document(lambda d: d["checkpoints"][1].update(more=1)),
        "no checkpoint at 1",
    ),
    "an unknown kind of problem": (
        in_document(lambda d: d["problems"][0].update(kind="boom")),
        "unknown kind 'boom'",
    ),
    "names that repeat": (
        in_document(lambda d: d["levels"]["tensor"].update(names=["w", "w"])),
        "names",
    ),
    "two totals": (
        in_document(lambda d: d["levels"]["total"].update(names=["total", "other"])),
        "total",
    ),
    "a column outside the archive": (
        in_document(lambda d: d["levels"]["total"].update(stats=["../../etc/passwd"])),
        "is missing",
    ),
    "a level that is a list": (in_document(lambda d: d["levels"].update(layer=[])), "'layer'"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_files(attack: str, saved: Path, tmp_path: Path) -> None:
    change, says = HOSTILE[attack]
    path = rewrite(saved, tmp_path / "x.series", change)
    assert_one_line_of_trouble(invoke("series", path), "x.series", says)
    with pytest.raises(InvalidCheckpointError):
        SeriesReport.load(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice(saved: Path, tmp_path: Path) -> None:
    path = rewrite(saved, tmp_path / "x.series", lambda members: None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("total/gram.npy", archive.read("total/gram.npy"))
    assert_one_line_of_trouble(invoke("series", path), "total/gram.npy is there twice")


def test_a_bomb_is_not_inflated(saved: Path, tmp_path: Path) -> None:
    def grow(members: Members) -> None:
        members["total/gram.npy"] = bytes(10**8)

    path = rewrite(saved, tmp_path / "x.series", grow, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    assert_one_line_of_trouble(invoke("series", path), "is not stored plainly")


def test_a_file_cut_short_or_damaged(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    path = tmp_path / "x.series"
    for length in (60, 1000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert_one_line_of_trouble(invoke("series", path), "x.series")
    at = data.index(b"NUMPY") + 130
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert_one_line_of_trouble(invoke("series", path), "x.series", "CRC")


def test_many_mutations_end_in_one_line(saved: Path, tmp_path: Path) -> None:
    """Whatever bytes change, a series or one line comes back, and never a traceback."""
    data = saved.read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "x.series"
    # the directory at the end and the document at the beginning are what there is to attack
    places = [*range(0, 3000, 29), *range(len(data) - 6000, len(data), 41)]
    for place in places:
        changed = bytearray(data)
        changed[place] = int(random.integers(256))
        path.write_bytes(changed)
        with suppress(InvalidCheckpointError):
            SeriesReport.load(path)


def test_not_a_saved_series(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=np.ones(3))
    with pytest.raises(InvalidCheckpointError, match="not a series that ckptdiff saved"):
        SeriesReport.load(path)
    # it is a checkpoint, and one is no series
    assert_one_line_of_trouble(invoke("series", path), "only one")


def test_a_failed_save_leaves_the_old_file(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = SeriesReport.load(saved)
    path = tmp_path / "x.series"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError, match="No space"):
        report.save(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.series"]


# Small parts.


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([1.0, 2.0, 4.0, 8.0], 8, "▁▂▄█"),
        ([float("nan"), 0.0, 8.0], 8, " ▁█"),
        ([8.0, 1.0, 2.0, 2.0], 2, "█▂"),
        ([float("inf"), 4.0, 8.0], 8, "█▄█"),
        ([0.0, 0.0], 8, "▁▁"),
        ([], 8, ""),
    ],
)
def test_levels_line(values: list[float], width: int, line: str) -> None:
    assert levels_line(values, width) == line


def test_repr_is_the_table(real_run: Path) -> None:
    text = repr(ckptdiff.series(real_run / "run"))
    assert text.startswith("13 checkpoints of 6 tensors")
    assert "byte-identical" in text


def test_unknown_levels_and_labels(real_run: Path) -> None:
    report = ckptdiff.series(real_run / "run")
    with pytest.raises(ValueError, match="did you mean 'layer'"):
        report.level("layers")  # type: ignore[arg-type]
    assert report.index("stage1-step200-tokens2B") == 1
    with pytest.raises(KeyError):
        report.index("step0")


def test_help_has_its_options() -> None:
    outcome: Outcome = invoke("series", "--help")
    for option in ("--list", "--order", "--map", "--include",
                    "--exclude", "--by", "--pick", "--evals",
                   "--plots", "--csv", "--save", "--format", "--output", "--threads", "--io",
                   "--quiet"):  # fmt: skip
        assert option in outcome.stdout
    assert "Exit status" in outcome.stdout


# Every shard of every checkpoint is open at once.


def _limited(here: Path, soft: int, hard: int) -> subprocess.CompletedProcess[str]:
    script = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "ckptdiff", "series", "run"]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="lowers its limits as Linux has them")
def test_more_open_files_than_allowed_at_first(here: Path) -> None:
    free = _limited(here, 1024, 1024)
    raised = _limited(here, 16, 1024)
    assert (raised.returncode, raised.stdout) == (free.returncode, free.stdout)
    refused = _limited(here, 16, 100)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert "13 files, which are open at once, and this process may open 100" in refused.stderr
