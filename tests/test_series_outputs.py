"""Every quantity of a series, as arrays, JSON and CSV, against float64 on the tensors themselves.

The run is the real one, read by the core; tests/test_trajectory.py holds the formulas to the same
truth on what the oracle has read. Only the learning rate, which its directories do not tell, is
put in.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ckptdiff
import numpy as np
import pytest
from ckptdiff.dynamics.data import ROOT, SeriesData
from ckptdiff.dynamics.report import Level, SeriesReport
from ckptdiff.dynamics.trajectory import QUANTITIES

from tests.oracle import DIFF_SUMS, STATS_SUMS, diff_oracle, stats_oracle
from tests.series_oracle import (
    GROUPS,
    Floats,
    RealSeries,
    distances_of_row,
    quantities_of,
    squares_of_tensors,
    vectors,
)
from tests.training_run import DUPLICATE, TrainingRun
from tests.writers import tensor

LEVELS: tuple[Level, ...] = ("tensor", "layer", "module", "total")


@pytest.fixture(scope="module")
def report(training_run: TrainingRun, real_series: RealSeries) -> SeriesReport:
    read = ckptdiff.series(training_run.folder)
    rates = [one.learning_rate for one in real_series.data.checkpoints]
    checkpoints = tuple(
        replace(one, learning_rate=rate) for one, rate in zip(read.checkpoints, rates, strict=True)
    )
    return SeriesReport(SeriesData(checkpoints, read.data.levels), problems=read.problems)


@pytest.fixture(scope="module")
def squares(real_series: RealSeries) -> dict[str, Floats]:
    return squares_of_tensors(real_series.weights)


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest) -> Level:
    name: Level = request.param
    return name


@pytest.fixture(scope="module")
def folder(level: Level, report: SeriesReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tidy files of a level."""
    path = tmp_path_factory.mktemp("csv")
    report.to_csv(path, by=level)
    return path


@pytest.fixture(scope="module")
def document(level: Level, report: SeriesReport) -> dict[str, Any]:
    """The JSON object of a level."""
    loaded = json.loads(report.to_json(by=level))
    assert loaded["levels"][0]["level"] == "total"
    of_level: dict[str, Any] = loaded["levels"][-1]
    assert of_level["level"] == level
    return of_level


def rows_of(folder: Path, name: str, level: Level) -> Iterator[dict[str, str]]:
    with open(folder / f"{name}.csv", newline="") as file:
        yield from (row for row in csv.DictReader(file) if row["level"] == level)


def as_array(nested: object) -> Floats:
    """A nested list of JSON, of which a string is a number that is not finite."""
    return np.array(nested, dtype=np.float64)


def test_every_quantity(
    level: Level,
    report: SeriesReport,
    real_series: RealSeries,
    document: dict[str, Any],
    folder: Path,
) -> None:
    trajectory = report.trajectory(level)
    assert {GROUPS[level](name) for name in real_series.weights[0]} == set(trajectory.names)
    for row, name in enumerate(trajectory.names):
        w = vectors(real_series.weights, level, name)
        expected = quantities_of(w, report.checkpoints, (DUPLICATE,))
        for quantity in QUANTITIES:
            np.testing.assert_allclose(
                getattr(trajectory, quantity)[:, row],
                expected[quantity],
                rtol=1e-7,
                # what remains where a checkpoint is a copy of another
                atol=1e-7,
                err_msg=f"{quantity} of {name}",
            )
    found = {
        (row["row"], row["checkpoint"], row["quantity"]): float(row["value"])
        for row in rows_of(folder, "updates", level)
    }
    for quantity in QUANTITIES:
        values = getattr(trajectory, quantity)
        np.testing.assert_array_equal(as_array(document["trajectory"][quantity]), values)
        written = [
            [found.get((name, one.label, quantity), math.nan) for name in trajectory.names]
            for one in report.checkpoints
        ]
        np.testing.assert_array_equal(written, values, err_msg=quantity)


def test_all_distances(
    level: Level,
    report: SeriesReport,
    squares: dict[str, Floats],
    document: dict[str, Any],
    folder: Path,
) -> None:
    trajectory = report.trajectory(level)
    expected = np.array([distances_of_row(squares, level, name) for name in trajectory.names])
    way = trajectory.path_length.max(axis=0)[:, None, None]
    assert (np.abs(trajectory.distances - expected) <= 1e-7 * expected + 1e-7 * way).all()
    np.testing.assert_array_equal(as_array(document["distances"]), trajectory.distances)
    written = np.zeros(expected.shape)
    for row in rows_of(folder, "distances", level):
        a, b = report.index(row["a"]), report.index(row["b"])
        at = trajectory.names.index(row["row"])
        written[at, a, b] = written[at, b, a] = float(row["distance"])
    np.testing.assert_array_equal(written, trajectory.distances)


