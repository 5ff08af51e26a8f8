"""Evaluations: how a table is read and joined, and the coefficients against scipy."""

from __future__ import annotations

import math
from pathlib import Path

import ckptdiff
import numpy as np
import pytest
import scipy.stats
from ckptdiff.dynamics.data import SeriesCheckpoint
from ckptdiff.dynamics.evals import correlate, join, pearson, read_evals, spearman
from ckptdiff.dynamics.report import SeriesReport
from ckptdiff.dynamics.trajectory import QUANTITIES, Trajectory

from tests.cli import invoke
from tests.series_oracle import RealSeries, chain
from tests.series_runs import chain as put_chain
from tests.training_run import SOUP, TrainingRun


def written(folder: Path, text: str) -> str:
    path = folder / "evals.csv"
    path.write_bytes(text.encode())
    return str(path)


@pytest.mark.parametrize("seed", range(6))
def test_coefficients_are_those_of_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    for n in (3, 4, 10, 57):
        # many ties in one, wide range in the other
        x = random.integers(0, 4, n).astype(float)
        y = np.exp(20 * random.standard_normal(n)) + x
        if len(set(x)) == 1:
            continue
        assert pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-12)
        assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)


def test_what_does_not_vary_has_no_coefficient_and_large_values_have_one() -> None:
    x = np.array([1.0, 2, 4])
    for constant in (np.zeros(3), np.full(3, 0.1), np.full(3, 1e300)):
        assert math.isnan(pearson(x, constant))
        assert math.isnan(spearman(x, constant))
    assert pearson(x * 1e300, -x * 1e-300) == pytest.approx(-1, abs=1e-15)
    assert -1 <= pearson(x * 1e300, -x * 1e-300) <= pearson(x, x) <= 1


def test_every_quantity_of_the_real_run_goes_with_every_metric(
    training_run: TrainingRun, real_series: RealSeries
) -> None:
    data = real_series.data
    evals = read_evals(str(training_run.evals))
    assert evals.metrics == ("first_chain_loss", "second_chain_loss")
    values, left = join(data.checkpoints, evals)
    assert left == ()
    assert np.isfinite(values).all()
    assert len(evals.rows) == len(data.checkpoints)
    # the row of the soup is found by its revision
    soup = [checkpoint.label for checkpoint in data.checkpoints].index(SOUP)
    assert values[soup, 0] == evals.rows[-1].values["first_chain_loss"]
    found = correlate(data, evals)
    levels = {level: len(data.levels[level].names) for level in ("total", "module")}
    assert len(found) == 2 * len(QUANTITIES) * sum(levels.values())
    trajectories = {level: Trajectory.of(data.levels[level], data.checkpoints) for level in levels}
    compared = 0
    for one in found:
        names = data.levels[one.level].names
        x = getattr(trajectories[one.level], one.quantity)[:, names.index(one.row)]
        y = values[:, evals.metrics.index(one.metric)]
        both = np.isfinite(x)
        assert one.n == both.sum()
        if len(set(x[both])) < 2:
            assert math.isnan(one.pearson)
            continue
        compared += 1
        expected = scipy.stats.pearsonr(x[both], y[both]).statistic
        assert one.pearson == pytest.approx(expected, abs=1e-9)
        expected = scipy.stats.spearmanr(x[both], y[both]).statistic
        assert one.spearman == pytest.approx(expected, abs=1e-9)
    assert compared > 300
    # the loss goes down as the weights go away from where they began
    far = next(c for c in found if c.quantity == "distance_from_first" and c.level == "total")
    assert far.spearman < -0.8


TREE = [
    SeriesCheckpoint("main", "", "", -1, stage=1, step=100),
    SeriesCheckpoint("one", "", "", 0, stage=2, ingredient=1, step=100),
    SeriesCheckpoint("two", "", "", 0, stage=2, ingredient=2, step=100),
]


