"""The layout of OLMo's first code base: OLMo 1, OLMo 2's first releases and OLMoE.

``att_proj`` has q (as many rows as the model is wide), k and v one after the other, and ``ff_proj``
has up and gate, where the activation is gated: then it has twice as many rows as ``ff_out`` has
columns. So it is in its conversion to Hugging Face (``scripts/convert_olmo2_to_hf.py``). Experts
are as megablocks stores them, (E·h, d) each: w1 (gate), v1 (up) and w2 (down), of which w2 is
transposed as against Hugging Face.
"""

from __future__ import annotations

import re

from ckptdiff.naming.experts import stacked
from ckptdiff.naming.parts import Layout, Model, Orientation, Shape, Stored, in_rows, whole

__all__ = ["OLMO"]

_EMBEDDINGS = "transformer.wte.weight"

_OUTSIDE = {
    _EMBEDDINGS: "embeddings.weight",
    "transformer.ln_f.weight": "final_norm.weight",
    "transformer.ln_f.bias": "final_norm.bias",
    "transformer.ff_out.weight": "head.weight",
    "transformer.ff_out.bias": "head.bias",
}

#: Modules of a block that are parts by themselves.
_MODULES = {
    "q_proj": "attention.q",
    "k_proj": "attention.k",
    "v_proj": "attention.v",
    "attn_out": "attention.out",
    "q_norm": "attention.q_norm",
    "k_norm": "attention.k_norm",
    "ff_out": "feed_forward.down",
    "attn_norm": "attention_norm",
    "ff_norm": "feed_forward_norm",
    "ffn.router.layer": "router",
}

_BLOCK = re.compile(r"transformer\.blocks\.(0|[1-9][0-9]{0,5})\.(.+)")
_ROUTER = "ffn.router.layer.weight"
_EXPERTS = {
    "ffn.experts.mlp.w1": ("gate", Orientation.STRAIGHT),
    "ffn.experts.mlp.v1": ("up", Orientation.STRAIGHT),
    "ffn.experts.mlp.w2": ("down", Orientation.TRANSPOSED),
}


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
    if match is None or not shape:
        return None
    layer, rest = match.groups()
    block = f"transformer.blocks.{layer}"
    if rest in _EXPERTS:
        kind, orientation = _EXPERTS[rest]
        router = model.shape(f"{block}.{_ROUTER}")
        return stacked(layer, (kind,), router[0], shape, orientation) if router else None
    module, _, kind = rest.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    if module == "att_proj":
        width = model.columns(f"{block}.att_proj.weight", _EMBEDDINGS)
        key_value_rows = shape[0] - (width or 0)
        if width is None or key_value_rows % 2:
            return None
        names = [f"layers.{layer}.attention.{part}.{kind}" for part in "qkv"]
        return in_rows(names, [width, key_value_rows // 2, key_value_rows // 2], shape)
    if module == "ff_proj":
        hidden = model.columns(f"{block}.ff_out.weight")
        names = [f"layers.{layer}.feed_forward.{part}.{kind}" for part in ("up", "gate")]
        if hidden is not None and shape[0] == hidden:
            return whole(names[0], shape)
        return in_rows(names, [shape[0] // 2] * 2, shape)
    return None


OLMO = Layout(
    name="olmo",
    title="OLMo (first code base)",
    block=re.compile(r"transformer\.blocks\.[0-9]+\.(att_proj|attn_out|ff_|ffn|q_proj|attn_norm)"),
    embeddings=_EMBEDDINGS,
    head="transformer.ff_out.weight",
    part=_part,
    stored=_stored,
)
