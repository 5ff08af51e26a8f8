"""Small training runs on disk, written by safetensors and torch, and their tensors as float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]

SHAPES = {
    "embed.weight": (12, 4),
    "layers.0.mlp.weight": (4, 6),
    "layers.0.norm.weight": (4,),
    "layers.1.mlp.weight": (4, 6),
    "layers.1.norm.weight": (4,),
    "head.weight": (12, 4),
}


class Walk:
    """A model whose weights take random steps."""

    def __init__(
        self, seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = SHAPES, dtype: str = "bfloat16"
    ) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._dtype = getattr(torch, dtype)
        self.weights = {name: self._noise(shape) for name, shape in shapes.items()}

    def _noise(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64)

    def step(self, size: float = 0.05) -> Weights:
        """Go on, and give the weights as they are stored."""
        for name, held in self.weights.items():
            self.weights[name] = held + size * self._noise(tuple(held.shape))
        return self.stored()

    def stored(self) -> Weights:
        return {name: held.to(self._dtype) for name, held in self.weights.items()}


def put(folder: Path, weights: Weights) -> Path:
    """A checkpoint as Hugging Face's libraries write it, without a config."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    return folder


def chain(folder: Path, labels: Iterable[str], *, walk: Walk | None = None) -> dict[str, Weights]:
    """A checkpoint for each label, each a step from the one before."""
    walk = walk or Walk()
    written = {label: walk.step() for label in labels}
    for label, weights in written.items():
        put(folder / label, weights)
    return written


def in_stages(folder: Path) -> dict[str, Weights]:
    """Two stages, the second with two ingredients and their soup, in the order of a series.

    Step 500 is missing, step 800 is a copy of step 300, and the update to step 600 is a leap.
    """
    walk = Walk()
    written: dict[str, Weights] = {}
    for step in (100, 200, 300, 400, 600, 700):
        written[f"stage1-step{step}-tokens{step // 100}B"] = walk.step(1.0 if step == 600 else 0.05)
    written["stage1-step800-tokens8B"] = written["stage1-step300-tokens3B"]
    walk.step()
    written["stage1-step900-tokens9B"] = walk.stored()
    end = dict(walk.weights)
    parts = []
    for ingredient in (1, 2):
        walk.weights = dict(end)
        for step in (10, 20):
            label = f"stage2-ingredient{ingredient}-step{step}-tokens{step // 10}B"
            written[label] = walk.step(0.02)
        parts.append(dict(walk.weights))
    walk.weights = {name: (parts[0][name] + parts[1][name]) / 2 for name in SHAPES}
    written["stage2-ingredient1+2-step20"] = walk.stored()
    for label, weights in written.items():
        put(folder / label, weights)
    return written


def float64(weights: Weights) -> dict[str, np.ndarray]:
    """The values, flat."""
    return {name: held.double().numpy().reshape(-1) for name, held in weights.items()}
