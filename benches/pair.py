"""The pair of checkpoints that the benchmarks read: an OLMo-2-shaped model, before and after.

Weights are normal with a standard deviation of 0.02, norms lie near 1; the update is a tenth of a
percent of a weight's size, rounded to bf16 as an optimizer's is, so a part of the elements stays
what it was, and the embedding moves in one row of eight only. ``copy`` is A once more, in files of
its own, because ``cmp`` stops at the first difference.

A dtype of ``F32-BF16`` makes A of the one and B of the other. 8-bit floats are scaled up to their
range, integers are weights in steps of a thousandth.

``python -m benches.pair FOLDER BYTES [DTYPE]`` writes it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

WIDTH, HIDDEN, VOCABULARY = 2048, 8192, 50304
SHARD_BYTES = 400_000_000


class Pair(NamedTuple):
    """Directories of the same tensors, sharded alike."""

    a: Path
    b: Path
    copy: Path

    @property
    def bytes(self) -> int:
        """Bytes of one side."""
        return sum(file.stat().st_size for file in self.a.glob("*.safetensors"))


#: safetensors' name of a dtype -> torch's, and what weights are multiplied by.
DTYPES: dict[str, tuple[str, float]] = {
    "BF16": ("bfloat16", 1),
    "F16": ("float16", 1),
    "F32": ("float32", 1),
    "F64": ("float64", 1),
    "F8_E4M3": ("float8_e4m3fn", 4000),
    "F8_E5M2": ("float8_e5m2", 4000),
    "I8": ("int8", 1000),
    "I32": ("int32", 1000),
}


def wanted_bytes() -> int:
    """Bytes per side; CKPTDIFF_BENCH_BYTES says how many, 1 GB where it does not."""
    return int(float(os.environ.get("CKPTDIFF_BENCH_BYTES", "1e9")))


def default_folder(size: int) -> Path:
    folder = os.environ.get("CKPTDIFF_BENCH_DIR", tempfile.gettempdir())
    return Path(folder) / f"ckptdiff-bench-{size}"


def shapes(size: int, element_bytes: int = 2) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of at least ``size`` bytes; less than an embedding is a part of one."""
    rows = -(-size // (element_bytes * WIDTH))
    if rows < VOCABULARY:
        yield "model.embed_tokens.weight", (rows // 2, WIDTH)
        yield "model.layers.0.self_attn.q_proj.weight", (rows - rows // 2, WIDTH)
        return
    yield "model.embed_tokens.weight", (VOCABULARY, WIDTH)
    written = element_bytes * VOCABULARY * WIDTH
    layer = 0
    while written < size:
        prefix = f"model.layers.{layer}"
        parts: list[tuple[str, tuple[int, ...]]] = [
            *((f"self_attn.{name}_proj", (WIDTH, WIDTH)) for name in "qkvo"),
            *((f"self_attn.{name}_norm", (WIDTH,)) for name in "qk"),
            ("mlp.gate_proj", (HIDDEN, WIDTH)),
            ("mlp.up_proj", (HIDDEN, WIDTH)),
            ("mlp.down_proj", (WIDTH, HIDDEN)),
            ("post_attention_layernorm", (WIDTH,)),
            ("post_feedforward_layernorm", (WIDTH,)),
        ]
        for name, shape in parts:
            yield f"{prefix}.{name}.weight", shape
            written += element_bytes * shape[0] * (shape[1] if len(shape) > 1 else 1)
        layer += 1


def write(folder: Path, size: int, dtype: str = "BF16") -> Pair:
    """Write the pair, unless it is there; a marker says that it is complete."""
    pair = Pair(folder / "a", folder / "b", folder / "copy")
    marker = folder / "complete"
    if marker.exists():
        return pair
    import torch
    from safetensors.torch import save_file

    shutil.rmtree(folder, ignore_errors=True)
    for side in pair:
        side.mkdir(parents=True)
    torch.manual_seed(20)
    names = dtype.split("-")
    (type_a, scale), (type_b, _) = (DTYPES[name] for name in (names[0], names[-1]))
    torch_a, torch_b = getattr(torch, type_a), getattr(torch, type_b)
    element_bytes = torch.empty(0, dtype=torch_a).element_size()
    weight_map: dict[str, str] = {}
    held_a: dict[str, torch.Tensor] = {}
    held_b: dict[str, torch.Tensor] = {}
    number = 0

    def flush() -> None:
        nonlocal number
        number += 1
        file = f"model-{number:05d}.safetensors"
        save_file(held_a, pair.a / file)
        save_file(held_b, pair.b / file)
        shutil.copyfile(pair.a / file, pair.copy / file)
        weight_map.update(dict.fromkeys(held_a, file))
        held_a.clear()
        held_b.clear()

    for name, shape in shapes(size, element_bytes):
        norm = len(shape) == 1
        base = torch.randn(shape) * 0.02 + (1.0 if norm else 0.0)
        update = torch.randn(shape) * (1e-3 if norm else 2e-5)
        if "embed" in name:
            update[torch.arange(shape[0]) % 8 != 0] = 0
        before = (base * scale).to(torch_a)
        held_a[name] = before
        held_b[name] = (before.to(torch.float64) + update * scale).to(torch_b)
        if sum(t.nbytes for t in held_a.values()) >= SHARD_BYTES:
            flush()
    if held_a:
        flush()
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    for side in pair:
        (side / "model.safetensors.index.json").write_text(index)
    marker.touch()
    return pair


def main() -> None:
    folder, size, *dtype = sys.argv[1:]
    write(Path(folder), int(size), *dtype)


if __name__ == "__main__":
    main()
