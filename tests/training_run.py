"""A small, real training run, saved as OLMo 2's is: what the tests of a series look at.

A model of 0.3 million parameters learns to predict sequences of a Markov chain. Stage 1 trains on
one chain, stage 2 on a mixture with a second, three times over from the end of stage 1 with
different data: the ingredients, whose mean is the soup. Each checkpoint is what ``save_pretrained``
writes, in bf16, in a directory named as OLMo's revisions are, beside a table of held-out losses.

Two things are wrong with it, on purpose: the learning rate is 30 times too high for three steps of
stage 1, and one checkpoint holds the bytes of the one before it.

``python -m tests.training_run FOLDER`` writes it.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = [
    "DUPLICATE",
    "INGREDIENTS",
    "ORIGINAL",
    "PARTS",
    "SOUP",
    "SPIKE",
    "TrainingRun",
    "stage1_label",
    "stage2_label",
    "train",
]

VOCABULARY = 256
BATCH, LENGTH = 8, 32
TOKENS_PER_STEP = BATCH * LENGTH

STAGE1_STEPS, STAGE1_INTERVAL = 240, 10
STAGE2_STEPS, STAGE2_INTERVAL = 60, 15
INGREDIENTS = (1, 2, 3)

WARM_UP = 20
LEARNING_RATE = 2e-3
SPIKE_STEPS = range(131, 134)
SPIKE_FACTOR = 30.0


def stage1_label(step: int) -> str:
    """The directory of a checkpoint of stage 1."""
    return f"stage1-step{step}-tokens{step * TOKENS_PER_STEP}"


def stage2_label(ingredients: str, step: int) -> str:
    """The directory of a checkpoint of stage 2, whose tokens are counted anew."""
    return f"stage2-ingredient{ingredients}-step{step}-tokens{step * TOKENS_PER_STEP}"


#: The first checkpoint that the instability shows in.
SPIKE = stage1_label(140)
#: A checkpoint with the bytes of another.
DUPLICATE, ORIGINAL = stage1_label(180), stage1_label(170)
#: The soup, and what it is the rounded mean of.
SOUP = stage2_label("1+2+3", STAGE2_STEPS)
PARTS = tuple(stage2_label(str(ingredient), STAGE2_STEPS) for ingredient in INGREDIENTS)


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A run on disk: the directory, its checkpoints' names in the order of training, and evals."""

    folder: Path
    labels: tuple[str, ...]
    evals: Path

    def path(self, label: str) -> Path:
        """The directory of a checkpoint."""
        return self.folder / label


def learning_rate(stage: int, step: int) -> float:
    """Warm-up and a cosine to a tenth in stage 1, then linearly to zero, with the one mistake."""
    if stage == 2:
        return LEARNING_RATE / 10 * (1 - step / STAGE2_STEPS)
    if step <= WARM_UP:
        return LEARNING_RATE * step / WARM_UP
    progress = (step - WARM_UP) / (STAGE1_STEPS - WARM_UP)
    rate = LEARNING_RATE * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)
    return rate * (SPIKE_FACTOR if step in SPIKE_STEPS else 1)


def train(folder: Path) -> TrainingRun:
    """Train and write everything into ``folder``, which is made."""
    import torch
    from transformers import Olmo2Config, Olmo2ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    threads = torch.get_num_threads()
    # a step is too small for two threads to gain anything
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        model = Olmo2ForCausalLM(
            Olmo2Config(
                vocab_size=VOCABULARY,
                hidden_size=80,
                intermediate_size=224,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=LENGTH,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=None,
            )
        )
        return _Run(folder, model).all()
    finally:
        torch.set_num_threads(threads)


