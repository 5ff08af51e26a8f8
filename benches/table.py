"""``python -m benches.table``: every dtype, diff and stats, against what bounds them.

For each dtype it writes a pair first (2 x 1 GB; ``--bytes``), then runs each tool once per round,
so that what else the machine does meets all of them, and takes the medians. Round 0 warms the page
cache and is not counted. Each tool is a process of its own; its seconds leave out the imports.

The *ceiling* reads the same bytes with the same threads, windows and reads, and only XORs them: in
place, from populated mappings, as ckptdiff does on a local file system; the *read ceiling* copies
them into buffers by ``read``, which is what a program without mappings can reach. *cold* has the
page cache dropped before every run, and a plain sequential direct read of the files to be held
against. *error* is the worst of all sums and norms that were compared with long double's, see
:mod:`benches.accuracy`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benches import tools
from benches.pair import DTYPES, Pair, default_folder, wanted_bytes

ROOT = Path(__file__).parents[1]
COLD = ("BF16", "F32")

#: What is shown -> the tools of its row: ckptdiff, ceiling, read ceiling, the loops, cmp.
WORK: dict[str, tuple[str, str, str, str | None, str | None, str | None]] = {
    "diff": ("ckptdiff diff", "ceiling", "read ceiling", "torch loop", "numpy loop", "cmp"),
    "identical": ("ckptdiff identical", "ceiling", "read ceiling", None, None, "cmp"),
    "diff, all extras": ("ckptdiff extras", "ceiling", "read ceiling", None, None, None),
    "stats": (
        "ckptdiff stats",
        "ceiling, one side",
        "read ceiling, one side",
        "torch loop, stats",
        "numpy loop, stats",
        None,
    ),
}


def run_tool(name: str, folder: Path, threads: int) -> float | None:
    """Seconds of one tool as a process, None where it cannot do that dtype."""
    completed = subprocess.run(
        [sys.executable, "-m", "benches.tools", name, str(folder)],
        cwd=ROOT,
        env=os.environ | {"CKPTDIFF_BENCH_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode != 0:
        if "loop" in name:
            return None
        raise SystemExit(f"{name} ended with status {completed.returncode}: {completed.stderr}")
    return float(json.loads(completed.stdout)["seconds"])


def worst_errors(folder: Path) -> dict[str, str]:
    """Of ``diff`` and ``stats``, relative."""
    command = [sys.executable, "-m", "benches.accuracy", str(folder)]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {work: f"{error:.0e}" for work, error in json.loads(completed.stdout).items()}


def drop_cache(pair: Pair) -> None:
    """Have the kernel forget the pair's pages; they are on the disk, and nobody maps them."""
    for side in pair:
        for file in side.iterdir():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def medians(
    names: list[str], folder: Path, threads: int, rounds: int, *, cold: bool = False
) -> dict[str, float]:
    """Median seconds of each tool; tools that cannot do it are left out."""
    pair = pair_in(folder)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds if cold else rounds + 1):
        for name in list(seconds):
            if cold:
                drop_cache(pair)
            sys.stderr.write(f"{folder.name}, {threads} threads, round {number}: {name}\n")
            taken = run_tool(name, folder, threads)
            if taken is None:
                del seconds[name]
            elif cold or number:
                seconds[name].append(taken)
    return {name: statistics.median(times) for name, times in seconds.items()}


def pair_in(folder: Path) -> Pair:
    return Pair(folder / "a", folder / "b", folder / "copy")


def bytes_of(side: Path) -> int:
    return sum(file.stat().st_size for file in side.glob("*.safetensors"))


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


