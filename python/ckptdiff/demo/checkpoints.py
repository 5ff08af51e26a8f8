"""Makes the demo's two checkpoints: a base model, and the same after a little training.

The names and shapes are those of Hugging Face's ``olmo2`` at a toy size. From ``base`` to
``tuned`` the embedding is frozen, as are the first two layers; each later layer moves more than
the one before; one element of one matrix has become NaN; and the final norm has another name, as
after a conversion. All numbers come from one seed.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

from ckptdiff.demo.safetensors import write_sharded

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

__all__ = ["RENAME", "make_pair"]

HIDDEN = 128
INTERMEDIATE = 344
LAYERS = 8
VOCABULARY = 2048
FROZEN_LAYERS = 2
SEED = 20241126

NORM_IN_BASE = "model.final_norm.weight"
NORM_IN_TUNED = "model.norm.weight"
RENAME = r"^model\.final_norm\.=model.norm."
NAN_IN = "model.layers.6.mlp.up_proj.weight"
NAN_AT = (17, 42)

# A folder with this file was made by the demo and may be made again.
_MARKER = ".ckptdiff-demo"

_CONFIG = {
    "architectures": ["Olmo2ForCausalLM"],
    "model_type": "olmo2",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
    "torch_dtype": "bfloat16",
}


def make_pair(directory: str) -> tuple[str, str]:
    """Write ``base`` and ``tuned`` into ``directory`` and return their paths.

    Raises FileExistsError where the directory holds anything that the demo did not write.
    """
    marker = os.path.join(directory, _MARKER)
    if os.path.lexists(directory) and not os.path.isdir(directory):
        raise FileExistsError(f"{directory}: exists and is no directory")
    if os.path.isdir(directory) and os.listdir(directory) and not os.path.exists(marker):
        raise FileExistsError(
            f"{directory}: not empty, and not made by 'ckptdiff demo'; name another directory"
        )
    os.makedirs(directory, exist_ok=True)
    with open(marker, "w", encoding="utf-8") as file:
        file.write("Made by 'ckptdiff demo', which overwrites it.\n")
    base = _base_tensors()
    tuned = _tuned_tensors(base)
    paths = []
    # sharded differently, which must not matter
    for name, tensors, shards in (("base", base, 2), ("tuned", tuned, 3)):
        path = os.path.join(directory, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        os.makedirs(path)
        write_sharded(path, tensors, shards)
        with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as file:
            json.dump(_CONFIG, file, indent=2)
        paths.append(path)
    return paths[0], paths[1]


def _base_tensors() -> dict[str, NDArray[numpy.float32]]:
    import numpy

    generator = numpy.random.default_rng(SEED)

    def matrix(rows: int, columns: int) -> NDArray[numpy.float32]:
        return generator.normal(0.0, 0.02, (rows, columns)).astype(numpy.float32)

    def norm() -> NDArray[numpy.float32]:
        return numpy.ones(HIDDEN, dtype=numpy.float32)

    tensors = {"model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN)}
    for number in range(LAYERS):
        layer = f"model.layers.{number}"
        for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{layer}.self_attn.{projection}.weight"] = matrix(HIDDEN, HIDDEN)
        tensors[f"{layer}.self_attn.q_norm.weight"] = norm()
        tensors[f"{layer}.self_attn.k_norm.weight"] = norm()
        tensors[f"{layer}.mlp.gate_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        tensors[f"{layer}.mlp.up_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        tensors[f"{layer}.mlp.down_proj.weight"] = matrix(HIDDEN, INTERMEDIATE)
        tensors[f"{layer}.post_attention_layernorm.weight"] = norm()
        tensors[f"{layer}.post_feedforward_layernorm.weight"] = norm()
    tensors[NORM_IN_BASE] = norm()
    tensors["lm_head.weight"] = matrix(VOCABULARY, HIDDEN)
    return tensors


def _tuned_tensors(
    base: dict[str, NDArray[numpy.float32]],
) -> dict[str, NDArray[numpy.float32]]:
    import numpy

    generator = numpy.random.default_rng(SEED + 1)
    tuned = {}
    for name, values in base.items():
        step = _relative_step(name)
        noise = generator.normal(0.0, 1.0, values.shape).astype(numpy.float32)
        scale = numpy.float32(step * numpy.sqrt(numpy.mean(values**2)))
        new_name = NORM_IN_TUNED if name == NORM_IN_BASE else name
        tuned[new_name] = values + scale * noise
    tuned[NAN_IN][NAN_AT] = numpy.nan
    return tuned


def _relative_step(name: str) -> float:
    """How far a tensor moves, relative to its norm."""
    if name == "model.embed_tokens.weight":
        return 0.0
    parts = name.split(".")
    if parts[1] != "layers":
        return 0.002
    number = int(parts[2])
    if number < FROZEN_LAYERS:
        return 0.0
    # value and output projections move more than the rest in fine-tuning
    weight = 1.5 if parts[-2] in ("v_proj", "o_proj") else 1.0
    return 0.001 * weight * 1.8 ** (number - FROZEN_LAYERS)