def test_principal_components(
    level: Level,
    report: SeriesReport,
    real_series: RealSeries,
    document: dict[str, Any],
    folder: Path,
) -> None:
    """Those of the covariance of the checkpoints, from the singular values of their weights."""
    components = report.principal_components(level)
    assert components.coordinates.shape == (len(components.names), len(report), 3)
    for row, name in enumerate(components.names):
        w = np.array(vectors(real_series.weights, level, name))
        centred = w - w.mean(axis=0)
        # as the singular value decomposition of N rows, in a tenth of the time
        variances, directions = np.linalg.eigh(centred @ centred.T)
        singular = np.sqrt(np.maximum(variances[::-1], 0))
        expected = directions[:, ::-1][:, :3] * singular[:3]
        # of the two directions, that in which the farthest coordinate is positive
        expected *= np.sign(expected[np.abs(expected).argmax(axis=0), range(3)])
        found = components.coordinates[row]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * singular[0], err_msg=name)
        shares = singular[:3] ** 2 / (singular**2).sum()
        np.testing.assert_allclose(components.explained[row], shares, rtol=1e-7, err_msg=name)
    in_json = document["principal_components"]
    np.testing.assert_array_equal(as_array(in_json["coordinates"]), components.coordinates)
    np.testing.assert_array_equal(as_array(in_json["explained"]), components.explained)
    coordinates = np.full(components.coordinates.shape, np.nan)
    for line in rows_of(folder, "coordinates", level):
        at = components.names.index(line["row"]), report.index(line["checkpoint"])
        coordinates[(*at, int(line["component"]) - 1)] = float(line["coordinate"])
    np.testing.assert_array_equal(coordinates, components.coordinates)
    explained = [float(line["explained"]) for line in rows_of(folder, "components", level)]
    np.testing.assert_array_equal(explained, components.explained.ravel())


def test_diffusion_exponents(
    level: Level,
    report: SeriesReport,
    squares: dict[str, Floats],
    document: dict[str, Any],
    folder: Path,
) -> None:
    """The slope over all pairs of one branch, stage 2 counting its steps anew."""
    checkpoints = report.checkpoints
    end = max(one.step or 0 for one in checkpoints if one.stage == 1)
    position = [(one.step or 0) + end * (one.stage == 2) for one in checkpoints]
    copy = report.index(DUPLICATE)
    pairs = []
    for later in range(len(report)):
        earlier = checkpoints[later].parent
        while earlier != ROOT:
            if copy not in (earlier, later):
                pairs.append((earlier, later))
            earlier = checkpoints[earlier].parent
    trajectory = report.trajectory(level)
    expected = []
    for name in trajectory.names:
        distances = distances_of_row(squares, level, name)
        # norms in bf16 stand still at times
        moved = [(a, b) for a, b in pairs if distances[a, b]]
        lags = np.log([position[b] - position[a] for a, b in moved])
        expected.append(np.polyfit(lags, [2 * np.log(distances[pair]) for pair in moved], 1)[0])
    np.testing.assert_allclose(trajectory.diffusion_exponent, expected, rtol=1e-7)
    found = as_array(document["diffusion_exponent"])
    np.testing.assert_array_equal(found, trajectory.diffusion_exponent)
    lines = list(rows_of(folder, "rows", level))
    assert [line["row"] for line in lines] == list(trajectory.names)
    assert {line["clock"] for line in lines} == {"steps"}
    np.testing.assert_array_equal(
        [float(line["diffusion_exponent"]) for line in lines], trajectory.diffusion_exponent
    )
    assert [int(line["numel"]) for line in lines] == report.level(level).numel.tolist()


@pytest.mark.parametrize("kind", ["stats", "diffs"])
def test_columns_of_stats_and_diffs(
    kind: str,
    level: Level,
    report: SeriesReport,
    real_series: RealSeries,
    document: dict[str, Any],
    folder: Path,
) -> None:
    """Of a few rows and checkpoints, that of the instability and the copy among them."""
    oracle_sums = STATS_SUMS if kind == "stats" else DIFF_SUMS
    of_level = report.level(level)
    columns = getattr(of_level, kind)
    lines = {(one["row"], one["checkpoint"]): one for one in rows_of(folder, kind, level)}
    updated = sum(one.parent != ROOT for one in report.checkpoints)
    assert len(lines) == len(of_level.names) * (len(report) if kind == "stats" else updated)
    for name, values in columns.items():
        np.testing.assert_array_equal(as_array(document[kind][name]), values)
    for at in (1, 14, report.index(DUPLICATE), len(report) - 1):
        for row in {0, len(of_level.names) // 2, len(of_level.names) - 1}:
            name, checkpoint = of_level.names[row], report.checkpoints[at]
            w = vectors(real_series.weights, level, name)
            here, before = tensor(w[at], "BF16"), tensor(w[checkpoint.parent], "BF16")
            truth = stats_oracle(here) if kind == "stats" else diff_oracle(before, here)
            line = lines[name, checkpoint.label]
            for column, values in columns.items():
                value = float(line[column])
                np.testing.assert_array_equal(value, values[at, row], err_msg=column)
                if column in ("tensors", "changed_bf16"):
                    continue
                expected = truth.columns[column]
                if expected is None:
                    assert math.isnan(value), column
                elif column in oracle_sums:
                    scale = truth.scales.get(column, abs(float(expected)))  # type: ignore[arg-type]
                    assert abs(value - float(expected)) <= 1e-7 * scale, column  # type: ignore[arg-type]
                else:
                    assert value == expected, column
