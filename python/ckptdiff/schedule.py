"""Learning-rate schedules as OLMo's trainers compute them.

A :class:`Schedule` is what a config says of one: which rule, and the rule's parameters. The rules
are those of the scheduler classes in ``olmo_core/optim/scheduler.py`` (OLMo-core) and of
``olmo/optim.py`` (the first generation, which has the same cosine, linear and constant rules, but
warms up from a tenth of the peak where nothing else is said). ``t`` is the current step, or the
tokens seen, ``length`` the last one; an optimizer step numbered ``t`` is taken with the rate at
``t``, so the rate at a checkpoint's step is the one of the last update in it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["STEPS", "TOKENS", "Schedule"]

STEPS = "steps"
TOKENS = "tokens"

_PARTS_AT_MOST = 100

# A class of OLMo-core, by the last part of _CLASS_ -> the type that newer configs have.
_TYPES_OF_CLASSES = {
    "ComposableScheduler": "composable",
    "ConstantScheduler": "constant",
    "ConstantWithWarmup": "constant_with_warmup",
    "CosWithWarmup": "cos_with_warmup",
    "CosWithWarmupAndLinearDecay": "cos_with_warmup_and_linear_decay",
    "ExponentialScheduler": "exponential",
    "HalfCosWithWarmup": "half_cos_with_warmup",
    "InvSqrtWithWarmup": "inv_sqrt_with_warmup",
    "LinearWithWarmup": "linear_with_warmup",
    "PowerLR": "power_lr",
    "SequentialScheduler": "sequential",
    "WSD": "wsd",
    "WSDS": "wsds",
}

# The names of the first generation -> those of OLMo-core that compute the same.
_TYPES_OF_THE_FIRST = {
    "constant": "constant",
    "constant_with_warmup": "constant_with_warmup",
    "cosine_with_warmup": "cos_with_warmup",
    "linear_with_warmup": "linear_with_warmup",
}

_NUMBERS = (
    "warmup", "warmup_fraction", "warmup_min_lr", "alpha_f", "t_max", "decay", "decay_fraction",
    "decay_min_lr", "b", "lr_min",
)  # fmt: skip


class Stage(NamedTuple):
    """A stretch of ``duration`` steps or tokens, from one rate to another.

    A rate is given as it is, or as a fraction of the peak; a start that is not given is where the
    stage before it ended, the first one's the peak. ``shape`` is ``linear`` or ``cosine``.
    """

    duration: float
    shape: str
    start: float | None
    start_fraction: float | None
    end: float | None
    end_fraction: float | None

    @classmethod
    def of(cls, config: object) -> Stage | None:
        """The stage of OLMo-core's config of one; None where it makes no sense."""
        if not isinstance(config, dict):
            return None
        keys = ("start_lr", "start_lr_fraction", "end_lr", "end_lr_fraction")
        rates: list[Any] = [config.get(key) for key in keys]
        duration: Any = config.get("duration")
        shape = config.get("shape", "linear")
        given = [duration, *(rate for rate in rates if rate is not None)]
        if not all(map(_is_number, given)) or shape not in ("linear", "cosine"):
            return None
        if rates[2] is None and rates[3] is None:
            return None
        return cls(duration, shape, *rates)

    def end_of(self, peak: float) -> float:
        """The rate at its end."""
        return self.end if self.end is not None else peak * (self.end_fraction or 0.0)

    def rate(self, peak: float, before: float, t: float) -> float:
        """The rate at ``t``, counted from its start, where ``before`` is the rate before it."""
        start, end = before, self.end_of(peak)
        if self.start is not None:
            start = self.start
        elif self.start_fraction is not None:
            start = peak * self.start_fraction
        if t >= self.duration:
            return end
        if self.shape == "linear":
            return start + (end - start) * t / self.duration
        return end + (start - end) * (1 + math.cos(math.pi * t / self.duration)) / 2


