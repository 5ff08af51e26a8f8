"""A real training run through the whole command: read, judged, picked, correlated and drawn."""

from __future__ import annotations

import json
from dataclasses import replace

import ckptdiff
import numpy as np
import pytest
from ckptdiff.dynamics.report import SeriesReport
from ckptdiff.dynamics.trajectory import QUANTITIES, Trajectory
from ckptdiff.render import series_table
from ckptdiff.render.screen import Screen

from tests.cli import invoke
from tests.series_oracle import RealSeries
from tests.training_run import DUPLICATE, ORIGINAL, SPIKE, TrainingRun


@pytest.fixture(scope="module")
def report(training_run: TrainingRun) -> SeriesReport:
    return ckptdiff.series(training_run.folder)


def test_the_checkpoints_and_their_tree(report: SeriesReport, real_series: RealSeries) -> None:
    """The learning rate stands nowhere in these directories, all else does."""
    expected = [replace(one, learning_rate=None) for one in real_series.data.checkpoints]
    assert list(report.checkpoints) == expected


@pytest.mark.parametrize("name", ["tensor", "layer", "module", "total"])
def test_what_was_read_against_float64(
    name: str, report: SeriesReport, real_series: RealSeries
) -> None:
    level, expected = report.data.levels[name], real_series.data.levels[name]
    rows = [level.names.index(one) for one in expected.names]
    assert set(level.names) == set(expected.names)
    np.testing.assert_array_equal(level.numel[rows], expected.numel)
    np.testing.assert_array_equal(level.finite[rows], expected.finite)
    scale = np.abs(expected.gram).max(axis=(1, 2), keepdims=True)
    assert (np.abs(level.gram[rows] - expected.gram) <= 3e-8 * scale).all()
    for kind in ("stats", "diffs"):
        columns = getattr(level, kind)
        for column, values in getattr(expected, kind).items():
            np.testing.assert_allclose(
                columns[column][:, rows], values, rtol=1e-7, err_msg=f"{kind} {column}"
            )


def test_every_quantity_of_the_total(report: SeriesReport, real_series: RealSeries) -> None:
    checkpoints = [replace(one, learning_rate=None) for one in real_series.data.checkpoints]
    expected = Trajectory.of(real_series.data.total, checkpoints)
    for name in QUANTITIES:
        found = getattr(report.trajectory(), name)
        np.testing.assert_allclose(found, getattr(expected, name), rtol=1e-7, atol=1e-9)


def test_the_duplicate_and_the_instability(report: SeriesReport) -> None:
    assert [(one.kind, one.labels) for one in report.problems] == [
        ("duplicate", (ORIGINAL, DUPLICATE))
    ]
    spike = report.index(SPIKE)
    assert "update_norm_jump" in {e.kind for e in report.events if e.checkpoint == spike}
    assert sum(event.kind == "stage_boundary" for event in report.events) == 4


def test_the_table_marks_what_happened(report: SeriesReport) -> None:
    """Two of an event's words where there is room, else one, and how many more there are."""
    narrow = repr(report).splitlines()
    lines = list(series_table.lines(report, Screen.for_file()))
    spike = SPIKE.partition("-tokens")[0]
    (line,) = (line for line in lines if line.startswith(f"{spike} "))
    assert line.rstrip().endswith("update jump, norm jump +1")
    (line,) = (line for line in narrow if line.startswith(f"{spike} "))
    assert line.endswith("update jump +2")
    copies = [line for line in lines if "! duplicate" in line]
    assert [line.split()[0] for line in copies] == [
        label.partition("-tokens")[0] for label in (ORIGINAL, DUPLICATE)
    ]


def test_the_command_with_everything(
    training_run: TrainingRun, report: SeriesReport, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path_factory.mktemp("out")
    outcome = invoke(
        "series", training_run.folder, "--pick", "5", "--evals", training_run.evals,
        "--plots", out / "plots", "--csv", out / "csv", "--save", out / "run.series",
        "--format", "json",
    )  # fmt: skip
    assert outcome.status == 1, outcome
    found = json.loads(outcome.stdout)
    assert len(found["picked"]) == 5
    assert found["picked"][0]["checkpoint"] == report.checkpoints[-1].label
    correlations = {
        (one["quantity"], one["level"], one["metric"]): one for one in found["correlations"]
    }
    one = correlations["distance_from_last", "total", "first_chain_loss"]
    assert one["n"] == len(report)
    assert one["spearman"] > 0.5
    plots = {path.suffix for path in (out / "plots").iterdir()}
    assert plots == {".png", ".svg"}
    again = invoke(
        "series", out / "run.series", "--pick", "5", "--evals", training_run.evals,
        "--format", "json",
    )  # fmt: skip
    assert again.stdout == outcome.stdout
