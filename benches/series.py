"""``python -m benches.series``: one read of N checkpoints, against what bounds it.

For each of ``--checkpoints`` it writes that many, of ``--bytes`` in all: bf16 weights that drift as
an optimizer moves them. Then each of these runs once a round, so that what else the machine does
meets all of them, and the medians are shown. Round 0 warms the page cache and is not counted.

- *series*: stats of each checkpoint, the diff of each with the one before, the Gram matrix.
- *stats and diffs*: the same without the Gram matrix, each in a run of its own, so with three reads
  of every byte.
- *ceiling*: reads the same files with the same threads, and only XORs them; in place, and by
  ``read`` into buffers.
- *cold*: the same, in place, with the page cache dropped before every run.

GB/s a core is of the processor's time, which tells more on a machine that others use; beside it,
the same with all products in float64, as ``mix`` asks for.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ckptdiff import _core

from benches.tools import build_ceiling, ceiling_binary

#: Shape of every tensor but a few.
SHAPE = (1024, 1024)


def write(folder: Path, count: int, size: int) -> list[Path]:
    """``count`` checkpoints of ``size`` bytes in all, unless they are there."""
    paths = [folder / f"step{index}.safetensors" for index in range(count)]
    marker = folder / "complete"
    if marker.exists():
        return paths
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(20)
    layers = max(1, size // count // (2 * SHAPE[0] * SHAPE[1]))
    weights = {f"layers.{layer}.weight": torch.randn(SHAPE) * 0.02 for layer in range(layers)}
    weights |= {f"layers.{layer}.norm": torch.randn(SHAPE[0]) + 1 for layer in range(layers)}
    for path in paths:
        save_file({name: weight.to(torch.bfloat16) for name, weight in weights.items()}, path)
        for weight in weights.values():
            weight += torch.randn(weight.shape) * 2e-4
    marker.touch()
    return paths


def parents(count: int) -> list[int]:
    return [index - 1 for index in range(count)]


def series(
    manifests: list[_core.Manifest], threads: int, precision: str = "single"
) -> _core.SeriesRun:
    names = [None] * len(manifests)
    return _core.series(
        manifests, names, parents(len(manifests)), precision=precision, threads=threads
    )


def series_in_double(manifests: list[_core.Manifest], threads: int) -> object:
    return series(manifests, threads, "double")


def stats_and_diffs(manifests: list[_core.Manifest], threads: int) -> object:
    stats = [_core.stats(manifest, threads=threads) for manifest in manifests]
    pairs = itertools.pairwise(manifests)
    return stats, [_core.diff(_core.Pairing(a, b), threads=threads) for a, b in pairs]


def timed(
    work: Callable[[list[_core.Manifest], int], object],
    paths: list[Path],
    threads: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds, of files that are not open yet."""
    manifests = [_core.Manifest.from_safetensors(str(path)) for path in paths]
    start = clock()
    work(manifests, threads)
    return clock() - start


def drop_cache(paths: list[Path]) -> None:
    """Have the kernel forget the pages of files, which are on the disk and which nobody maps."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def ceiling(io: str, paths: list[Path], threads: int) -> float:
    command = [ceiling_binary(), io, str(threads), *paths]
    completed = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(completed.stdout.split()[1])


def measure(paths: list[Path], threads: int, rounds: int) -> dict[str, float]:
    """Median seconds of each."""
    seconds: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        taken = {
            "series": timed(series, paths, threads),
            "stats and diffs": timed(stats_and_diffs, paths, threads),
            "ceiling": ceiling("mapped", paths, threads),
            "read ceiling": ceiling("read", paths, threads),
            "processor": timed(series, paths, threads, time.process_time),
            "processor in double": timed(series_in_double, paths, threads, time.process_time),
        }
        drop_cache(paths)
        taken["cold"] = timed(series, paths, threads)
        drop_cache(paths)
        taken["cold ceiling"] = ceiling("mapped", paths, threads)
        for name, time_taken in taken.items():
            if number:
                seconds.setdefault(name, []).append(time_taken)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=float, default=2e9, help="of all checkpoints together")
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count() or 1, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    build_ceiling()
    head = (
        "checkpoints | threads | GB/s | GB/s a core | with f64 products | of ceiling "
        "| of read ceiling | of cold ceiling | than stats and diffs"
    )
    sys.stdout.write(f"| {head} |\n|{' ---: |' * len(head.split('|'))}\n")
    for count in arguments.checkpoints:
        size = int(arguments.bytes)
        folder = arguments.folder / f"ckptdiff-bench-series-{count}-{size}"
        paths = write(folder, count, size)
        total = sum(path.stat().st_size for path in paths)
        for threads in arguments.threads:
            seconds = measure(paths, threads, arguments.rounds)
            own = seconds["series"]
            cells = (
                total / own / 1e9,
                total / seconds["processor"] / 1e9,
                total / seconds["processor in double"] / 1e9,
                seconds["ceiling"] / own,
                seconds["read ceiling"] / own,
                seconds["cold ceiling"] / seconds["cold"],
                own / seconds["stats and diffs"],
            )
            shown = " | ".join(f"{cell:.2f}" for cell in cells)
            sys.stdout.write(f"| {count} | {threads} | {shown} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
