"""The config of a checkpoint, whoever wrote it, as one set of fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["ConfigDifference", "ModelConfig", "config_differences", "read_config"]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a config says; what it does not say is None.

    ``sources`` has, for each field that is known, the file and the key that it was read from.
    """

    d_model: int | None = None
    n_layers: int | None = None
    n_heads: int | None = None
    n_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_hidden_size: int | None = None
    vocab_size: int | None = None
    n_experts: int | None = None
    n_experts_per_token: int | None = None
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


class ConfigDifference(NamedTuple):
    """A field that both configs have, and in which they differ."""

    field: str
    a: int | float | str | bool
    b: int | float | str | bool


def read_config(path: str) -> ModelConfig | None:
    """The config of the checkpoint at ``path``; None where there is none."""
    del path
    return None


def config_differences(a: ModelConfig, b: ModelConfig) -> list[ConfigDifference]:
    """The fields that both have and that differ, in the order of :class:`ModelConfig`."""
    del a, b
    return []
