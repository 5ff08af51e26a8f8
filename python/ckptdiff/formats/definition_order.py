"""In which order transformers' models have their parameters, which safetensors do not keep.

An optimizer counts parameters in the order of ``model.named_parameters()``: a module's own, then
those of each submodule, as the model's code defines them. A torch file keeps that order,
safetensors are sorted by dtype and name. For the architectures below the order of siblings is
known; tests hold it against the models of transformers. A name with any other component in it, or
another ``model_type`` in ``config.json``, leaves the order unknown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

__all__ = ["MODEL_TYPES", "model_type_of", "parameters_in_order"]

_CONFIG_BYTES_AT_MOST = 1 << 20

_LLAMA = (
    *("model", "lm_head"),
    *("embed_tokens", "layers", "norm"),
    *("self_attn", "mlp"),
    *("input_layernorm", "post_attention_layernorm"),
    *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    *("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"),
    *("gate_proj", "up_proj", "down_proj"),
    *("weight", "bias"),
)
_GPT_NEOX = (
    *("gpt_neox", "lm_head", "embed_out"),
    *("embed_in", "layers", "final_layer_norm"),
    *("input_layernorm", "post_attention_layernorm", "attention", "mlp"),
    *("query_key_value", "dense"),
    *("dense_h_to_4h", "dense_4h_to_h"),
    *("weight", "bias"),
)

#: ``model_type`` of transformers -> components of names, each behind the siblings before it.
MODEL_TYPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo", "olmo2"),
            *("olmo3", "qwen2", "qwen3", "smollm3"),
        ),
        _LLAMA,
    ),
    "gpt_neox": _GPT_NEOX,
}


def model_type_of(directory: str) -> str | None:
    """``model_type`` of the ``config.json`` in a directory, None where it says none."""
    path = os.path.join(directory, "config.json")
    if not os.path.isfile(path) or os.path.getsize(path) > _CONFIG_BYTES_AT_MOST:
        return None
    with open(path, "rb") as file:
        try:
            config = json.loads(file.read(_CONFIG_BYTES_AT_MOST))
        except (ValueError, RecursionError):
            return None
    found = config.get("model_type") if isinstance(config, dict) else None
    return found if isinstance(found, str) else None


def parameters_in_order(names: Iterable[str], model_type: str | None) -> list[str] | None:
    """The names in the order of ``named_parameters()``; None where that is not known."""
    siblings = MODEL_TYPES.get(model_type or "")
    if siblings is None:
        return None
    ranks = {component: rank for rank, component in enumerate(siblings)}
    keyed: list[tuple[list[int], str]] = []
    for name in names:
        key: list[int] = []
        for component in name.split("."):
            if component.isdecimal() and len(component) < 10:
                key.append(int(component))
            elif component in ranks:
                key.append(ranks[component])
            else:
                return None
        keyed.append((key, name))
    return [name for _, name in sorted(keyed)]