class _Run:
    """The state of a run while it goes on."""

    def __init__(self, folder: Path, model: torch.nn.Module) -> None:
        import torch

        self.folder = folder
        self.model = model
        chains = torch.Generator().manual_seed(1)
        self.chains = [_chain(chains) for _ in range(2)]
        held_out = torch.Generator().manual_seed(2)
        self.held_out = {
            "first_chain_loss": _sample(self.chains[0], 32, held_out),
            "second_chain_loss": _sample(self.chains[1], 32, held_out),
        }
        self.labels: list[str] = []
        self.evals: list[dict[str, object]] = []

    def all(self) -> TrainingRun:
        """Both stages, the soup, and the duplicate."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.save(stage1_label(0), stage=1, step=0)
        optimizer = self.optimizer()
        self.stage(1, optimizer, seed=10)
        end = _copy(self.model.state_dict())
        ends = []
        for ingredient in INGREDIENTS:
            self.model.load_state_dict(end)
            self.stage(2, self.optimizer(), seed=20 + ingredient, ingredient=ingredient)
            ends.append({name: value.bfloat16() for name, value in _copy(self.state).items()})
        soup = {name: sum(part[name].float() for part in ends) / len(ends) for name in ends[0]}
        self.model.load_state_dict(soup)
        self.save(SOUP, stage=2, step=STAGE2_STEPS, revision=SOUP)
        shutil.rmtree(self.folder / DUPLICATE)
        shutil.copytree(self.folder / ORIGINAL, self.folder / DUPLICATE)
        return TrainingRun(self.folder, tuple(self.labels), self.write_evals())

    @property
    def state(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()

    def optimizer(self) -> torch.optim.Optimizer:
        import torch

        return torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)

    def stage(
        self,
        stage: int,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        ingredient: int | None = None,
    ) -> None:
        """Train one stage, or one ingredient of it, and save its checkpoints."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        steps = STAGE1_STEPS if stage == 1 else STAGE2_STEPS
        interval = STAGE1_INTERVAL if stage == 1 else STAGE2_INTERVAL
        for step in range(1, steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(stage, step)
            from_second = BATCH // 2 if stage == 2 else 0
            batch = torch.cat(
                [
                    _sample(self.chains[0], BATCH - from_second, generator),
                    _sample(self.chains[1], from_second, generator),
                ]
            )
            optimizer.zero_grad(set_to_none=True)
            self.model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            if step % interval == 0:
                if stage == 1:
                    self.save(stage1_label(step), stage=1, step=step)
                else:
                    label = stage2_label(str(ingredient), step)
                    self.save(label, stage=2, step=step, ingredient=ingredient)

    def save(
        self,
        label: str,
        *,
        stage: int,
        step: int,
        ingredient: int | None = None,
        revision: str | None = None,
    ) -> None:
        """Write a checkpoint in bf16, and note its losses."""
        import copy

        import torch

        copy.deepcopy(self.model).bfloat16().save_pretrained(self.folder / label)
        self.labels.append(label)
        with torch.no_grad():
            losses = {
                name: float(self.model(input_ids=tokens, labels=tokens).loss)
                for name, tokens in self.held_out.items()
            }
        where = {"step": step, "stage": stage, "ingredient": ingredient, "revision": revision}
        self.evals.append(where | losses)

    def write_evals(self) -> Path:
        """The losses, as a table that somebody who evaluates checkpoints would keep."""
        path = self.folder / "evals.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.evals[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.evals)
        return path


def _chain(generator: torch.Generator) -> torch.Tensor:
    """The transition probabilities of a Markov chain: from each token to few others, mostly."""
    import torch

    logits = 3 * torch.randn(VOCABULARY, VOCABULARY, generator=generator)
    return torch.softmax(logits, dim=1)


def _sample(chain: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """``count`` sequences of a chain, of the shape (count, LENGTH)."""
    import torch

    if not count:
        return torch.empty(0, LENGTH, dtype=torch.int64)
    tokens = [torch.randint(VOCABULARY, (count,), generator=generator)]
    for _ in range(LENGTH - 1):
        tokens.append(torch.multinomial(chain[tokens[-1]], 1, generator=generator)[:, 0])
    return torch.stack(tokens, dim=1)


def _copy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.items()}


def main() -> None:
    """Write the run into the folder that is given."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    os.environ["HF_HUB_OFFLINE"] = "1"
    run = train(parser.parse_args().folder)
    print(f"{len(run.labels)} checkpoints and {run.evals}")  # noqa: T201


if __name__ == "__main__":
    main()