@dataclass(frozen=True, slots=True)
class Schedule:
    """A rule, by its name in OLMo-core, with its parameters; what is not given is not in them.

    ``units`` is what the rule counts, :data:`STEPS` or :data:`TOKENS`. A ``sequential`` schedule
    has ``parts``, each of which but the last ends at one of ``ends``, counted from its own start; a
    ``composable`` one has ``stages``. Either can have a ``last_decay``, which replaces whatever
    would follow from ``last_decay_start`` on. A ``wsds`` schedule has ``periods``, each with its
    length and the factor of its peak.
    """

    rule: str
    units: str = STEPS
    parameters: Mapping[str, float] | None = None
    parts: tuple[Schedule, ...] = ()
    ends: tuple[float, ...] = ()
    stages: tuple[Stage, ...] = ()
    periods: tuple[tuple[float, float], ...] = ()
    last_decay: Stage | None = None
    last_decay_start: float = math.inf

    @classmethod
    def of_olmo_core(cls, config: Mapping[str, Any]) -> Schedule | None:
        """The schedule of OLMo-core's config of a scheduler; None for a rule that is not known."""
        rule = config.get("type")
        if not isinstance(rule, str):
            name = config.get("_CLASS_")
            rule = _TYPES_OF_CLASSES.get(name.rpartition(".")[2]) if isinstance(name, str) else None
        if rule not in _RULES and rule not in ("composable", "sequential", "wsds"):
            return None
        # the names that warmup and decay had before they could count tokens
        named = {key: config.get(key) for key in _NUMBERS} | {
            key: config[old]
            for key, old in (("warmup", "warmup_steps"), ("decay", "decay_steps"))
            if config.get(key) is None and config.get(old) is not None
        }
        parameters = {key: value for key, value in named.items() if value is not None}
        parts: list[Schedule] = []
        ends: list[Any] = []
        stages: list[Stage | None] = []
        periods: list[tuple[Any, Any]] = []
        if rule == "composable":
            stages = [Stage.of(part) for part in _short_list(config.get("stages"))]
        if rule == "wsds":
            lengths = _short_list(config.get("period_lengths"))
            factors = _short_list(config.get("period_lr_multipliers")) or [1.0] * len(lengths)
            periods = list(zip(lengths, factors, strict=False))
        if rule in ("composable", "wsds") and not ((stages and None not in stages) or periods):
            return None
        override: Any = config.get("override_decay")
        last_decay = Stage.of(override)
        if override is not None and (last_decay is None or not _is_number(override.get("start"))):
            return None
        if rule == "sequential":
            held = config.get("schedulers")
            ends = config.get("schedulers_max") or config.get("schedulers_max_steps") or []
            if (
                not isinstance(held, list)
                or not isinstance(ends, list)
                or not held
                or not len(held) - 1 <= len(ends) <= len(held) <= _PARTS_AT_MOST
            ):
                return None
            ends = ends[: len(held) - 1]
            for part in held:
                # a sequence within a sequence is nobody's schedule, and could go on for ever
                read = cls.of_olmo_core(part) if isinstance(part, dict) else None
                if read is None or read.parts:
                    return None
                parts.append(read)
        units = config.get("units", STEPS)
        numbers = [*parameters.values(), *ends, *itertools.chain.from_iterable(periods)]
        if units not in (STEPS, TOKENS) or not all(map(_is_number, numbers)):
            return None
        return cls(
            rule,
            units,
            parameters,
            parts=tuple(parts),
            ends=tuple(ends),
            stages=tuple(stage for stage in stages if stage is not None),
            periods=tuple(periods),
            last_decay=last_decay,
            last_decay_start=math.inf if last_decay is None else override["start"],
        )

    @classmethod
    def of_first_olmo(cls, config: Mapping[str, Any], peak: float | None) -> Schedule | None:
        """The schedule of the first generation's ``scheduler``; None for a rule not known.

        ``peak`` is the optimizer's learning rate, of which its warm-up begins at a tenth.
        """
        rule = _TYPES_OF_THE_FIRST.get(str(config.get("name", "cosine_with_warmup")))
        units = config.get("units", STEPS)
        if rule is None or units not in (STEPS, TOKENS):
            return None
        minimum = config.get("warmup_min_lr")
        named = {
            "warmup": config.get("t_warmup"),
            "t_max": config.get("t_max"),
            "alpha_f": config.get("alpha_f"),
            "warmup_min_lr": 0.1 * peak if minimum is None and peak is not None else minimum,
        }
        parameters = {key: value for key, value in named.items() if value is not None}
        if not all(map(_is_number, parameters.values())):
            return None
        return cls(rule, units, parameters)

    @property
    def warmup(self) -> float | None:
        """How long the warm-up is in ``units``, or as a fraction of the length if below 1."""
        parameters = self.parameters or {}
        found = parameters.get("warmup", parameters.get("warmup_fraction"))
        return self.parts[0].warmup if found is None and self.parts else found

    def learning_rate(self, peak: float, t: float, length: float | None) -> float | None:
        """The learning rate at ``t``, of which ``peak`` is the largest.

        ``length`` is the last step, or the last token, that training is to reach. None where the
        rule needs it and it is not known, and where the parameters make no sense.
        """
        try:
            rate = self._rate(peak, t, length)
        except (ArithmeticError, TypeError, ValueError, _LengthUnknownError):
            # a power of a negative number is complex, which is no rate
            return None
        return rate if math.isfinite(rate) and rate >= 0 else None

    def _rate(self, peak: float, t: float, length: float | None) -> float:
        if self.last_decay is None or t < self.last_decay_start:
            return self._rate_without_last_decay(peak, t, length)
        before = self._rate_without_last_decay(peak, self.last_decay_start, length)
        return self.last_decay.rate(peak, before, t - self.last_decay_start)

    def _rate_without_last_decay(self, peak: float, t: float, length: float | None) -> float:
        if self.stages:
            return self._rate_in_stages(peak, t)
        if self.periods:
            return self._rate_in_periods(peak, t)
        if not self.parts:
            return _RULES[self.rule](_Parameters(self.parameters or {}, length), peak, t)
        for part, end in zip(self.parts[:-1], self.ends, strict=True):
            own = end if length is None else min(length, end)
            if t <= end:
                return part._rate(peak, t, own)
            peak = part._rate(peak, end, end)
            t -= end
            length = None if length is None else length - end
        return self.parts[-1]._rate(peak, t, length)

    def _rate_in_stages(self, peak: float, t: float) -> float:
        before = peak
        for stage in self.stages:
            if t < stage.duration:
                return stage.rate(peak, before, t)
            before = stage.end_of(peak)
            t -= stage.duration
        return before

    def _rate_in_periods(self, peak: float, t: float) -> float:
        """Of WSD-S (Wen et al. 2024, arXiv 2410.05192): each period is stable, then decays."""
        parameters = _Parameters(self.parameters or {}, None)
        warmup = parameters.warmup_of(lambda: self.periods[0][0])
        if t < warmup:
            return parameters.warming(peak * self.periods[0][1], t, warmup)
        start = 0.0
        for number, (length, factor) in enumerate(self.periods):
            end = start + length
            # the last step of a period is its own, the very end of them all has decayed
            if t <= end and (t < end or number < len(self.periods) - 1):
                decay = parameters.decay_of(length)
                if t < end - decay:
                    return peak * factor
                return parameters.decaying(peak * factor, end - t, decay)
            start = end
        return parameters("decay_min_lr", 0.0)

    def __str__(self) -> str:
        """The rule and what is given of it but for its warm-up, always in the same order."""
        words = self.rule.replace("_with_warmup", "").replace("cos", "cosine")
        parameters = self.parameters or {}
        given = [
            f"{key}={_short(parameters[key])}"
            for key in _NUMBERS
            if key in parameters and not key.startswith("warmup")
        ]
        if self.parts:
            ends = [*map(_short, self.ends), "end"]
            given += [f"{part} to {end}" for part, end in zip(self.parts, ends, strict=True)]
        given += [
            f"{_short(length)} at {_short(factor)} of the peak" for length, factor in self.periods
        ]
        given += [_stage_text(stage) for stage in self.stages]
        if self.last_decay is not None:
            given.append(f"from {_short(self.last_decay_start)} {_stage_text(self.last_decay)}")
        if self.units != STEPS:
            given.append(f"in {self.units}")
        return f"{words} ({', '.join(given)})" if given else words


