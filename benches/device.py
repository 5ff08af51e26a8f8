"""``python -m benches.device --device cpu|cuda``: the torch backend against the Rust engine.

The same pair of files, diffed and described by the engine (its own reads and threads) and by torch
on a device: streamed to it from the files, and with the tensors in its memory already. All in one
process, by turns; a first round warms the page cache and the allocator and is not counted, and
what is quick is repeated for a fifth of a second. Seconds are those of the reports, which open no
file and render nothing; for a GPU they end when the results are on the host. GB are bytes of all
tensors read, both sides of a diff. For CUDA the last column is what a run took of the device's
memory beside the tensors.

``--device cpu`` is torch's operations on the CPU and the engine, on one thread each, which says
what they cost without a GPU. They are slow, so the pair is small unless ``--bytes`` is given.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benches import pair
from benches.table import machine, table_head, table_row, write

Run = Callable[[], Any]

#: Bytes of a side for torch on the CPU, which does some 0.1 GB/s.
CPU_BYTES = 3e7

#: Seconds for which a run is repeated.
_LEAST_SECONDS = 0.2


def resident(folder: Path, device: str) -> dict[str, Any]:
    """The tensors of all shards, on the device."""
    from safetensors.torch import load_file

    state: dict[str, Any] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        state |= load_file(shard, device=device)
    return state


def measured(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """GB/s of each, by the median of its seconds; by turns, so that all meet the same noise."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    size: dict[str, int] = {}
    for number in range(rounds + 1):
        for name, run in runs.items():
            spent: list[float] = []
            while not spent or (number and sum(spent) < _LEAST_SECONDS):
                report = run()
                size[name] = report.bytes_read
                spent.append(report.seconds)
                del report
                gc.collect()
            mean = sum(spent) / len(spent)
            sys.stderr.write(f"round {number}: {name}: {mean:.3f} s, {len(spent)} times\n")
            if number:
                seconds[name].append(mean)
    return {name: size[name] / statistics.median(times) / 1e9 for name, times in seconds.items()}


def beside(device: str, run: Run) -> str:
    """Megabytes that a run takes on a GPU beside what was there; a dash where nobody counts."""
    import torch

    if not device.startswith("cuda"):
        return "-"
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return f"{(torch.cuda.max_memory_allocated(device) - before) / 1e6:.0f}"


def rows(dtype: str, folder: Path, device: str, rounds: int, threads: int) -> list[tuple[str, ...]]:
    """A row of the table for diff and one for stats."""
    import ckptdiff

    a, b = str(folder / "a"), str(folder / "b")
    torch_device = "torch:cpu" if device == "cpu" else device
    state_a, state_b = (resident(Path(side), device) for side in (a, b))
    works: dict[str, dict[str, Run]] = {
        "diff": {
            "engine": lambda: ckptdiff.diff(a, b, threads=threads),
            "files": lambda: ckptdiff.diff(a, b, device=torch_device),
            "resident": lambda: ckptdiff.diff(state_a, state_b, device=torch_device),
        },
        "stats": {
            "engine": lambda: ckptdiff.stats(a, threads=threads),
            "files": lambda: ckptdiff.stats(a, device=torch_device),
            "resident": lambda: ckptdiff.stats(state_a, device=torch_device),
        },
    }
    found: list[tuple[str, ...]] = []
    for work, runs in works.items():
        rate = measured(runs, rounds)
        ratios = [f"{rate[name] / rate['engine']:.3f}" for name in ("files", "resident")]
        found.append(
            (dtype, work, f"{rate['engine']:.2f}", f"{rate['files']:.3f}", ratios[0],
             f"{rate['resident']:.3f}", ratios[1], beside(device, runs["files"]))
        )  # fmt: skip
    return found


def device_name(device: str) -> str:
    """What it is called, with its torch."""
    import torch

    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return f"{device}, {torch.get_num_threads()} threads of torch"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, xpu")
    parser.add_argument(
        "--bytes", type=float, help=f"of one side; 1e9, or {CPU_BYTES:.0e} for the CPU"
    )
    parser.add_argument(
        "--threads", type=int, help="of engine and torch; as many as there are, or 1 for the CPU"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", default="BF16,F32,F8_E4M3")
    parser.add_argument("--folder", type=Path, help="where the pairs are kept")
    arguments = parser.parse_args()
    if arguments.device != "cpu":
        from ckptdiff.backends.devices import resolved

        try:
            resolved(arguments.device)
        except ValueError as error:
            raise SystemExit(str(error)) from None
    import torch

    on_cpu = arguments.device == "cpu"
    # torch's own threads gain nothing there, as chunks are made for the cache of one core
    threads = arguments.threads or (1 if on_cpu else os.cpu_count() or 1)
    torch.set_num_threads(threads)
    size = int(arguments.bytes or (CPU_BYTES if on_cpu else pair.wanted_bytes()))
    write(
        machine(),
        device_name(arguments.device),
        "",
        f"2 x {size / 1e9:.2f} GB, warm page cache, threads: {threads}, "
        f"medians of {arguments.rounds}; GB/s",
        "",
        *table_head(
            "dtype | work | Rust engine | torch, from files | ratio | torch, in its memory | ratio "
            "| MB beside",
            2,
        ),
    )
    for dtype in arguments.dtypes.split(","):
        folder = (arguments.folder or pair.default_folder(size)) / dtype
        pair.write(folder, size, dtype)
        for row in rows(dtype, folder, arguments.device, arguments.rounds, threads):
            write(table_row(row))


if __name__ == "__main__":
    main()
