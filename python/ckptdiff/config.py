"""The config of a checkpoint, whoever wrote it, as one set of fields.

Hugging Face's ``config.json`` says what the architecture is, OLMo-core's ``config.json`` and the
``config.yaml`` of the first OLMo also how it was trained. Each names things in its own way: an
``intermediate_size`` is a ``feed_forward.hidden_size``, and half of an ``mlp_hidden_size`` where
the activation is gated. Here they have one name and one meaning, so that any two can be compared,
and each value keeps the file and the key that it was read from.

A config that cannot be read is an error of one line. A value that is not what its field holds (a
list of sizes, one per layer) leaves that field unknown: it is somebody's config, and not wrong.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeAlias

from ckptdiff.documents import read_json, read_yaml
from ckptdiff.errors import (
    ArchitectureMismatchError,
    CheckpointReadError,
    InvalidCheckpointError,
)
from ckptdiff.formats.olmo_core import step_directory
from ckptdiff.formats.recognise import hub_snapshot
from ckptdiff.schedule import STEPS, TOKENS, Schedule

__all__ = [
    "ARCHITECTURE",
    "SHAPES",
    "TRAINING",
    "ConfigDifference",
    "ModelConfig",
    "Value",
    "compare_configs",
    "config_differences",
    "config_directories",
    "read_config",
    "refuse_other_architecture",
]

Value: TypeAlias = int | float | str | bool

_CONFIG_FILES = ("config.json", "config.yaml")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a config says; what it does not say is None.

    Architecture:

    - ``d_model``, ``n_layers``, ``n_heads``, ``n_kv_heads``, ``head_dim``: as usual; a config that
      gives no number of key-value heads has as many as query heads, and one that gives no size of a
      head has ``d_model / n_heads``.
    - ``mlp_hidden_size``: the input size of the MLP's last projection, of one expert where there
      are ``n_experts``, of which each token goes through ``n_experts_per_token``.
    - ``vocab_size``: rows of the embedding, padding included.
    - ``max_sequence_length``: positions that the model is made for.
    - ``rope_theta``, ``rope_scaling`` (the kind and factor, as text), ``tie_word_embeddings``,
      ``norm_eps``.

    Training:

    - ``learning_rate``: the peak. ``schedule``: the rule and its parameters, as text. ``warmup``:
      in the schedule's units, or a fraction of its length where it is below 1. ``duration``: how
      long training is to be, as text with its unit.
    - ``batch_size_tokens``: tokens in one optimizer step. ``sequence_length``: tokens.
    - ``weight_decay``; ``seed``, and ``data_seed`` for the order of the data; ``data_mix``: its
      name, or how many files there are and a hash of their names.

    ``sources`` has the file and the key of each field that is known. ``scheduler`` and ``length``
    (steps or tokens, in the scheduler's units) are what a learning rate is computed from.
    """

    d_model: int | None = None
    n_layers: int | None = None
    n_heads: int | None = None
    n_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_hidden_size: int | None = None
    n_experts: int | None = None
    n_experts_per_token: int | None = None
    vocab_size: int | None = None
    max_sequence_length: int | None = None
    rope_theta: float | None = None
    rope_scaling: str | None = None
    tie_word_embeddings: bool | None = None
    norm_eps: float | None = None
    learning_rate: float | None = None
    schedule: str | None = None
    warmup: float | None = None
    duration: str | None = None
    batch_size_tokens: int | None = None
    sequence_length: int | None = None
    weight_decay: float | None = None
    seed: int | None = None
    data_seed: int | None = None
    data_mix: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    scheduler: Schedule | None = None
    length: int | None = None


_FIELDS = tuple(part.name for part in fields(ModelConfig))
_FIRST_OF_TRAINING = _FIELDS.index("learning_rate")

#: The fields of the architecture, and those of training.
ARCHITECTURE = _FIELDS[:_FIRST_OF_TRAINING]
TRAINING = _FIELDS[_FIRST_OF_TRAINING : _FIELDS.index("sources")]

#: Fields that give the layers' tensors their shapes, or their rows a meaning: two models that
#: differ in one of these are not two states of one model. The vocabulary is not among them, as it
#: differs by padding and grows by tokens in fine-tuning, while every layer stays comparable; nor is
#: what a longer context changes.
SHAPES = (
    "d_model",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "head_dim",
    "mlp_hidden_size",
    "n_experts",
)


