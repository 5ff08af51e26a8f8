"""Which checkpoints represent a series."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ckptdiff.dynamics.data import SeriesData
from ckptdiff.dynamics.events import Event, find_events
from ckptdiff.dynamics.pick import pick

from tests.series_oracle import RealSeries, chain, series_of
from tests.training_run import DUPLICATE, ORIGINAL, SOUP, SPIKE, stage1_label


def line(*positions: float) -> SeriesData:
    return series_of([{"w": np.array([x, 0.0])} for x in positions], chain(len(positions)))


def test_the_real_runs_end_stage_and_spike_come_first(real_series: RealSeries) -> None:
    data = real_series.data
    labels = [checkpoint.label for checkpoint in data.checkpoints]
    events = find_events(data)
    picked = pick(data, 6, events)
    assert [labels[one.index] for one in picked[:3]] == [SOUP, stage1_label(240), SPIKE]
    assert picked[0].reason == "the last of the series"
    assert picked[1].reason == "the end of stage 1"
    assert picked[2].reason.startswith("norm jump, score ")
    assert len({one.index for one in picked}) == 6
    # the choice of fewer is the beginning
    for count in range(1, 6):
        assert pick(data, count, events) == picked[:count]
    everything = pick(data, 100, events)
    chosen = {labels[one.index] for one in everything}
    assert len(everything) == len(labels) - 1
    assert len(chosen & {DUPLICATE, ORIGINAL}) == 1


def test_the_rest_are_the_farthest_from_those_chosen() -> None:
    data = line(0, 1, 2, 3, 4, 6, 8)
    picked = pick(data, 4, ())
    assert [one.index for one in picked] == [6, 0, 4, 2]
    assert picked[1].reason == "the farthest from those above: 8 from step6"
    assert picked[2].reason == "the farthest from those above: 4 from step0"


def test_events_come_by_their_score_and_once() -> None:
    data = line(0, 1, 2, 3, 4, 5, 6, 7)
    events = [
        Event("norm_jump", 2, 7.0, {"row": "mlp"}, ()),
        Event("turning_point", 1, -6.1, {"row": "mlp"}, ()),
        Event("loss_of_direction", 4, -9.5, {"row": "total"}, ()),
        # an echo of the one before it
        Event("loss_of_direction", 3, -6.5, {"row": "total"}, ()),
        Event("update_norm_jump", 2, 6.5, {"row": "mlp"}, ()),
        Event("first_nonfinite", 6, math.inf, {}, ("a.weight",)),
        Event("stage_boundary", 1, math.inf, {}, ()),
    ]
    assert [(one.index, one.reason) for one in pick(data, 5, events)] == [
        (7, "the last of the series"),
        (6, "first nonfinite in a.weight"),
        (4, "loss of direction, score -9.5 in total"),
        (2, "norm jump, score 7.0 in mlp"),
        (0, "the farthest from those above: 2 from step2"),
    ]


def test_equal_checkpoints_are_taken_once_and_nothing_from_nothing() -> None:
    # the first, of which the others are copies
    assert [one.index for one in pick(line(1, 1, 1), 3, ())] == [0]
    assert [one.index for one in pick(line(1, 2, 1, 1), 3, ())] == [2, 1]
    assert pick(SeriesData((), {}), 3, ()) == ()
    nowhere = series_of([{"w": np.array([math.nan])} for _ in range(3)], chain(3))
    events = [Event("first_nonfinite", index, math.inf, {}, ()) for index in (0, 2, 0)]
    assert [one.index for one in pick(nowhere, 3, events)] == [2, 0]
    with pytest.raises(ValueError, match="must be 1 or more, not 0"):
        pick(line(1), 0, ())
