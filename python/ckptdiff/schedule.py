"""Learning-rate schedules as OLMo's trainers compute them.

A :class:`Schedule` is what a config says of one: which rule, and the rule's parameters. The rules
are those of the scheduler classes in ``olmo_core/optim/scheduler.py`` (OLMo-core) and of
``olmo/optim.py`` (the first generation, which has the same cosine, linear and constant rules, but
warms up from a tenth of the peak where nothing else is said). ``t`` is the current step, or the
tokens seen, ``length`` the last one; an optimizer step numbered ``t`` is taken with the rate at
``t``, so the rate at a checkpoint's step is the one of the last update in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["STEPS", "TOKENS", "Schedule"]

STEPS = "steps"
TOKENS = "tokens"

_PARTS_AT_MOST = 100

# A class of OLMo-core, by the last part of _CLASS_ -> the type that newer configs have.
_TYPES_OF_CLASSES = {
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


@dataclass(frozen=True, slots=True)
class Schedule:
    """A rule, by its name in OLMo-core, with its parameters; what is not given is not in them.

    ``units`` is what the rule counts, :data:`STEPS` or :data:`TOKENS`. A ``sequential`` schedule
    has ``parts``, each of which but the last ends at one of ``ends``, counted from its own start.
    """

    rule: str
    units: str = STEPS
    parameters: Mapping[str, float] | None = None
    parts: tuple[Schedule, ...] = ()
    ends: tuple[float, ...] = ()

    @classmethod
    def of_olmo_core(cls, config: Mapping[str, Any]) -> Schedule | None:
        """The schedule of OLMo-core's config of a scheduler; None for a rule that is not known."""
        rule = config.get("type")
        if not isinstance(rule, str):
            name = config.get("_CLASS_")
            rule = _TYPES_OF_CLASSES.get(name.rpartition(".")[2]) if isinstance(name, str) else None
        if rule not in _RULES and rule != "sequential":
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
        if rule == "sequential":
            held = config.get("schedulers")
            ends = config.get("schedulers_max") or config.get("schedulers_max_steps") or []
            if (
                config.get("override_decay") is not None
                or not isinstance(held, list)
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
        if units not in (STEPS, TOKENS) or not all(map(_is_number, [*parameters.values(), *ends])):
            return None
        return cls(rule, units, parameters, tuple(parts), tuple(ends))

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
        if "decay" in self._given:
            return self._given["decay"]
        return round(self.run_length * self._given.get("decay_fraction", 0.1))

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


def _is_number(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < 1e18
        and value == value
    )


def _short(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(value)
