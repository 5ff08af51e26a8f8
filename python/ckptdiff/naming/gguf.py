"""llama.cpp's names of tensors as Hugging Face's, and what its converter did to the tensors.

The names are those of ``gguf.TensorNameMap`` (the converter reads it the other way round), for the
architectures whose tensors the converter leaves as they are but for three things: it permutes the
rows of q and k where the model was trained with interleaved rotary embeddings, it stacks experts
along a new first dimension, and it adds 1 to the norm weights of Gemma. The first two are undone
by where the bytes are read from; the third changes values, so that Gemma's norms differ by 1.

An architecture that is not listed here keeps the names of its file, and so does any tensor that
has no Hugging Face name, such as ``rope_freqs.weight``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = [
    "ARCHITECTURES",
    "HEADS",
    "KEY_VALUE_HEADS",
    "Architecture",
    "experts_name",
    "hugging_face_name",
]

#: An ``{expert}`` in a name stands for each of the experts that a tensor stacks.
_EXPERT = "{expert}"

_OUTSIDE_BLOCKS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}

_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}

_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}

_FEED_FORWARD = {
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

_NORMS_BEFORE = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}

_NORMS_AFTER = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": f"mlp.experts.{_EXPERT}.gate_proj",
    "ffn_up_exps": f"mlp.experts.{_EXPERT}.up_proj",
    "ffn_down_exps": f"mlp.experts.{_EXPERT}.down_proj",
}

_SHARED_EXPERT = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}

# Mixtral is a llama to llama.cpp.
_MIXTRAL = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": f"block_sparse_moe.experts.{_EXPERT}.w1",
    "ffn_up_exps": f"block_sparse_moe.experts.{_EXPERT}.w3",
    "ffn_down_exps": f"block_sparse_moe.experts.{_EXPERT}.w2",
}

_LLAMA = _NORMS_BEFORE | _ATTENTION | _FEED_FORWARD
_GEMMA2 = _LLAMA | _NORMS_AFTER | {"ffn_norm": "pre_feedforward_layernorm"}


class Architecture(NamedTuple):
    """What ``general.architecture`` says of a file's tensors.

    ``block`` has the names of a layer's tensors; ``permuted`` those whose rows the converter has
    reordered, with the metadata key that counts their heads; ``notes`` say what cannot be undone.
    """

    block: dict[str, str]
    permuted: dict[str, str]
    notes: tuple[str, ...] = ()


#: Metadata keys after the architecture: how many heads q has, and how many k and v have.
HEADS = "attention.head_count"
KEY_VALUE_HEADS = "attention.head_count_kv"

_ONE_ADDED = ("llama.cpp's converter has added 1 to the weights of all norms, which differ so",)

_PERMUTED = {"attn_q": HEADS, "attn_k": KEY_VALUE_HEADS}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(_LLAMA | _MIXTRAL, _PERMUTED),
    "granite": Architecture(_LLAMA, _PERMUTED),
    "olmo": Architecture(_ATTENTION | _FEED_FORWARD, _PERMUTED),
    "smollm3": Architecture(_LLAMA, _PERMUTED),
    "olmo2": Architecture(_ATTENTION | _QK_NORMS | _FEED_FORWARD | _NORMS_AFTER, {}),
    "olmoe": Architecture(_NORMS_BEFORE | _ATTENTION | _QK_NORMS | _EXPERTS, {}),
    "qwen2": Architecture(_LLAMA, {}),
    "qwen2moe": Architecture(_NORMS_BEFORE | _ATTENTION | _EXPERTS | _SHARED_EXPERT, {}),
    "qwen3": Architecture(_LLAMA | _QK_NORMS, {}),
    "qwen3moe": Architecture(_NORMS_BEFORE | _ATTENTION | _QK_NORMS | _EXPERTS, {}),
    "gemma": Architecture(_LLAMA, {}, _ONE_ADDED),
    "gemma2": Architecture(_GEMMA2, {}, _ONE_ADDED),
    "gemma3": Architecture(_GEMMA2 | _QK_NORMS, {}, _ONE_ADDED),
    "phi3": Architecture(
        _NORMS_BEFORE
        | {
            "attn_qkv": "self_attn.qkv_proj",
            "attn_output": "self_attn.o_proj",
            # gate and up in one, in both
            "ffn_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
        },
        {},
    ),
}

_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]{0,5})\.([a-z0-9_]+)\.(weight|bias)")
_OUTSIDE = re.compile(r"([a-z_]+)\.(weight|bias)")


def hugging_face_name(architecture: Architecture, name: str) -> tuple[str, str | None] | None:
    """The Hugging Face name of a tensor, and the metadata key that counts its heads.

    The key is None where its rows are in order. The name of stacked experts is for
    :func:`experts_name`. None for a tensor that has no such name.
    """
    block = _BLOCK.fullmatch(name)
    if block is not None:
        layer, part, kind = block.groups()
        mapped = architecture.block.get(part)
        if mapped is None:
            return None
        return f"model.layers.{layer}.{mapped}.{kind}", architecture.permuted.get(part)
    outside = _OUTSIDE.fullmatch(name)
    if outside is not None and outside[1] in _OUTSIDE_BLOCKS:
        return f"{_OUTSIDE_BLOCKS[outside[1]]}.{outside[2]}", None
    return None


def experts_name(name: str, expert: int) -> str | None:
    """The name of one of the experts that a tensor stacks; None where it stacks none."""
    return name.replace(_EXPERT, str(expert)) if _EXPERT in name else None
