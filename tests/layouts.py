"""The same weights in several layouts: Hugging Face's from transformers, the others by hand.

The names of the others are written down here once more, from the table in the documentation of
each code base, and independently of the package: two tables that agree are worth more than one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

Array = NDArray[np.float32]
State = dict[str, Array]

LAYERS = 2
WIDTH, HIDDEN, VOCABULARY = 32, 48, 64
HEADS, KEY_VALUE_HEADS, HEAD = 4, 2, 8
EXPERTS = 3

_COMMON: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_VALUE_HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
_MIXTURE = {"num_experts": EXPERTS, "num_experts_per_tok": 2}
_MORE: dict[str, dict[str, Any]] = {
    "Qwen3": {"head_dim": HEAD},
    "Olmoe": _MIXTURE,
    "Qwen3Moe": {**_MIXTURE, "head_dim": HEAD, "moe_intermediate_size": 24},
}


def hugging_face_model(name: str, **changes: Any) -> Any:
    """A small model of transformers, every weight of it random: norms would all be ones."""
    torch.set_num_threads(1)
    settings = {**_COMMON, **_MORE.get(name, {}), **changes}
    model = getattr(transformers, f"{name}ForCausalLM")(
        getattr(transformers, f"{name}Config")(**settings)
    )
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def state_of(model: Any) -> State:
    """Its weights by name."""
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


_OUTSIDE = {
    "model.embed_tokens.weight": ("embeddings.weight", "transformer.wte.weight"),
    "model.norm.weight": ("lm_head.norm.weight", "transformer.ln_f.weight"),
    "lm_head.weight": ("lm_head.w_out.weight", "transformer.ff_out.weight"),
}

_BLOCK = {
    "self_attn.q_proj": "attention.w_q",
    "self_attn.k_proj": "attention.w_k",
    "self_attn.v_proj": "attention.w_v",
    "self_attn.o_proj": "attention.w_out",
    "self_attn.q_norm": "attention.q_norm",
    "self_attn.k_norm": "attention.k_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}
NORMS_AFTER = {
    "post_attention_layernorm": "attention_norm",
    "post_feedforward_layernorm": "feed_forward_norm",
}
NORMS_BEFORE = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "feed_forward_norm",
}


def olmo_core(state: State, norms: dict[str, str]) -> State:
    """OLMo-core's layout of Hugging Face's weights."""
    result = {}
    for name, value in state.items():
        if name in _OUTSIDE:
            result[_OUTSIDE[name][0]] = value
        else:
            layer, rest = name.removeprefix("model.layers.").split(".", 1)
            module = rest.removesuffix(".weight")
            result[f"blocks.{layer}.{(_BLOCK | norms)[module]}.weight"] = value
    return result


def olmo(state: State, norms: dict[str, str]) -> State:
    """The layout of OLMo's first code base: q, k, v in one tensor, up and gate in one."""
    result = {old: state[name] for name, (_, old) in _OUTSIDE.items() if name in state}
    for layer in range(LAYERS):
        here, there = f"model.layers.{layer}.", f"transformer.blocks.{layer}."
        attention, mlp = f"{here}self_attn.", f"{here}mlp."
        result[f"{there}att_proj.weight"] = np.concatenate(
            [state[f"{attention}{part}_proj.weight"] for part in "qkv"]
        )
        result[f"{there}ff_proj.weight"] = np.concatenate(
            [state[f"{mlp}up_proj.weight"], state[f"{mlp}gate_proj.weight"]]
        )
        result[f"{there}attn_out.weight"] = state[f"{attention}o_proj.weight"]
        result[f"{there}ff_out.weight"] = state[f"{mlp}down_proj.weight"]
        for norm in ("q_norm", "k_norm"):
            if f"{attention}{norm}.weight" in state:
                result[f"{there}{norm}.weight"] = state[f"{attention}{norm}.weight"]
        for theirs, ours in norms.items():
            ours = {"attention_norm": "attn_norm", "feed_forward_norm": "ff_norm"}[ours]
            if f"{here}{theirs}.weight" in state:
                result[f"{there}{ours}.weight"] = state[f"{here}{theirs}.weight"]
    return result


def experts_one_by_one(state: State) -> State:
    """Experts that transformers has stacked, as it stores them."""
    result = {}
    for name, value in state.items():
        if name.endswith("experts.gate_up_proj"):
            half = value.shape[1] // 2
            for expert, matrix in enumerate(value):
                prefix = name.removesuffix("gate_up_proj")
                result[f"{prefix}{expert}.gate_proj.weight"] = matrix[:half]
                result[f"{prefix}{expert}.up_proj.weight"] = matrix[half:]
        elif name.endswith("experts.down_proj"):
            for expert, matrix in enumerate(value):
                result[f"{name.removesuffix('down_proj')}{expert}.down_proj.weight"] = matrix
        else:
            result[name] = value
    return result