def test_lines_find_their_checkpoints(tmp_path: Path) -> None:
    text = (
        "\ufeffStep, Stage ,ingredient,REVISION,acc,loss\r\n"
        "100,1,,,0.5,nan\r\n"
        "\r\n"
        "1e2,2,2,,,2\r\n"
        "7,,,one,0.25,3\r\n"
        "300,1,,,1,1\r\n"
    )
    evals = read_evals(written(tmp_path, text))
    values, left = join(TREE, evals)
    np.testing.assert_array_equal(values, [[0.5, np.nan], [0.25, 3], [np.nan, 2]])
    assert [(row.line, row.describe()) for row in left] == [(6, "stage 1, step 300")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty, expected a header of step and metrics"),
        ("\n \n", "the file is empty"),
        ("stage,acc\n1,2\n", "there is no column 'step' or 'revision', only stage, acc"),
        ("step,stage\n1,2\n", "there is no column of a metric, only step, stage"),
        ("step,acc,acc\n1,2,3\n", "two columns are named 'acc', expected one"),
        ("step,STEP,acc\n1,2,3\n", "two columns are named 'step', expected one"),
        ("step,,acc\n1,2,3\n", "column 2 has no name"),
        ("step,acc\n1\n", "line 2 has 1 columns, expected 2 as in the header"),
        ("step,acc\n1,0.5\n2,0.5x\n3,1\n", "line 3: acc is '0.5x', expected a number"),
        ("step,notes\n1,good\n2,bad\n", "there is no column of a metric, only step, notes"),
        ("step,acc\n1,2,3\n", "line 2 has 3 columns, expected 2 as in the header"),
        ("step,ingredient,acc\n1,1+x,1\n", "line 2: ingredient is '1+x', expected whole numbers"),
        ("step,acc\n1,inf\n", "line 2: acc is 'inf', expected a number"),
        ("step,acc\n1.5,1\n", "line 2: step is '1.5', expected a whole number"),
        ("step,acc\nx,1\n", "line 2: step is 'x', expected a whole number"),
        ("step,acc\n,1\n", "line 2 has neither step nor revision"),
        ("step,acc\n1,1\n1,1\n", None),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path: Path, text: str, says: str | None) -> None:
    path = written(tmp_path, text)
    if says is None:
        evals = read_evals(path)
        with pytest.raises(ValueError, match="lines 2 and 3 are both of step1, expected one"):
            join(chain(2, step=[0, 1]), evals)
        return
    with pytest.raises(ValueError, match=f"^{path}: ") as raised:
        read_evals(path)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_ingredients_of_a_soup_are_its_line(tmp_path: Path) -> None:
    soup = SeriesCheckpoint("stage2-ingredient1+2+3-step100", "", "", 0, stage=2, step=100)
    text = "step,stage,ingredient,acc\n100,2,3+1+2,4\n100,2,1,5\n100,2,1+2,6\n"
    values, left = join([*TREE, soup], read_evals(written(tmp_path, text)))
    np.testing.assert_array_equal(values[:, 0], [np.nan, 5, np.nan, 4])
    assert [row.describe() for row in left] == ["stage 2, ingredient 1+2, step 100"]


def test_too_few_lines_are_no_correlation(tmp_path: Path) -> None:
    run = tmp_path / "run"
    put_chain(run, ["step100", "step200", "step300"])
    path = written(tmp_path, "step,acc\n100,1\n300,2\n")
    text = invoke("series", run, "--evals", path).stdout
    assert "no correlations: 2 checkpoints at most with a metric that varies" in text
    assert "Spearman" not in text


def test_text_is_left_out_and_told(tmp_path: Path) -> None:
    """And a share in percent is a share, and what a spreadsheet leaves at an end is nothing."""
    text = (
        "step,notes,acc,url,empty,,\n"
        "100,first,71 %,https://a,,,\n"
        "200,,0.72,,,,\n"
        "300,7,73%,https://b,n/a,,\n"
    )
    path = written(tmp_path, text)
    evals = read_evals(path)
    assert (evals.metrics, evals.left_out) == (("acc", "empty"), ("notes", "url"))
    assert [row.values["acc"] for row in evals.rows] == [0.71, 0.72, 0.73]
    run = tmp_path / "run"
    put_chain(run, ["step100", "step200", "step300"])
    outcome = invoke("series", run, "--evals", path)
    assert outcome.status == 0
    assert f"note: {path}: of text, so no metrics, and left out: notes, url" in outcome.stderr


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "evals.csv"
    path.write_bytes(b"step,acc\n1,\xff\n")
    with pytest.raises(ValueError, match="byte 11 is not UTF-8, expected CSV"):
        read_evals(str(path))
    with pytest.raises(FileNotFoundError):
        read_evals(str(tmp_path / "none.csv"))


def test_a_step_of_several_checkpoints_must_be_told_apart(tmp_path: Path) -> None:
    evals = read_evals(written(tmp_path, "step,acc\n100,1\n"))
    with pytest.raises(ValueError, match="line 2: step 100 is both main and one, expected stage"):
        join(TREE, evals)


def test_printed_labels_are_revisions_and_lines_of_no_checkpoint_are_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    put_chain(run, [f"stage1-step{step}-tokens{step}B" for step in (1, 2, 3)])
    text = "revision,acc\nstage1-step1,1\nstage1-step2-tokens2B,2\nstage1-step9,3\n"
    path = written(tmp_path, text)
    report = ckptdiff.series(run).with_evals(path)
    assert [row.line for row in report.unmatched_evals] == [4]
    assert max(one.n for one in report.correlations) == 2
    outcome = invoke("series", run, "--evals", path)
    assert f"warning: {path}: 1 of 3 lines of no checkpoint: line 4: revision" in outcome.stderr
    with pytest.raises(ValueError, match="none of 1 lines is of a checkpoint of the series"):
        ckptdiff.series(run).with_evals(written(tmp_path, "step,acc\n77,1\n"))


def test_a_glob_given_twice_is_saved_and_shown(tmp_path: Path) -> None:
    run = tmp_path / "run"
    put_chain(run, ["step1", "step2"])
    report = ckptdiff.series(run, include=["embed*", "embed*"])
    report.save(tmp_path / "saved")
    assert SeriesReport.load(tmp_path / "saved").options == report.options
