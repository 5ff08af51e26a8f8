"""Learning rates: by formula, and against the scheduler classes of OLMo-core itself."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
from ckptdiff.schedule import STEPS, TOKENS, Schedule

PEAK, LENGTH = 3e-4, 1000


def rates(config: dict[str, Any], steps: list[int], length: int | None = LENGTH) -> list[float]:
    schedule = Schedule.of_olmo_core(config)
    assert schedule is not None
    found = [schedule.learning_rate(PEAK, step, length) for step in steps]
    assert all(rate is not None for rate in found)
    return [rate for rate in found if rate is not None]


def test_cosine() -> None:
    config = {"type": "cos_with_warmup", "warmup": 100, "alpha_f": 0.1, "warmup_min_lr": 0.0}
    expected = [
        PEAK * 50 / 100,
        PEAK,
        0.1 * PEAK + 0.9 * PEAK * (1 + np.cos(np.pi * 400 / 900)) / 2,
        0.1 * PEAK,
        0.1 * PEAK,
    ]
    np.testing.assert_allclose(rates(config, [50, 100, 500, 1000, 2000]), expected, rtol=1e-14)


def test_linear() -> None:
    config = {"type": "linear_with_warmup", "warmup": 100, "alpha_f": 0.0, "warmup_min_lr": 1e-5}
    expected = [1e-5 + (PEAK - 1e-5) * 50 / 100, PEAK, PEAK * (1 - 400 / 900), 0.0]
    np.testing.assert_allclose(rates(config, [50, 100, 500, 1000]), expected, rtol=1e-14)


def test_warmup_stable_decay() -> None:
    config = {"type": "wsd", "warmup": 100, "decay_fraction": 0.2}
    expected = [PEAK / 2, PEAK, PEAK, PEAK, PEAK / 2, 0.0]
    found = rates(config, [50, 100, 500, 800, 900, 1000])
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_constant_with_warmup_needs_no_length() -> None:
    config = {"type": "constant_with_warmup", "warmup": 100}
    np.testing.assert_allclose(rates(config, [10, 100, 500], None), [PEAK / 10, PEAK, PEAK])


def test_the_first_generation_warms_up_from_a_tenth() -> None:
    config = {"name": "cosine_with_warmup", "t_warmup": 100, "t_max": 1000, "alpha_f": 0.1}
    schedule = Schedule.of_first_olmo(config, PEAK)
    assert schedule is not None
    assert schedule.units == STEPS
    at_50 = schedule.learning_rate(PEAK, 50, None)
    assert at_50 == pytest.approx(PEAK * (0.1 + 0.9 * 50 / 100), rel=1e-14)


def test_olmo_2_7b_reached_the_rate_that_its_second_stage_begins_with() -> None:
    # published: stage 1 has 3e-4 with 5e12 tokens of cosine, stage 2 begins with 0.000061499
    config = {
        "name": "cosine_with_warmup",
        "units": "tokens",
        "t_warmup": 8388608000,
        "t_max": 5e12,
        "alpha_f": 0.1,
        "warmup_min_lr": 0.0,
    }
    schedule = Schedule.of_first_olmo(config, 3e-4)
    assert schedule is not None
    assert schedule.units == TOKENS
    rate = schedule.learning_rate(3e-4, 928646 * 1024 * 4096, None)
    assert rate == pytest.approx(0.000061499, rel=3e-3)


UNKNOWN: dict[str, dict[str, Any]] = {
    "no rule": {},
    "a rule of somebody's own": {"type": "zigzag"},
    "a class of somebody's own": {"_CLASS_": "mine.Zigzag"},
    "text for a number": {"type": "wsd", "warmup": "many"},
    "a truth value for a number": {"type": "wsd", "warmup": True},
    "a number without bounds": {"type": "wsd", "warmup": math.inf},
    "not a number": {"type": "wsd", "warmup": math.nan},
    "units of somebody's own": {"type": "wsd", "warmup": 1, "units": "epochs"},
    "a sequence of nothing": {"type": "sequential", "schedulers": [], "schedulers_max": []},
    "a sequence without ends": {"type": "sequential", "schedulers": [{"type": "constant"}] * 2},
    "a sequence within one": {
        "type": "sequential",
        "schedulers": [{"type": "sequential", "schedulers": [{"type": "constant"}]}],
    },
    "a sequence that is overridden by nothing": {
        "type": "sequential",
        "schedulers": [{"type": "constant"}],
        "override_decay": {"start": 1},
    },
    "stages of nothing": {"type": "composable", "stages": []},
    "a stage without an end": {"type": "composable", "stages": [{"duration": 5}]},
    "a stage of another shape": {
        "type": "composable",
        "stages": [{"duration": 5, "end_lr": 1, "shape": "round"}],
    },
    "periods of nothing": {"type": "wsds", "warmup": 1},
    "periods of text": {"type": "wsds", "warmup": 1, "period_lengths": ["a"]},
    "periods for ever": {"type": "wsds", "warmup": 1, "period_lengths": [1] * 1000},
    "a list for a rule": {"type": ["wsd"]},
}


@pytest.mark.parametrize("config", UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_not_understood_is_no_schedule(config: dict[str, Any]) -> None:
    assert Schedule.of_olmo_core(config) is None


SENSELESS: dict[str, dict[str, Any]] = {
    "a length that is not known": {"type": "cos_with_warmup", "warmup": 1},
    "a decay longer than the run": {"type": "power_lr", "warmup": 0, "decay": 5},
    "a negative warm-up": {"type": "power_lr", "warmup": -3, "decay": 1},
    "below nothing": {"type": "cos_with_warmup", "warmup": 0, "t_max": 9, "alpha_f": -5.0},
}


@pytest.mark.parametrize("config", SENSELESS.values(), ids=SENSELESS)
def test_no_rate_is_made_up(config: dict[str, Any]) -> None:
    schedule = Schedule.of_olmo_core(config)
    assert schedule is not None
    length = 20 if config["warmup"] < 0 else None
    assert schedule.learning_rate(PEAK, 8, length) is None


# The classes of OLMo-core with what they are made with.
THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("ConstantScheduler", {}),
    ("ConstantWithWarmup", {"warmup": 100}),
    ("ConstantWithWarmup", {"warmup_fraction": 0.05, "warmup_min_lr": 1e-6}),
    ("WSD", {"warmup": 100}),
    (
        "WSD",
        {"warmup_fraction": 0.013, "decay": 333, "decay_fraction": None, "decay_min_lr": 1e-6},
    ),
    ("PowerLR", {"warmup": 70}),
    ("LinearWithWarmup", {"warmup": 100}),
    ("LinearWithWarmup", {"warmup": 0, "alpha_f": 0.0}),
    ("LinearWithWarmup", {"warmup_fraction": 0.1, "t_max": 700}),
    ("InvSqrtWithWarmup", {"warmup": 100}),
    ("CosWithWarmup", {"warmup": 100}),
    ("CosWithWarmup", {"warmup": 100, "t_max": 1500, "alpha_f": 0.0, "warmup_min_lr": 1e-5}),
    ("CosWithWarmup", {"warmup_fraction": 0.033, "units": "tokens"}),
    ("HalfCosWithWarmup", {"warmup": 100}),
    ("CosWithWarmupAndLinearDecay", {"warmup": 100}),
    ("CosWithWarmupAndLinearDecay", {"warmup": 9, "decay": 50, "decay_fraction": None}),
    ("ExponentialScheduler", {"lr_min": 1e-7}),
    (
        "SequentialScheduler",
        {
            "schedulers": [
                ("LinearWithWarmup", {"warmup": 20, "alpha_f": 0.5}),
                ("ConstantScheduler", {}),
                ("CosWithWarmup", {"warmup": 0}),
            ],
            "schedulers_max": [300, 200],
        },
    ),
    ("WSDS", {"period_lengths": [300, 400, 300], "warmup": 50, "decay_fraction": 0.1}),
    (
        "WSDS",
        {
            "period_lengths": [400, 500],
            "period_lr_multipliers": [1.0, 0.5],
            "warmup_fraction": 0.1,
            "decay": 77,
            "decay_min_lr": 1e-6,
        },
    ),
    (
        "ComposableScheduler",
        {
            "stages": [
                {"duration": 100, "start_lr": 0.0, "end_lr_fraction": 1.0},
                {"duration": 400, "end_lr": 1e-5, "shape": "cosine"},
                {"duration": 300, "start_lr_fraction": 0.5, "end_lr": 0.0},
            ]
        },
    ),
    (
        "ComposableScheduler",
        {
            "stages": [{"duration": 900, "end_lr_fraction": 0.3}],
            "override_decay": {"start": 500, "duration": 200, "end_lr": 0.0, "shape": "cosine"},
        },
    ),
    (
        "SequentialScheduler",
        {
            "schedulers": [("LinearWithWarmup", {"warmup": 20}), ("CosWithWarmup", {"warmup": 0})],
            "schedulers_max": [300],
            "override_decay": {"start": 600, "duration": 200, "end_lr_fraction": 0.01},
        },
    ),
]


@pytest.mark.parametrize(("name", "arguments"), THEIRS, ids=[name for name, _ in THEIRS])
def test_as_the_scheduler_classes_of_olmo_core(name: str, arguments: dict[str, Any]) -> None:
    theirs = make_theirs(name, arguments)
    config = json.loads(json.dumps(theirs.as_config_dict()))
    steps = list(range(1, LENGTH + 1))
    with warnings.catch_warnings():
        # some say that they do not look at the length
        warnings.simplefilter("ignore")
        expected = [theirs.get_lr(PEAK, step, LENGTH) for step in steps]
    np.testing.assert_allclose(rates(config, steps), expected, rtol=1e-12, atol=1e-20)
    # older configs have no type, but the class
    del config["type"]
    for part in config.get("schedulers", ()):
        del part["type"]
    np.testing.assert_allclose(rates(config, steps), expected, rtol=1e-12, atol=1e-20)


def make_theirs(name: str, arguments: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        # what it imports warns of what it lacks
        warnings.simplefilter("ignore")
        module = pytest.importorskip("olmo_core.optim.scheduler")
    makers = {
        "schedulers": lambda parts: [make_theirs(*part) for part in parts],
        "stages": lambda parts: [module.ComposableSchedulerStage(**part) for part in parts],
        "override_decay": lambda part: module.OverrideDecay(**part),
    }
    made = {key: makers.get(key, lambda value: value)(value) for key, value in arguments.items()}
    return getattr(module, name)(**made)