def warm_rows(
    dtype: str,
    folder: Path,
    threads: int,
    rounds: int,
    errors: dict[str, str],
    *,
    loops: bool,
) -> Iterator[tuple[str, ...]]:
    wanted: dict[str, None] = {}
    for own, *others in WORK.values():
        wanted[own] = None
        for name in others:
            if name is not None and (loops or ("loop" not in name and name != "cmp")):
                wanted[name] = None
    seconds = medians(list(wanted), folder, threads, rounds)
    pair = pair_in(folder)
    both = bytes_of(pair.a) + bytes_of(pair.b)
    for work, (own, ceiling, read_ceiling, *others) in WORK.items():
        size = bytes_of(pair.a) if "stats" in own else both
        rate = size / seconds[own]
        times = [
            f"{seconds[name] / seconds[own]:.1f}" if name in seconds else "" for name in others
        ]
        yield (
            dtype,
            work,
            str(threads),
            f"{rate / 1e9:.1f}",
            f"{size / seconds[ceiling] / 1e9:.1f}",
            f"{seconds[ceiling] / seconds[own]:.2f}",
            f"{size / seconds[read_ceiling] / 1e9:.1f}",
            f"{seconds[read_ceiling] / seconds[own]:.2f}",
            errors.get(work, ""),
            *times,
        )


def cold_rows(dtype: str, folder: Path, rounds: int) -> Iterator[tuple[str, ...]]:
    threads = os.cpu_count() or 1
    seconds = medians(["ckptdiff diff", "direct"], folder, threads, rounds, cold=True)
    pair = pair_in(folder)
    both = bytes_of(pair.a) + bytes_of(pair.b)
    yield (
        dtype,
        f"{both / seconds['ckptdiff diff'] / 1e9:.2f}",
        f"{both / seconds['direct'] / 1e9:.2f}",
        f"{seconds['direct'] / seconds['ckptdiff diff']:.2f}",
    )


def write(*lines: str) -> None:
    """Right away: the whole takes an hour, and may be interrupted."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def table_head(head: str, texts: int) -> tuple[str, str]:
    columns = head.split(" | ")
    alignment = ["---"] * texts + ["---:"] * (len(columns) - texts)
    return f"| {head} |", f"| {' | '.join(alignment)} |"


def table_row(row: tuple[str, ...]) -> str:
    return f"| {' | '.join(row)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=float, default=wanted_bytes(), help="of one side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", default=",".join([*DTYPES, "F32-BF16"]))
    parser.add_argument("--folder", type=Path, help="where the pairs are kept")
    parser.add_argument("--no-loops", action="store_true", help="leave out what takes longest")
    arguments = parser.parse_args()
    size = int(arguments.bytes)
    tools.build_ceiling()
    cores = os.cpu_count() or 1
    cold: list[tuple[str, ...]] = []
    write(
        machine(),
        "",
        f"2 x {size / 1e9:.1f} GB in shards of 0.4 GB, warm page cache, medians of "
        f"{arguments.rounds}; GB/s, ratios, and how many times as long other ways take",
        "",
        *table_head(
            "dtype | work | threads | GB/s | ceiling | ratio | read ceiling | ratio | error "
            "| torch loop | numpy loop | cmp",
            2,
        ),
    )
    for dtype in arguments.dtypes.split(","):
        folder = (arguments.folder or default_folder(size)) / dtype
        sys.stderr.write(f"writing the pair to {folder}\n")
        writer = [sys.executable, "-m", "benches.pair", str(folder), str(size), dtype]
        subprocess.run(writer, cwd=ROOT, check=True)
        errors = worst_errors(folder)
        for threads in dict.fromkeys((cores, 1)):
            loops = threads == cores and not arguments.no_loops
            for row in warm_rows(dtype, folder, threads, arguments.rounds, errors, loops=loops):
                write(table_row(row))
        if dtype in COLD:
            cold += cold_rows(dtype, folder, arguments.rounds)
    if cold:
        write("", "Cold page cache, all threads:", "")
        write(*table_head("dtype | diff, GB/s | direct read, GB/s | ratio", 1))
        write(*map(table_row, cold))


if __name__ == "__main__":
    main()
