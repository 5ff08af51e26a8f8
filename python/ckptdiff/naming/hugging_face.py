"""Hugging Face's layout: olmo, olmo2, olmo3, olmoe, flex_olmo, llama, qwen3, mixtral and the like.

The norms of a layer are told by which of them it has, as their names mean different things:
``post_attention_layernorm`` is on the output of the attention where a layer has no
``input_layernorm`` (olmo2, olmo3), and on the input of the feed-forward part where it has one
(llama, qwen3), unless that has a norm by its own name (gemma 2 and 3). So it is in OLMo-core's
own conversion (``olmo_core/nn/hf/convert.py``).

Experts are stored one by one; transformers 5 stacks them when it loads them, gate and up in one.
"""

from __future__ import annotations

import re

from ckptdiff.naming.experts import expert, stacked
from ckptdiff.naming.parts import Layout, Model, Orientation, Shape, Stored, in_rows

__all__ = ["HUGGING_FACE"]

_EMBEDDINGS = "embed_tokens.weight"

_OUTSIDE = {
    _EMBEDDINGS: "embeddings.weight",
    "norm.weight": "final_norm.weight",
    "norm.bias": "final_norm.bias",
    "lm_head.weight": "head.weight",
    "lm_head.bias": "head.bias",
}

#: Modules of a layer that are parts by themselves.
_MODULES = {
    "self_attn.q_proj": "attention.q",
    "self_attn.k_proj": "attention.k",
    "self_attn.v_proj": "attention.v",
    "self_attn.o_proj": "attention.out",
    "self_attn.q_norm": "attention.q_norm",
    "self_attn.k_norm": "attention.k_norm",
    "mlp.gate_proj": "feed_forward.gate",
    "mlp.up_proj": "feed_forward.up",
    "mlp.down_proj": "feed_forward.down",
    "mlp.gate": "router",
    "block_sparse_moe.gate": "router",
    "mlp.shared_mlp.gate_proj": "shared_experts.gate",
    "mlp.shared_mlp.up_proj": "shared_experts.up",
    "mlp.shared_mlp.down_proj": "shared_experts.down",
    "post_moe_norm": "experts_norm",
}

_BEFORE = "input_layernorm"
_AFTER_ATTENTION = "post_attention_layernorm"
_BEFORE_FEED_FORWARD = "pre_feedforward_layernorm"
_AFTER_FEED_FORWARD = "post_feedforward_layernorm"
_NORMS = (_BEFORE, _AFTER_ATTENTION, _BEFORE_FEED_FORWARD, _AFTER_FEED_FORWARD)

_NORMS_BEFORE = {_BEFORE: "attention_norm", _AFTER_ATTENTION: "feed_forward_norm"}
_NORMS_AFTER = {_AFTER_ATTENTION: "attention_norm", _AFTER_FEED_FORWARD: "feed_forward_norm"}
_NORMS_AROUND = {
    _BEFORE: "attention_norm",
    _AFTER_ATTENTION: "post_attention_norm",
    _BEFORE_FEED_FORWARD: "feed_forward_norm",
    _AFTER_FEED_FORWARD: "post_feed_forward_norm",
}

_LAYER = re.compile(r"layers\.(0|[1-9][0-9]{0,5})\.(.+)")
_EXPERT = re.compile(
    r"(?:mlp\.experts\.(?P<n>0|[1-9][0-9]{0,5})\.(?P<kind>gate|up|down)_proj"
    r"|block_sparse_moe\.experts\.(?P<mixtral>0|[1-9][0-9]{0,5})\.(?P<w>w[123]))\.weight"
)
_MIXTRAL = {"w1": "gate", "w2": "down", "w3": "up"}


def _part(name: str, model: Model) -> str | None:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = _LAYER.fullmatch(name)
    if match is None:
        return None
    layer, rest = match.groups()
    module, _, kind = rest.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    part = _MODULES.get(module)
    if part is None and module in _NORMS:
        part = _norms_of(layer, model).get(module)
    if part is not None:
        return f"layers.{layer}.{part}.{kind}"
    one = _EXPERT.fullmatch(rest)
    if one is None:
        return None
    return expert(layer, one["n"] or one["mixtral"], one["kind"] or _MIXTRAL[one["w"]])


def _stored(name: str, shape: Shape, model: Model) -> Stored | None:
    match = _LAYER.fullmatch(name)
    if match is None:
        return None
    layer, rest = match.groups()
    if rest in ("mlp.gate_up_proj.weight", "mlp.gate_up_proj.bias") and shape:
        kind = rest.rpartition(".")[2]
        names = [f"layers.{layer}.feed_forward.{part}.{kind}" for part in ("gate", "up")]
        return in_rows(names, [shape[0] // 2] * 2, shape)
    # The size of the model tells these from the layouts of models that store them otherwise.
    width = model.columns(_EMBEDDINGS, f"layers.{layer}.{_AFTER_ATTENTION}.weight")
    if len(shape) == 3 and width is not None:
        if rest == "mlp.experts.gate_up_proj" and shape[2] == width:
            return stacked(layer, ("gate", "up"), shape[0], shape, Orientation.STRAIGHT)
        if rest == "mlp.experts.down_proj" and shape[1] == width:
            return stacked(layer, ("down",), shape[0], shape, Orientation.STRAIGHT)
    return None


def _norms_of(layer: str, model: Model) -> dict[str, str]:
    if f"layers.{layer}.{_BEFORE}.weight" not in model:
        return _NORMS_AFTER
    if f"layers.{layer}.{_BEFORE_FEED_FORWARD}.weight" in model:
        return _NORMS_AROUND
    return _NORMS_BEFORE


HUGGING_FACE = Layout(
    name="hf",
    title="Hugging Face",
    block=re.compile(
        r"layers\.[0-9]+\.(self_attn|mlp|block_sparse_moe|(input|post_attention)_layernorm)\."
    ),
    embeddings=_EMBEDDINGS,
    head="lm_head.weight",
    part=_part,
    stored=_stored,
)