class _LengthUnknownError(Exception):
    """A rule needs to know how long training is."""


class _Parameters:
    """The parameters of a rule, with OLMo-core's defaults for those that are not given."""

    def __init__(self, given: Mapping[str, float], length: float | None) -> None:
        self._given = given
        self._length = length

    def __call__(self, name: str, default: float) -> float:
        return self._given.get(name, default)

    @property
    def length(self) -> float:
        length = self._given.get("t_max", self._length)
        if length is None:
            raise _LengthUnknownError
        return length

    @property
    def run_length(self) -> float:
        """How long training is, whatever the rule is made for."""
        if self._length is None:
            raise _LengthUnknownError
        return self._length

    def warmup_of(self, length: Callable[[], float]) -> float:
        if "warmup" in self._given:
            return self._given["warmup"]
        fraction = self._given.get("warmup_fraction", 0.0)
        # where there is none of it, nobody needs to know how long training is
        return round(length() * fraction) if fraction else 0

    @property
    def decay(self) -> float:
        return self._given["decay"] if "decay" in self._given else self.decay_of(self.run_length)

    def decay_of(self, length: float) -> float:
        if "decay" in self._given:
            return self._given["decay"]
        return round(length * self._given.get("decay_fraction", 0.1))

    def warming(self, peak: float, t: float, warmup: float) -> float:
        lowest = self("warmup_min_lr", 0.0)
        return lowest + (peak - lowest) * min(t, warmup) / warmup

    def decaying(self, peak: float, left: float, decay: float) -> float:
        lowest = self("decay_min_lr", 0.0)
        return lowest + (peak - lowest) * min(left, decay) / decay


def _constant(parameters: _Parameters, peak: float, t: float) -> float:
    del parameters, t
    return peak


