"""OLMo-core's layout, of its OLMo 2 and 3, Llama and Qwen3 models and its mixtures of experts.

The names are those of its own conversion (``olmo_core/nn/hf/convert.py``). A mixture of experts
has w1 (gate) and w3 (up) as (E·d, h) and w2 (down) as (E·h, d), each expert a block of rows that
is transposed as against Hugging Face; without dropping, w1 and w3 are (E·h, d) and not transposed
(``olmo_core/nn/moe/mlp.py``). Where d = h the shapes do not tell, and the former is taken, as that
conversion does. The router's weight is (E·d).
"""

from __future__ import annotations

import math
import re

from ckptdiff.naming.experts import stacked
from ckptdiff.naming.parts import (
    Join,
    Layout,
    Model,
    Orientation,
    Part,
    Shape,
    Stored,
    in_rows,
    whole,
)

__all__ = ["OLMO_CORE"]

_EMBEDDINGS = "embeddings.weight"

_OUTSIDE = {
    _EMBEDDINGS: "embeddings.weight",
    "lm_head.norm.weight": "final_norm.weight",
    "lm_head.norm.bias": "final_norm.bias",
    "lm_head.w_out.weight": "head.weight",
    "lm_head.w_out.bias": "head.bias",
}

#: Modules of a block that are parts by themselves.
_MODULES = {
    "attention.w_q": "attention.q",
    "attention.w_k": "attention.k",
    "attention.w_v": "attention.v",
    "attention.w_out": "attention.out",
    "attention.q_norm": "attention.q_norm",
    "attention.k_norm": "attention.k_norm",
    "feed_forward.w1": "feed_forward.gate",
    "feed_forward.w2": "feed_forward.down",
    "feed_forward.w3": "feed_forward.up",
    "attention_norm": "attention_norm",
    "feed_forward_norm": "feed_forward_norm",
    "post_attention_norm": "post_attention_norm",
    "post_feed_forward_norm": "post_feed_forward_norm",
    "feed_forward_moe.shared_mlp.w1": "shared_experts.gate",
    "feed_forward_moe.shared_mlp.w2": "shared_experts.down",
    "feed_forward_moe.shared_mlp.w3": "shared_experts.up",
    "feed_forward_moe_norm": "experts_norm",
}

_BLOCK = re.compile(r"blocks\.(0|[1-9][0-9]{0,5})\.(.+)")
_ROUTER = "feed_forward_moe.router.weight"
_EXPERTS = "feed_forward_moe.experts.mlp."
_KINDS = {"w1": "gate", "w2": "down", "w3": "up"}


def _part(name: str, model: Model) -> str | None:
    del model
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    layer, rest = match.groups()
    module, _, kind = rest.rpartition(".")
    if kind in ("weight", "bias") and module in _MODULES:
        return f"layers.{layer}.{_MODULES[module]}.{kind}"
    return None


def _stored(name: str, shape: Shape, model: Model) -> Stored | None:
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    layer, rest = match.groups()
    module, _, kind = rest.rpartition(".")
    if module == "attention.w_qkv" and kind in ("weight", "bias") and shape:
        names = [f"layers.{layer}.attention.{part}.{kind}" for part in "qkv"]
        return in_rows(names, [shape[0] // 3] * 3, shape)
    if rest == _ROUTER:
        return _router(layer, shape, model)
    if rest.startswith(_EXPERTS):
        which = _KINDS.get(rest.removeprefix(_EXPERTS))
        if which is not None:
            return _experts(layer, which, shape, model)
    return None


def _width(layer: str, model: Model) -> int | None:
    """The size of the hidden state."""
    return model.columns(
        _EMBEDDINGS,
        f"blocks.{layer}.feed_forward_norm.weight",
        f"blocks.{layer}.attention_norm.weight",
    )


def _router(layer: str, shape: Shape, model: Model) -> Stored | None:
    width = _width(layer, model)
    if len(shape) == 2:
        return whole(f"layers.{layer}.router.weight", shape)
    if len(shape) != 1 or not width or shape[0] % width:
        return None
    own = (shape[0] // width, width)
    return Stored((Part(f"layers.{layer}.router.weight", 0, own),), Join.FLAT)


def _experts(layer: str, kind: str, shape: Shape, model: Model) -> Stored | None:
    width = _width(layer, model)
    router = model.shape(f"blocks.{layer}.{_ROUTER}")
    if not width or router is None or len(shape) != 2:
        return None
    experts = math.prod(router) // width
    orientation = Orientation.TRANSPOSED
    if kind != "down" and shape[1] == width and shape[0] != experts * width:
        orientation = Orientation.STRAIGHT
    return stacked(layer, (kind,), experts, shape, orientation)


OLMO_CORE = Layout(
    name="olmo-core",
    title="OLMo-core",
    block=re.compile(r"blocks\.[0-9]+\.(attention|feed_forward|attention_norm)[._]"),
    embeddings=_EMBEDDINGS,
    head="lm_head.w_out.weight",
    part=_part,
    stored=_stored,
)