class ConfigDifference(NamedTuple):
    """A field that both configs have, and in which they differ."""

    field: str
    a: Value
    b: Value


def read_config(path: str) -> ModelConfig | None:
    """The config of the checkpoint at ``path``, a file or a directory; None where there is none.

    It is looked for in the directory (of the file), and in the step's directory of OLMo-core, which
    has the tensors in a folder. Where both a ``config.json`` and a ``config.yaml`` are there, the
    former counts and the latter adds what it does not say.

    Raises InvalidCheckpointError where a config breaks its format or is too large, and
    CheckpointReadError where it cannot be read.
    """
    for directory in config_directories(path):
        found = [
            _read_file(file)
            for name in _CONFIG_FILES
            if os.path.isfile(file := os.path.join(directory, name))
        ]
        known = [config for config in found if config is not None]
        if known:
            return known[0] if len(known) == 1 else _merged(*known)
    return None


def config_directories(path: str) -> list[str]:
    """The directories that belong to the checkpoint at ``path``, the nearest first."""
    held_in = path if os.path.isdir(path) else os.path.dirname(path) or "."
    directory = hub_snapshot(held_in) or held_in
    return list(dict.fromkeys((directory, step_directory(directory))))


def config_differences(a: ModelConfig, b: ModelConfig) -> list[ConfigDifference]:
    """The fields that both have and that differ, in the order of :class:`ModelConfig`."""
    return [
        ConfigDifference(name, value_a, value_b)
        for name in (*ARCHITECTURE, *TRAINING)
        if (value_a := getattr(a, name)) is not None
        and (value_b := getattr(b, name)) is not None
        and value_a != value_b
    ]


def compare_configs(
    path_a: str | None, path_b: str | None
) -> tuple[list[ConfigDifference], list[str]]:
    """In which fields the configs beside two checkpoints differ, and what could not be read.

    There are no differences where one has no config, or is in memory. Tensors can be compared
    without a config, so one that is broken is a sentence and no error.
    """
    if path_a is None or path_b is None or path_a == path_b:
        return [], []
    configs: list[ModelConfig] = []
    notes = []
    for path in (path_a, path_b):
        try:
            config = read_config(path)
        except (InvalidCheckpointError, CheckpointReadError) as error:
            notes.append(f"{error}; the configs are not compared")
        else:
            if config is not None:
                configs.append(config)
    return (config_differences(*configs) if len(configs) == 2 else []), notes


def refuse_other_architecture(
    differences: list[ConfigDifference], path_a: str | None, path_b: str | None
) -> None:
    """Raise ArchitectureMismatchError where a difference is one of :data:`SHAPES`.

    The error carries every difference of the architecture.
    """
    if not any(difference.field in SHAPES for difference in differences):
        return
    architecture = tuple(part for part in differences if part.field in ARCHITECTURE)
    raise ArchitectureMismatchError(
        f"{path_a} and {path_b} are models of different architectures, by their configs",
        architecture,
    )


def _read_file(path: str) -> ModelConfig | None:
    if path.endswith(".json"):
        config = read_json(path)
        model = config.get("model")
        if isinstance(model, dict) and "d_model" in model:
            return _of_olmo_core(_Reader(path, config))
        if config.get("model_type") == "hf_olmo":
            # the first generation's own fields, under a name of Hugging Face
            reader = _Reader(path, config)
            _first_olmo_model(reader, "")
            return reader.made(None, None)
        return _of_hugging_face(_Reader(path, config))
    return _of_first_olmo(_Reader(path, read_yaml(path)))


class _Reader:
    """Collects fields from one config, each with where it was found."""

    def __init__(self, path: str, config: dict[str, Any]) -> None:
        self._file = os.path.basename(path)
        self._config = config
        self._values: dict[str, Any] = {}
        self._sources: dict[str, str] = {}

    def at(self, key: str) -> Any:
        """What stands under a dotted key, None for nothing."""
        value: Any = self._config
        for part in key.split(".") if key else ():
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """The mapping under a dotted key, an empty one where there is none."""
        value = self.at(key)
        return value if isinstance(value, dict) else {}

    def take(self, name: str, *keys: str) -> None:
        """Fill a field from the first of the keys that has a value which it can hold."""
        for key in keys:
            self.put(name, self.at(key), key)

    def put(self, name: str, value: object, key: str) -> None:
        """Fill a field that is not yet known, if it can hold the value."""
        if name in self._values:
            return
        accepted = _ACCEPTS[name](value)
        if accepted is not None:
            self._values[name] = accepted
            self._sources[name] = f"{self._file} {key}"

    def get(self, name: str) -> Any:
        """A field's value so far."""
        return self._values.get(name)

    def not_scaled(self) -> None:
        """Positions that are rotated, of which nothing says that they are scaled, are not."""
        if "rope_theta" in self._values:
            self.put("rope_scaling", "none", self._sources["rope_theta"].partition(" ")[2])

    def derive(self, name: str, value: int | None, how: str) -> None:
        """Fill a field from others."""
        self.put(name, value, how)

    def made(self, scheduler: Schedule | None, length: int | None) -> ModelConfig | None:
        """The config, None where not a single field is known."""
        if not self._values:
            return None
        return ModelConfig(
            **self._values, sources=self._sources, scheduler=scheduler, length=length
        )


