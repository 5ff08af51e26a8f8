"""Events: none on a calm run, the right ones on a disturbed one, and the real run's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from ckptdiff.dynamics.data import ROOT, SeriesCheckpoint, SeriesData
from ckptdiff.dynamics.events import KINDS, THRESHOLD, Event, find_events
from ckptdiff.dynamics.robust import Branches, robust_scores
from numpy.typing import NDArray

from tests.series_oracle import RealSeries, chain, series_of
from tests.training_run import DUPLICATE, SPIKE, stage1_label

Floats = NDArray[np.float64]

MODULES = ("attn.q", "attn.o", "mlp.up", "mlp.down")
SHAPE = 300


def simulated(seed: int, count: int = 40) -> list[dict[str, Floats]]:
    """A run as calm as runs are: a drift, a momentum, and noise that goes down with the rate."""
    random = np.random.default_rng(seed)
    names = [f"layers.{layer}.{module}.weight" for layer in range(3) for module in MODULES]
    w = {name: random.standard_normal(SHAPE) for name in names}
    drift = {name: random.standard_normal(SHAPE) for name in names}
    momentum = {name: np.zeros(SHAPE) for name in names}
    series = [w]
    for t in range(1, count):
        rate = 0.03 * (0.1 + 0.9 * math.cos(0.5 * math.pi * t / count))
        for name in names:
            momentum[name] = 0.6 * momentum[name] + random.standard_normal(SHAPE)
        # the size of an update varies by a tenth, as gradients do
        vary = math.exp(0.1 * random.standard_normal())
        w = {
            name: series[-1][name] + vary * rate * (0.5 * drift[name] + momentum[name])
            for name in names
        }
        series.append(w)
    return series


def disturbed(
    change: Callable[[str, Floats], Floats], *, at: int = 20, lasting: bool
) -> tuple[Event, ...]:
    """The events where the weights are changed from a checkpoint on, or at it alone."""
    series = simulated(0)
    for t in range(at, len(series) if lasting else at + 1):
        series[t] = {name: change(name, w) for name, w in series[t].items()}
    return find_events(series_of(series, chain(len(series), step=range(0, 10 * len(series), 10))))


def kinds(events: Sequence[Event], at: int) -> set[str]:
    return {event.kind for event in events if event.checkpoint == at}


def test_calm_runs_have_few_events() -> None:
    found = [find_events(series_of(simulated(seed), chain(40))) for seed in range(8)]
    # 8 runs of 40 checkpoints, 5 measures of 4 modules
    assert sum(map(len, found)) <= 1, found


def warming_up(seed: int, warm_up: int, count: int = 30) -> list[dict[str, Floats]]:
    """A run whose weights grow by some per cent an interval while the rate is high."""
    random = np.random.default_rng(seed)
    names = [f"layers.0.{module}.weight" for module in MODULES]
    w = {name: 0.3 * random.standard_normal(SHAPE) for name in names}
    drift = {name: random.standard_normal(SHAPE) for name in names}
    momentum = {name: np.zeros(SHAPE) for name in names}
    series = [w]
    for t in range(1, count):
        rate = 0.05 * min(1, t / warm_up) * (0.1 + 0.45 * (1 + math.cos(math.pi * t / count)))
        for name in names:
            momentum[name] = 0.6 * momentum[name] + random.standard_normal(SHAPE)
        rate *= math.exp(0.1 * random.standard_normal())
        w = {
            name: held + rate * (0.5 * drift[name] + momentum[name] + 2 * math.exp(-t / 5) * held)
            for name, held in series[-1].items()
        }
        series.append(w)
    return series


def test_a_warm_up_is_no_instability() -> None:
    found = [
        event
        for warm_up in (1, 3, 5, 8)
        for seed in range(3)
        for event in find_events(series_of(warming_up(seed, warm_up), chain(30)))
    ]
    # 12 runs of 30 checkpoints; there were 14 when growth had no floor of its own kind
    assert len(found) <= 1, found


@pytest.mark.parametrize("at", [3, 4, 6, 29])
@pytest.mark.parametrize("lasting", [True, False])
def test_a_leap_of_ten_times_is_found_from_the_third_interval_on(at: int, lasting: bool) -> None:
    series = warming_up(0, 4)
    for t in range(at, len(series) if lasting else at + 1):
        series[t] = {
            name: 10 * w if name.startswith("layers.0.mlp.up") else w
            for name, w in series[t].items()
        }
    events = find_events(series_of(series, chain(len(series))))
    jump = next(event for event in events if event.kind == "norm_jump")
    assert (jump.checkpoint, jump.evidence["row"]) == (at, "layers.*.mlp.up")
    assert jump.evidence["ratio"] == pytest.approx(10, rel=0.2)
    assert "update_norm_jump" in kinds(events, at)


@pytest.mark.parametrize("at", [3, 14, 39])
def test_a_copy_changes_nothing_but_the_interval_after_it(at: int) -> None:
    """Events are those of the run without the copy."""
    series = simulated(0)
    series[20] = {name: 1.3 * w for name, w in series[20].items()}
    steps = list(range(0, 400, 10))
    without = [index for index in range(40) if index != at]
    series[at] = series[at - 1]
    whole = find_events(series_of(series, chain(40, step=steps)))
    others = find_events(
        series_of([series[i] for i in without], chain(39, step=[steps[i] for i in without]))
    )
    assert {event.kind for event in others} >= {"norm_jump", "update_norm_jump"}
    moved = [(event.kind, without[event.checkpoint], event.tensors) for event in others]
    assert [(event.kind, event.checkpoint, event.tensors) for event in whole] == moved
    for mine, expected in zip(whole, others, strict=True):
        assert mine.score == pytest.approx(expected.score, rel=1e-9)
        for name, value in expected.evidence.items():
            got = mine.evidence[name]
            assert got == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9))


def test_the_real_runs_copy_and_what_follows_it_are_no_events(real_series: RealSeries) -> None:
    labels = [checkpoint.label for checkpoint in real_series.data.checkpoints]
    copy = labels.index(DUPLICATE)
    found = find_events(real_series.data)
    assert not {event.checkpoint for event in found} & {copy, copy + 1}


def test_a_scaled_layer_is_a_jump_of_its_norm_and_a_turn_back() -> None:
    events = disturbed(lambda name, w: w * 1.5 if "layers.1.mlp.up" in name else w, lasting=False)
    assert {event.checkpoint for event in events} <= {20, 21}
    assert kinds(events, 20) >= {"update_norm_jump", "norm_jump"}
    # and back, against the way it came
    assert kinds(events, 21) >= {"update_norm_jump", "norm_jump", "loss_of_direction"}
    jump = next(event for event in events if event.kind == "norm_jump" and event.checkpoint == 20)
    assert jump.tensors == ("layers.1.mlp.up.weight",)
    assert jump.evidence["row"] == "layers.*.mlp.up"
    assert jump.evidence["modules"] == 1
    assert jump.evidence["of_modules"] == len(MODULES)
    # one of three layers by a half: the module's norm by the root of (2 + 2.25) / 3
    assert jump.evidence["ratio"] == pytest.approx(math.sqrt(4.25 / 3), rel=0.02)
    assert jump.evidence["value"] == pytest.approx(
        float(jump.evidence["before"]) * math.sqrt(4.25 / 3), rel=0.02
    )
    assert jump.score > THRESHOLD
    back = next(event for event in events if event.kind == "norm_jump" and event.checkpoint == 21)
    assert back.score < -THRESHOLD
    assert back.evidence["ratio"] == pytest.approx(math.sqrt(3 / 4.25), rel=0.02)


def test_one_large_weight_is_a_jump_of_the_largest_alone() -> None:
    def outlier(name: str, w: Floats) -> Floats:
        return np.where(np.arange(SHAPE) == 7, 6.0, w) if name == "layers.2.attn.q.weight" else w

    events = disturbed(outlier, lasting=True)
    jump = next(event for event in events if event.kind == "abs_max_jump")
    assert jump.checkpoint == 20
    assert jump.tensors == ("layers.2.attn.q.weight",)
    assert jump.evidence["value"] == 6


def test_a_reversed_drift_is_a_turning_point() -> None:
    series = simulated(3, count=21)
    # as if everything were undone from there on
    series += [
        {name: w + 1e-3 * np.cos(np.arange(SHAPE) + t) for name, w in series[20 - t].items()}
        for t in range(1, 20)
    ]
    events = find_events(series_of(series, chain(len(series))))
    turns = [event for event in events if event.kind == "turning_point"]
    assert [event.checkpoint for event in turns] == [20]
    assert turns[0].evidence["value"] == pytest.approx(-1, abs=0.01)
    assert len(turns[0].tensors) == 5


def test_an_update_that_stops_is_a_jump_down() -> None:
    series = simulated(0)
    series[20] = {name: 0.95 * series[19][name] + 0.05 * w for name, w in series[20].items()}
    events = find_events(series_of(series, chain(len(series))))
    jump = next(event for event in events if event.checkpoint == 20)
    assert jump.kind == "update_norm_jump"
    assert jump.score < -THRESHOLD
    assert jump.evidence["ratio"] == pytest.approx(0.05, rel=0.3)


def test_an_interval_of_another_length_is_no_event() -> None:
    whole = simulated(0, count=60)
    kept = [*range(0, 20), *range(20, 40, 4), *range(40, 60)]
    steps = [10 * t for t in kept]
    data = series_of([whole[t] for t in kept], chain(len(kept), step=steps))
    assert find_events(data) == ()
    # as it would be if the steps were not known
    unknown = series_of([whole[t] for t in kept], chain(len(kept)))
    assert find_events(unknown)


def test_the_first_nan_and_infinity_name_their_tensors() -> None:
    series = [{"a.weight": np.ones(4), "b.weight": np.ones(4)} for _ in range(4)]
    series[1]["a.weight"] = np.array([1, np.nan, 1, 1])
    series[2]["a.weight"] = np.array([1, np.nan, np.nan, 1])
    series[3]["a.weight"] = np.array([1, np.nan, 1, np.inf])
    series[3]["b.weight"] = np.array([-np.inf, np.inf, 1, 1])
    events = find_events(series_of(series, chain(4)))
    assert [(event.kind, event.checkpoint, event.tensors) for event in events] == [
        ("first_nonfinite", 1, ("a.weight",)),
        ("first_nonfinite", 3, ("b.weight",)),
    ]
    assert events[0].evidence == {"tensors": 1, "nan": 1, "pos_inf": 0, "neg_inf": 0}
    assert events[1].evidence == {"tensors": 1, "nan": 0, "pos_inf": 1, "neg_inf": 1}
    assert events[0].score == math.inf


def test_a_nan_on_one_branch_is_first_there_and_not_on_the_other() -> None:
    good, bad = {"w": np.ones(2)}, {"w": np.array([np.nan, 1])}
    checkpoints = [
        SeriesCheckpoint(str(index), str(index), "memory", parent)
        for index, parent in enumerate((ROOT, 0, 1, 0, 3))
    ]
    events = find_events(series_of([good, bad, bad, good, bad], checkpoints))
    assert [event.checkpoint for event in events] == [1, 4]


def test_the_real_run_has_its_spike_its_boundaries_and_little_else(
    real_series: RealSeries,
) -> None:
    data = real_series.data
    checkpoints = data.checkpoints
    labels = [checkpoint.label for checkpoint in checkpoints]
    events = find_events(data)
    spike = labels.index(SPIKE)
    assert kinds(events, spike) >= {"update_norm_jump", "norm_jump", "abs_max_jump"}
    jump = next(event for event in events if event.checkpoint == spike)
    assert jump.score > 2 * THRESHOLD
    assert jump.evidence["modules"] >= 10
    boundaries = [event.checkpoint for event in events if event.kind == "stage_boundary"]
    last = labels.index(stage1_label(240))
    assert boundaries == [
        t for t, checkpoint in enumerate(checkpoints) if checkpoint.parent == last
    ]
    # and where it goes on after the spike; not where the head grew by 4 % at the highest rate
    allowed = {spike, spike + 1, *boundaries}
    assert {event.checkpoint for event in events} <= allowed
    assert [KINDS.index(event.kind) for event in events if event.checkpoint == spike] == sorted(
        KINDS.index(event.kind) for event in events if event.checkpoint == spike
    )


def test_a_stage_whose_first_checkpoint_diverged_has_one_boundary() -> None:
    tree = [
        (ROOT, 1, None), (0, 1, None), (1, 2, 1), (1, 2, 1), (3, 2, 1), (1, 2, 2), (5, 2, 2),
        (1, 2, None), (1, 2, None),
    ]  # fmt: skip
    checkpoints = [
        SeriesCheckpoint(
            str(at), "", "memory", parent, stage=stage, ingredient=part, is_soup=at > 6
        )
        for at, (parent, stage, part) in enumerate(tree)
    ]
    weights = [{"w": np.ones(4) + index} for index in range(len(tree))]
    weights[2] = {"w": np.full(4, np.nan)}
    events = find_events(series_of(weights, checkpoints))
    found = [event.checkpoint for event in events if event.kind == "stage_boundary"]
    assert found == [2, 5, 7, 8]


def test_few_checkpoints_and_none_have_no_scores() -> None:
    assert find_events(SeriesData((), {})) == ()
    for count in (1, 2, 5):
        assert find_events(series_of(simulated(0, count), chain(count))) == ()


# The score itself.


def naive_expected(x: Floats, t: int) -> float:
    """The line of Theil and Sen through the neighbours, at t."""
    near = [s for s in range(max(0, t - 5), min(len(x), t + 6)) if s != t and np.isfinite(x[s])]
    slope = np.median([(x[b] - x[a]) / (b - a) for a in near for b in near if a < b])
    return float(np.median([x[s] - slope * (s - t) for s in near]))


def test_what_is_expected_is_the_line_through_the_neighbours() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((30, 3)) + 0.3 * np.arange(30)[:, None]
    x[11, 1] = np.nan
    scores = robust_scores(x, Branches.within_stages(chain(30)), 1e-9)
    for row in range(3):
        for t in range(2, 30):
            assert scores.expected[t, row] == pytest.approx(naive_expected(x[:, row], t))
    assert np.isnan(scores.score[:2]).all()
    assert np.isnan(scores.score[11, 1])
    # in the middle of a branch the residual is not divided by anything
    t, row = 15, 0
    around = [s for s in range(30) if np.isfinite(scores.expected[s, row])]
    residuals = [abs(scores.score[s, row] * scores.scale[s, row]) for s in around]
    expected = 1.4826 * np.median(residuals) * (1 + 5 / len(around))
    assert scores.scale[t, row] == pytest.approx(expected)
    assert scores.score[t, row] == pytest.approx(
        (x[t, row] - scores.expected[t, row]) / scores.scale[t, row]
    )


def test_the_scale_is_not_less_than_a_part_of_what_is_usual() -> None:
    x = np.full((30, 1), 0.2)
    x[12] = 0.5
    branches = Branches.within_stages(chain(30))
    assert robust_scores(x, branches, 0.01).score[12, 0] == pytest.approx(30)
    assert robust_scores(x, branches, 0.01, 0.5).score[12, 0] == pytest.approx(3)
    assert robust_scores(-x, branches, 0.01, 0.5).score[12, 0] == pytest.approx(-3)
    assert robust_scores(x, branches, 0.3, 0.5).score[12, 0] == pytest.approx(1)


def test_noise_is_rarely_unusual() -> None:
    random = np.random.default_rng(0)
    for count in (10, 25, 100):
        scores = robust_scores(
            random.standard_normal((count, 1000)), Branches.within_stages(chain(count)), 1e-9
        ).score
        assert np.mean(np.abs(scores[np.isfinite(scores)]) >= THRESHOLD) < 5e-4


def test_neighbours_end_where_a_stage_does() -> None:
    checkpoints = chain(20, stage=[1] * 10 + [2] * 10)
    assert Branches.within_stages(checkpoints).after(8, 5) == [9]
    assert Branches.within_stages(checkpoints).before(10, 5) == []
    assert Branches.through_stages(checkpoints).after(8, 3) == [9, 10, 11]
    assert Branches.through_stages(checkpoints).before(10, 2) == [9, 8]


def test_the_branch_goes_on_in_its_own_stage() -> None:
    checkpoints = [
        SeriesCheckpoint(str(index), str(index), "memory", parent, stage=stage)
        for index, (parent, stage) in enumerate(((ROOT, 1), (0, 2), (0, 1), (2, 1), (3, 2), (3, 3)))
    ]
    assert Branches.through_stages(checkpoints).following == (2, ROOT, 3, 4, ROOT, ROOT)
