"""Plots: which there are, that they are the same every time, and what keeps them from it."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ckptdiff.dynamics.data import ROOT, SeriesCheckpoint, SeriesData
from ckptdiff.dynamics.evals import read_evals
from ckptdiff.dynamics.events import Event, find_events
from ckptdiff.render import plots
from ckptdiff.render.plots import write_plots

from tests.cli import environment
from tests.series_oracle import RealSeries, chain, series_of
from tests.series_runs import chain as put_steps
from tests.training_run import DUPLICATE, TrainingRun

PLOTS = ("update_norm", "relative_update", "cosine_of_updates", "distances", "trajectory")


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    # what is drawn is the same, in a fraction of the time
    monkeypatch.setattr(plots, "_DOTS_PER_INCH", 40)


def tiny(count: int = 6) -> SeriesData:
    random = np.random.default_rng(0)
    return series_of(
        [{f"layers.{i}.w": random.standard_normal(9) for i in range(3)} for _ in range(count)],
        chain(count, step=range(count), stage=[1] * (count - 2) + [2] * 2),
    )


def text_of(path: str) -> str:
    """The words of an SVG, which stand in comments beside the outlines that they are drawn with."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", Path(path).read_text()))


def test_the_plots_of_the_real_run(
    training_run: TrainingRun, real_series: RealSeries, tmp_path: Path
) -> None:
    data = real_series.data
    folder = tmp_path / "new" / "plots"
    evals = replace(read_evals(str(training_run.evals)), metrics=("first_chain_loss",))
    events = find_events(data)
    written = write_plots(data, events, str(folder), evals)
    names = [*PLOTS, "metric_first_chain_loss"]
    assert written == [str(folder / f"{n}.{suffix}") for n in names for suffix in ("png", "svg")]
    assert sorted(map(str, folder.iterdir())) == sorted(written)
    for path in written:
        start = Path(path).read_bytes()[:8]
        assert start == b"\x89PNG\r\n\x1a\n" if path.endswith("png") else start[:5] == b"<?xml"
    heat = text_of(str(folder / "update_norm.svg"))
    for words in (
        "update norm ‖u‖: the whole model",
        "training (steps)",
        "checkpoint (stage.ingredient:step)",
        "update norm ‖u‖: by layer",
        "model.layers.3",
        "norm jump",
        "stage boundary",
        "stage 2, ingredient 3",
        "stage 2, soup",
    ):
        assert words in heat, words
    trajectory = text_of(str(folder / "trajectory.svg"))
    assert re.search(r"first principal component \(\d\d\.\d % of the variance\)", trajectory)
    assert "stage 2 alone, from where it began" in trajectory
    metric = text_of(str(folder / "metric_first_chain_loss.svg"))
    assert "first_chain_loss" in metric
    assert len(re.findall(r"r = -?\d\.\d\d   \u03c1 = -?\d\.\d\d   n = 3\d", metric)) == 13