def _whole(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**62:
        return value
    if isinstance(value, list) and value and all(part == value[0] for part in value):
        # one for each layer
        return _whole(value[0])
    return None


def _seed(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62:
        return value
    return None


def _number(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e30:
        return float(value) if math.isfinite(value) else None
    return None


def _duration(value: object) -> float | None:
    """In steps or tokens, which are whole, or a fraction."""
    number = _number(value)
    return int(number) if number is not None and number.is_integer() else number


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _word(value: object) -> str | None:
    return value[:500] if isinstance(value, str) and value else None


_ACCEPTS: dict[str, Callable[[object], Value | None]] = {
    **dict.fromkeys(_FIELDS, _whole),
    **dict.fromkeys(("rope_theta", "norm_eps", "learning_rate", "weight_decay"), _number),
    "warmup": _duration,
    **dict.fromkeys(("rope_scaling", "schedule", "duration", "data_mix"), _word),
    **dict.fromkeys(("seed", "data_seed"), _seed),
    "tie_word_embeddings": _flag,
}


def _heads(reader: _Reader) -> None:
    """What follows where a config does not say it."""
    n_heads, d_model = reader.get("n_heads"), reader.get("d_model")
    if n_heads is None:
        return
    reader.derive("n_kv_heads", n_heads, "(as n_heads)")
    if d_model is not None and d_model % n_heads == 0:
        reader.derive("head_dim", d_model // n_heads, "(d_model / n_heads)")


def _of_hugging_face(reader: _Reader) -> ModelConfig | None:
    # a model of text and images has one config for each, and the weights of both
    under = "" if reader.at("hidden_size") is not None else "text_config."
    if under and not isinstance(reader.at("text_config"), dict):
        under = ""

    def take(name: str, *keys: str) -> None:
        reader.take(name, *(under + key for key in keys))

    take("d_model", "hidden_size", "n_embd", "d_model")
    take("n_layers", "num_hidden_layers", "n_layer", "num_layers")
    take("n_heads", "num_attention_heads", "n_head", "num_heads")
    take("n_kv_heads", "num_key_value_heads", "num_kv_heads")
    take("head_dim", "head_dim", "d_kv")
    take("n_experts", "num_experts", "num_local_experts", "n_routed_experts")
    take("n_experts_per_token", "num_experts_per_tok")
    if reader.get("n_experts") is not None:
        take("mlp_hidden_size", "moe_intermediate_size")
    take("mlp_hidden_size", "intermediate_size", "n_inner", "ffn_dim", "d_ff")
    take("vocab_size", "vocab_size")
    take("max_sequence_length", "max_position_embeddings", "n_positions")
    # newer configs have the two in one mapping, which can have one for each kind of layer
    rope = "rope_parameters"
    if isinstance(reader.at(f"{under}{rope}.full_attention"), dict):
        rope += ".full_attention"
    take("rope_theta", "rope_theta", f"{rope}.rope_theta", "rotary_emb_base")
    for key in (rope, "rope_scaling"):
        scaling = reader.mapping(under + key)
        kind = scaling.get("rope_type", scaling.get("type"))
        reader.put("rope_scaling", _scaling(kind, scaling.get("factor")), under + key)
    reader.not_scaled()
    take("tie_word_embeddings", "tie_word_embeddings")
    take("norm_eps", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps")
    if not reader.at(under + "multi_query"):
        _heads(reader)
    return reader.made(None, None)


def _scaling(kind: object, factor: object) -> str | None:
    """The kind of scaling and its factor."""
    if kind in (None, "default") or not isinstance(kind, str):
        return None
    number = _number(factor)
    return kind if number is None else f"{kind} {number:g}"


# The kinds of scaling of OLMo-core, by what Hugging Face calls the same.
_OLMO_CORE_SCALINGS = {
    "PIRoPEScalingConfig": "linear",
    "StepwiseRoPEScalingConfig": "llama3",
    "YaRNRoPEScalingConfig": "yarn",
}


def _of_olmo_core(reader: _Reader) -> ModelConfig | None:
    for name in ("d_model", "n_layers", "vocab_size", "tie_word_embeddings"):
        reader.take(name, f"model.{name}")
    block = "model.block"
    if reader.mapping(block) and not isinstance(reader.at(f"{block}.layer_norm"), dict):
        # blocks of several kinds, by name: those that attend have the sizes
        kinds = [
            kind
            for kind, held in reader.mapping(block).items()
            if isinstance(held, dict) and isinstance(held.get("sequence_mixer"), dict)
        ]
        attending = [kind for kind in kinds if reader.at(f"{block}.{kind}.sequence_mixer.n_heads")]
        block = f"{block}.{(attending or kinds or [''])[0]}"
    # what was attention became sequence_mixer
    mixers = (f"{block}.sequence_mixer", f"{block}.attention")
    for name in ("n_heads", "n_kv_heads", "head_dim"):
        reader.take(name, *(f"{mixer}.{name}" for mixer in mixers))
    reader.take("rope_theta", *(f"{mixer}.rope.theta" for mixer in mixers))
    # a longer context is often given to those layers only that attend to all of it
    overrides = sorted(reader.mapping("model.block_overrides"), key=lambda key: (len(key), key))
    scaled = (*mixers, *(f"model.block_overrides.{key}.sequence_mixer" for key in overrides))
    for mixer in scaled:
        key = f"{mixer}.rope.scaling"
        scaling = reader.mapping(key)
        kind = _OLMO_CORE_SCALINGS.get(str(scaling.get("_CLASS_")).rpartition(".")[2])
        reader.put("rope_scaling", _scaling(kind, scaling.get("factor")), key)
    reader.not_scaled()
    _heads(reader)
    experts = f"{block}.feed_forward_moe"
    reader.take("n_experts", f"{experts}.num_experts")
    reader.take("n_experts_per_token", f"{experts}.router.top_k")
    reader.take("mlp_hidden_size", f"{experts}.hidden_size", f"{block}.feed_forward.hidden_size")
    reader.take("norm_eps", f"{block}.layer_norm.eps")

    # before there were train modules, these stood one level up, the scheduler in a callback
    optimizers = ("train_module.optim", "optim")
    reader.take("learning_rate", *(f"{key}.lr" for key in optimizers))
    reader.take("weight_decay", *(f"{key}.weight_decay" for key in optimizers))
    schedulers = ("train_module.scheduler", "trainer.callbacks.lr_scheduler.scheduler")
    key = next((key for key in schedulers if reader.mapping(key)), schedulers[0])
    scheduler = Schedule.of_olmo_core(reader.mapping(key))
    _put_schedule(reader, scheduler, key, reader.mapping(key).get("type"))
    reader.take("batch_size_tokens", "data_loader.global_batch_size", "global_batch_size")
    reader.take("sequence_length", "train_module.max_sequence_length", "dataset.sequence_length")
    reader.take("seed", "init_seed")
    reader.take("data_seed", "data_loader.seed")
    reader.take("data_mix", "dataset.mix")
    if reader.at("dataset.paths") is not None:
        reader.put("data_mix", _digest(reader.at("dataset.paths")), "dataset.paths")
    elif reader.at("dataset") is not None:
        reader.put("data_mix", _digest(reader.at("dataset")), "dataset")
    duration = reader.mapping("trainer.max_duration")
    amount, unit = _whole(duration.get("value")), duration.get("unit")
    if amount is not None and isinstance(unit, str):
        reader.put("duration", f"{amount} {unit}", "trainer.max_duration")
    # a part of a batch that is left takes a step
    return reader.made(scheduler, _length(reader, scheduler, amount, unit, math.ceil))


def _of_first_olmo(reader: _Reader) -> ModelConfig | None:
    _first_olmo_model(reader, "model.")
    reader.take("learning_rate", "optimizer.learning_rate")
    reader.take("weight_decay", "optimizer.weight_decay")
    config = reader.mapping("scheduler")
    scheduler = Schedule.of_first_olmo(config, reader.get("learning_rate")) if config else None
    _put_schedule(reader, scheduler, "scheduler", config.get("name"))
    # sequences are as long as the model can take
    reader.take("sequence_length", "model.max_sequence_length")
    batch, sequence = _whole(reader.at("global_train_batch_size")), reader.get("sequence_length")
    if batch is not None and sequence is not None:
        key = "global_train_batch_size x model.max_sequence_length"
        reader.put("batch_size_tokens", batch * sequence, key)
    reader.take("seed", "seed")
    reader.take("data_seed", "data.seed", "seed")
    for key in ("data.paths", "data.datasets", "data"):
        if reader.at(key):
            reader.put("data_mix", _digest(reader.at(key)), key)
    amount, unit = _first_olmo_duration(reader.at("max_duration"))
    if amount is not None:
        reader.put("duration", f"{amount} {unit}", "max_duration")
    return reader.made(scheduler, _length(reader, scheduler, amount, unit, math.floor))


def _first_olmo_model(reader: _Reader, under: str) -> None:
    for name in ("d_model", "n_layers", "n_heads", "n_kv_heads", "max_sequence_length"):
        reader.take(name, under + name)
    if reader.at(f"{under}multi_query_attention") is True:
        reader.put("n_kv_heads", 1, f"{under}multi_query_attention")
    _heads(reader)
    # a gated activation takes the hidden units in pairs
    gated = reader.at(f"{under}activation_type") in (None, "swiglu")
    hidden, key = _whole(reader.at(f"{under}mlp_hidden_size")), f"{under}mlp_hidden_size"
    ratio, d_model = _whole(reader.at(f"{under}mlp_ratio")), reader.get("d_model")
    if hidden is None and ratio is not None and d_model is not None:
        hidden, key = ratio * d_model, f"{under}mlp_ratio"
    if hidden is not None:
        reader.put("mlp_hidden_size", hidden // 2 if gated else hidden, key)
    reader.take("vocab_size", f"{under}embedding_size", f"{under}vocab_size")
    reader.take("tie_word_embeddings", f"{under}weight_tying")
    reader.take("norm_eps", f"{under}layer_norm_eps")
    if reader.at(f"{under}rope"):
        reader.take("rope_theta", f"{under}rope_theta")
        reader.not_scaled()


def _put_schedule(reader: _Reader, scheduler: Schedule | None, key: str, name: object) -> None:
    if scheduler is None:
        # not one that a learning rate can be computed of, but two can still differ in it
        reader.put("schedule", name, key)
        return
    reader.put("schedule", str(scheduler), key)
    reader.put("warmup", scheduler.warmup, f"{key}.warmup")


def _first_olmo_duration(value: object) -> tuple[int | None, str]:
    """``1ep``, ``50e9T`` (tokens) or a number of steps."""
    if isinstance(value, str):
        text = value.strip()
        for suffix, unit in (("ep", "epochs"), ("T", TOKENS), ("", STEPS)):
            if text.endswith(suffix):
                try:
                    return _whole(float(text.removesuffix(suffix))), unit
                except ValueError:
                    return None, unit
    return _whole(value), STEPS


def _length(
    reader: _Reader,
    scheduler: Schedule | None,
    amount: int | None,
    unit: object,
    rounded: Callable[[float], int],
) -> int | None:
    """The duration in the scheduler's units, None where it cannot be had in them."""
    wanted = STEPS if scheduler is None else scheduler.units
    batch = reader.get("batch_size_tokens")
    if amount is None or unit == wanted:
        return amount
    if batch is None or unit not in (STEPS, TOKENS):
        return None
    return rounded(amount / batch) if wanted == STEPS else amount * int(batch)


def _digest(data: object) -> str:
    """Data that has no name: how much of it is listed, and a hash that tells two lists apart."""
    import hashlib

    if isinstance(data, dict):
        # where it is cached is no part of what it is
        data = {key: value for key, value in data.items() if key != "work_dir"}
    text = json.dumps(data, sort_keys=True, default=str)
    count = f"{len(data):,} entries, " if isinstance(data, (list, dict)) else ""
    return f"{count}sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _merged(first: ModelConfig, second: ModelConfig) -> ModelConfig:
    """The fields of the first, and those of the second that it does not have."""
    values = {
        name: getattr(first, name) if getattr(first, name) is not None else getattr(second, name)
        for name in _FIELDS
    }
    values["sources"] = {**second.sources, **first.sources}
    return ModelConfig(**values)
