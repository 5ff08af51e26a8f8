"""``python -m benches.callbacks [--device cpu|cuda|mps]``: what a measurement costs in training.

A Llama of ``--size`` parameters is trained with AdamW on batches of 1 × 256 tokens, in the dtype
given, and a watcher measures it. The cost is given in seconds, in training steps, as a share of the
time of a run that measures every 100 steps, and in bytes kept.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from ckptdiff.backends import devices
from ckptdiff.callbacks import Watcher
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {"20M": (256, 6), "110M": (768, 12), "1B": (2048, 16)}


def model_of(size: str) -> nn.Module:
    width, layers = SIZES[size]
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32_000,
            hidden_size=width,
            intermediate_size=width * 11 // 4,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            tie_word_embeddings=True,
        )
    )


def median_seconds(work: Callable[[], object], wait: Callable[[], None], rounds: int) -> float:
    work()
    seconds = []
    for _ in range(rounds):
        wait()
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=SIZES, default="110M")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        name = devices.resolved(options.device)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    device = torch.device("cpu" if name == devices.TORCH_CPU else name)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    say(f"device: {device}, {torch.get_num_threads()} threads of torch")
    say("| model | dtype | step, s | measurement, s | in steps | every 100 | GB/s | kept |")
    say("|---|---|---:|---:|---:|---:|---:|---:|")
    for dtype in (torch.float32, torch.bfloat16):
        model = model_of(options.size).to(device=device, dtype=dtype)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        tokens = torch.randint(0, 32_000, (1, 256), device=device)

        def step(
            model: nn.Module = model,
            optimizer: torch.optim.Optimizer = optimizer,
            tokens: torch.Tensor = tokens,
        ) -> None:
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        training = median_seconds(step, wait, options.rounds)
        watcher = Watcher(model, every=100)
        measuring = median_seconds(watcher.measure, wait, options.rounds)
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        # weights and snapshot are read, the update is read, and both are written
        moved = 3 * size + 2 * (watcher.bytes_kept - size)
        share = measuring / (100 * training + measuring)
        say(
            f"| {options.size} | {str(dtype).removeprefix('torch.')} | {training:.3f} "
            f"| {measuring:.3f} | {measuring / training:.2f} | {100 * share:.2f} % "
            f"| {moved / measuring / 1e9:.1f} | {watcher.bytes_kept / 1e9:.2f} GB |",
        )


if __name__ == "__main__":
    main()