def test_the_same_series_gives_the_same_bytes_whatever_the_users_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    data = tiny()
    first = write_plots(data, find_events(data), str(tmp_path / "1"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": None, "lines.linewidth": 9}):
        second = write_plots(data, find_events(data), str(tmp_path / "2"))
        assert matplotlib.rcParams["font.size"] == 20
    for one, other in zip(first, second, strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes(), one
    assert "<dc:date>" not in Path(first[1]).read_text()


def test_no_position_has_bits_that_the_solver_leaves_to_chance() -> None:
    import matplotlib

    with matplotlib.rc_context():
        figure = plots._figure(4.1, 3.3)
        for axes in figure.subplots(2, 3).flat:
            axes.set_ylabel("y")
        plots._settle(figure)
        for axes in figure.axes:
            corners = axes.get_position(original=True).get_points()
            # of exact sums, as a box keeps its size and not its far corner
            np.testing.assert_allclose(corners, np.round(corners, 6), rtol=0, atol=1e-15)
            assert corners[0].tolist() == np.round(corners[0], 6).tolist()


def test_nothing_is_too_odd_to_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No steps or stages, NaN in a layer, a name with dollars, a metric with slashes, no metric."""
    monkeypatch.setattr(plots, "_FORMATS", {"svg": {"Date": None}})
    monkeypatch.setattr(plots, "QUANTITIES", plots.QUANTITIES[:2])
    random = np.random.default_rng(1)
    weights = [
        {"a.$x_{$.w": random.standard_normal(5), "b.w": np.full(3, math.nan), "c" * 90: np.ones(2)}
        for _ in range(5)
    ]
    checkpoints = [
        SeriesCheckpoint(f"step$\\{i}", "", "", parent)
        for i, parent in enumerate((ROOT, 0, 1, ROOT, 3))
    ]
    data = series_of(weights, checkpoints)
    evals_csv = tmp_path / "evals.csv"
    evals_csv.write_text("revision,a/../b,a:..:b,empty\nstep$\\0,1,2,\nstep$\\1,2,3,\n")
    events = [Event("first_nonfinite", 0, math.inf, {}, ("b.w",)), *find_events(data)]
    folder = tmp_path / "plots"
    written = write_plots(data, events, str(folder), read_evals(str(evals_csv)))
    names = [Path(path).name for path in written if path.endswith("svg")]
    assert names[len(PLOTS) :] == ["metric_a_.._b.svg", "metric_a_.._b_.svg", "metric_empty.svg"]
    assert {path.parent for path in folder.rglob("*")} == {folder}
    assert "n = 0" in text_of(str(folder / "metric_empty.svg"))
    nowhere = series_of([{"w": np.full(2, math.nan)}] * 3, chain(3))
    assert len(write_plots(nowhere, (), str(folder))) == len(PLOTS)


def test_no_line_leads_to_a_soup(real_series: RealSeries) -> None:
    """It was averaged, not trained: one point, a star, in the curve and in the plane."""
    data = real_series.data
    scene = plots._Scene.of(data, ())
    soup = len(data.checkpoints) - 1
    curve = plots._over_time(scene, "update_norm").axes[0]
    planes = plots._components(scene).axes
    for axes in (curve, *planes):
        lines = [line.get_xydata() for line in axes.lines]
        stars = [
            xy for line, xy in zip(axes.lines, lines, strict=True)
            if line.get_marker() == "*" and len(xy)
        ]  # fmt: skip
        ((place,),) = stars
        joined = [xy for xy in lines if len(xy) > 1 and (xy == place).all(axis=1).any()]
        assert not joined
    (own,) = (group for group in scene.groups if group.is_soup)
    assert (own.name, own.members) == ("stage 2, soup", (soup,))
    # and the child of a copy goes on from the original, which is where the copy is
    copy = [one.label for one in data.checkpoints].index(DUPLICATE)
    assert scene.parents[copy + 1] == copy - 1


def test_labels_cover_neither_one_another_nor_leave_the_plane(real_series: RealSeries) -> None:
    """Also where events stand side by side."""
    import matplotlib

    data = real_series.data
    events = [Event("turning_point", at, 9.0, {}, ()) for at in (*range(20, 26), 14, 15)]
    with matplotlib.rc_context(plots._SETTINGS):
        figure = plots._components(plots._Scene.of(data, events))
        plots._settle(figure)
        figure.draw_without_rendering()
        for axes in figure.axes:
            boxes = [text.get_window_extent() for text in axes.texts]
            assert len(boxes) >= 2
            assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)
            assert all(axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1 for box in boxes)
            for number, box in enumerate(boxes):
                assert box.count_overlaps(boxes[:number]) == 0


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (5e10, "50 B"), (2.5e9, "2.5 B"), (4e12, "4 T"), (2500, "2,500")]
)
def test_tokens_are_counted_in_billions(value: float, text: str) -> None:
    assert plots._tokens(value, None) == text


def test_a_character_that_the_font_lacks_is_spelled_out() -> None:
    """matplotlib would draw a box, and warn."""
    assert plots._shortened("层.w") == "\\u5c42.w"
    assert plots._shortened("a\nb\x1b$") == "a\\nb\\x1b\\$"
    assert plots._shortened("été ‖μ‖") == "été ‖μ‖"


ODD = {
    "still": ([1.0, 1.0, 1.0], {}),
    "all zero": ([0.0, 0.0, 0.0], {}),
    "nothing finite": ([math.nan, math.nan, math.nan], {}),
    "one that is not finite": ([1.0, math.nan, 2.0], {"step": [1, 2, 3]}),
    "tiny": ([1e-200, 2e-200, 1e-200], {}),
    "equal positions": ([1.0, 2.0, 4.0], {"step": [5, 5, 5], "tokens": [7, 7, 7]}),
    "two": ([1.0, 2.0], {}),
    "many orders of magnitude": ([1.0, 2.0, 1e9, 1.0], {"tokens": [10**15 * k for k in range(4)]}),
}


@pytest.mark.parametrize("name", ODD)
def test_nothing_warns(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are errors in tests: of empty, constant and logarithmic axes, and of glyphs."""
    monkeypatch.setattr(plots, "_FORMATS", {"svg": {"Date": None}})
    monkeypatch.setattr(plots, "QUANTITIES", plots.QUANTITIES[:2])
    values, known = ODD[name]
    checkpoints = [
        replace(one, label=f"检查点{at}") for at, one in enumerate(chain(len(values), **known))
    ]
    data = series_of(
        [{"层.w": np.full(3, value), "n" * 300: np.full(2, value)} for value in values], checkpoints
    )
    events = (Event("first_nonfinite", 1, math.inf, {}, ("w",)),)
    evals_csv = tmp_path / "evals.csv"
    lines = [f"{one.label},,1,{at}" for at, one in enumerate(checkpoints)]
    evals_csv.write_text(
        "\n".join(["revision,empty,constant,层" + "m" * 200, *lines]), encoding="utf-8"
    )
    assert (
        len(write_plots(data, events, str(tmp_path), read_evals(str(evals_csv)))) == len(PLOTS) + 3
    )


def test_the_command_says_nothing_but_what_it_wrote(tmp_path: Path) -> None:
    put_steps(tmp_path / "run", ["step1", "step2", "层"])
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-m", "ckptdiff", "series", "run", "--plots", "plots"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    lines = completed.stderr.splitlines()
    assert all(line.startswith(("ckptdiff: wrote plots/", "ckptdiff: read ")) for line in lines)


def test_one_checkpoint_has_no_plots(tmp_path: Path) -> None:
    assert write_plots(series_of([{"w": np.ones(2)}], chain(1)), (), str(tmp_path / "plots")) == []
    assert not (tmp_path / "plots").exists()


def test_without_matplotlib_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'ckptdiff\[plots\]'$"):
        write_plots(tiny(), (), str(tmp_path))


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_plots(tiny(), (), str(tmp_path / "file"))


def test_importing_the_module_imports_no_matplotlib() -> None:
    code = "import sys, ckptdiff.render.plots; sys.exit('matplotlib' in sys.modules)"
    completed = subprocess.run([sys.executable, "-c", code], env=environment(), check=False)
    assert completed.returncode == 0
