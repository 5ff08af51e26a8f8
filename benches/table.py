"""``python -m benches.table``: every tool on the same pair, in one run, as a Markdown table.

It writes the pair first (2 x 1 GB; ``--bytes``), then runs each tool once per round, so that what
else the machine does meets all of them, and prints the medians. The page cache is warm: round 0 is
not counted. Each tool is a process of its own; its seconds leave out the imports, its peak RSS does
not.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benches import tools
from benches.pair import Pair, default_folder, wanted_bytes

CEILINGS = {2: "ceiling", 1: "ceiling, one side"}
LOOPS = {2: "torch loop", 1: "torch loop, stats"}


class Run(NamedTuple):
    seconds: float
    peak_rss: int


def run_tool(name: str, folder: Path) -> Run:
    """Run one tool as a process, which would inherit the peak of a parent that imports much."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benches.tools", name, str(folder)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{name} ended with status {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(json.loads(output)["seconds"], usage.ru_maxrss * unit)


def machine() -> str:
    """What it ran on, in one line."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    versions = {}
    for package in ("torch", "numpy", "safetensors"):
        versions[package] = importlib.metadata.version(package)
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    from ckptdiff._core import isa_levels

    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GB, {isa_levels()[-1]}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {libraries}"
    )


def markdown(results: dict[str, list[Run]], bytes_per_side: int) -> list[str]:
    medians = {
        name: statistics.median(run.seconds for run in runs) for name, runs in results.items()
    }
    lines = [
        "| tool | seconds | GB/s | of the ceiling | times the torch loop | peak RSS |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, runs in results.items():
        sides = tools.TOOLS[name][1]
        seconds = medians[name]
        peak = max(run.peak_rss for run in runs) / 1e6
        of_ceiling = medians[CEILINGS[sides]] / seconds
        speedup = medians[LOOPS[sides]] / seconds
        lines.append(
            f"| {name} | {seconds:.3f} | {sides * bytes_per_side / seconds / 1e9:.1f} "
            f"| {of_ceiling:.2f} | {speedup:.1f} | {peak:,.0f} MB |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=float, default=wanted_bytes(), help="of one side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the pair is kept")
    arguments = parser.parse_args()
    size = int(arguments.bytes)
    folder = arguments.folder or default_folder(size)

    tools.build_ceiling()
    sys.stderr.write(f"writing the pair to {folder}\n")
    writer = [sys.executable, "-m", "benches.pair", str(folder), str(size)]
    subprocess.run(writer, cwd=Path(__file__).parents[1], check=True)
    pair = Pair(folder / "a", folder / "b", folder / "copy")
    results: dict[str, list[Run]] = {name: [] for name in tools.TOOLS}
    for number in range(arguments.rounds + 1):
        for name, runs in results.items():
            sys.stderr.write(f"round {number} of {arguments.rounds}: {name}\n")
            run = run_tool(name, folder)
            if number:
                runs.append(run)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stderr.write(f"(this process: {own / 1e3:.0f} MB)\n")
    sys.stdout.write(f"{machine()}\n\n")
    sys.stdout.write(
        f"2 x {pair.bytes / 1e9:.2f} GB of bf16, {len(list(pair.a.glob('*.safetensors')))} shards, "
        f"warm page cache, median of {arguments.rounds}\n\n"
    )
    sys.stdout.write("\n".join(markdown(results, pair.bytes)) + "\n")


if __name__ == "__main__":
    main()