def _constant_with_warmup(parameters: _Parameters, peak: float, t: float) -> float:
    warmup = parameters.warmup_of(lambda: parameters.run_length)
    return parameters.warming(peak, t, warmup) if t < warmup else peak


def _wsd(parameters: _Parameters, peak: float, t: float) -> float:
    warmup = parameters.warmup_of(lambda: parameters.run_length)
    if warmup and t <= warmup:
        return parameters.warming(peak, t, warmup)
    decay, length = parameters.decay, parameters.run_length
    if decay and t >= length - decay:
        return parameters.decaying(peak, length - t, decay)
    return peak


def _power(parameters: _Parameters, peak: float, t: float) -> float:
    exponent = parameters("b", -0.51)
    warmup = parameters.warmup_of(lambda: parameters.run_length)
    if t <= warmup:
        return parameters.warming(peak, t, warmup)
    decay, length = parameters.decay, parameters.run_length
    if decay and t >= length - decay:
        at_its_start = peak * ((length - decay) / warmup) ** exponent
        return parameters.decaying(at_its_start, length - t, decay)
    return float(peak * (t / warmup) ** exponent)


def _linear(parameters: _Parameters, peak: float, t: float) -> float:
    lowest = peak * parameters("alpha_f", 0.1)
    warmup = parameters.warmup_of(lambda: parameters.length)
    if t < warmup:
        return parameters.warming(peak, t, warmup)
    if t >= parameters.length:
        return lowest
    return peak - (peak - lowest) * ((t - warmup) / (parameters.length - warmup))


def _inverse_square_root(parameters: _Parameters, peak: float, t: float) -> float:
    lowest = peak * parameters("alpha_f", 0.1)
    warmup = parameters.warmup_of(lambda: parameters.run_length)
    if t < warmup:
        return parameters.warming(peak, t, warmup)
    return lowest + (peak - lowest) * math.sqrt(warmup / t)


def _cosine(parameters: _Parameters, peak: float, t: float) -> float:
    lowest = peak * parameters("alpha_f", 0.1)
    warmup = parameters.warmup_of(lambda: parameters.length)
    if t < warmup:
        return parameters.warming(peak, t, warmup)
    if t >= parameters.length:
        return lowest
    progress = (t - warmup) / (parameters.length - warmup)
    return lowest + (peak - lowest) * (1 + math.cos(math.pi * progress)) / 2


def _half_cosine(parameters: _Parameters, peak: float, t: float) -> float:
    lowest = peak * parameters("alpha_f", 0.1)
    warmup = parameters.warmup_of(lambda: parameters.length)
    if t < warmup:
        return parameters.warming(lowest + (peak - lowest) / 2, t, warmup)
    if t >= parameters.length:
        return lowest
    progress = (t - warmup) / (parameters.length - warmup)
    return lowest + (peak - lowest) * (1 + math.cos(math.pi * (1 + progress) / 2)) / 2


def _cosine_and_decay(parameters: _Parameters, peak: float, t: float) -> float:
    decay, length = parameters.decay, parameters.run_length
    if decay and t >= length - decay:
        at_its_start = _cosine(parameters, peak, length - decay)
        return parameters.decaying(at_its_start, length - t, decay)
    return _cosine(parameters, peak, t)


def _exponential(parameters: _Parameters, peak: float, t: float) -> float:
    if t >= parameters.run_length:
        return peak
    lowest = parameters("lr_min", 1e-9)
    return float(lowest * (peak / lowest) ** (t / parameters.run_length))


_RULES: dict[str, Callable[[_Parameters, float, float], float]] = {
    "constant": _constant,
    "constant_with_warmup": _constant_with_warmup,
    "cos_with_warmup": _cosine,
    "cos_with_warmup_and_linear_decay": _cosine_and_decay,
    "exponential": _exponential,
    "half_cos_with_warmup": _half_cosine,
    "inv_sqrt_with_warmup": _inverse_square_root,
    "linear_with_warmup": _linear,
    "power_lr": _power,
    "wsd": _wsd,
}


def _short_list(value: object) -> list[Any]:
    return value if isinstance(value, list) and len(value) <= _PARTS_AT_MOST else []


def _stage_text(stage: Stage) -> str:
    def rate(value: float | None, fraction: float | None) -> str | None:
        if value is not None:
            return repr(float(value))
        return None if fraction is None else f"{_short(fraction)} of the peak"

    start = rate(stage.start, stage.start_fraction)
    words = [stage.shape, *(["from", start] if start else [])]
    return " ".join(
        [*words, "to", rate(stage.end, stage.end_fraction) or "", "in", _short(stage.duration)]
    )


def _is_number(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < 1e18
        and value == value
    )


def _short(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(value)
