"""What is measured, each as a function of a pair: ckptdiff, and what one would write without it.

``python -m benches.tools NAME FOLDER`` runs one and prints its seconds, imports not counted.
The loops compute about a third of ckptdiff's columns, in float32, as scripts in the wild do.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benches.pair import Pair

#: How many threads those have that can be told.
THREADS = int(os.environ.get("CKPTDIFF_BENCH_THREADS", os.cpu_count() or 1))


def tensors(folder: Path, framework: str) -> Iterator[tuple[str, Any]]:
    """Every tensor of a sharded checkpoint, read with the safetensors library."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework) as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                yield name, opened.get_tensor(name)


def pairs(pair: Pair, framework: str) -> Iterator[tuple[Any, Any]]:
    both = zip(tensors(pair.a, framework), tensors(pair.b, framework), strict=True)
    for (name_a, a), (name_b, b) in both:
        assert name_a == name_b
        yield a, b


def ckptdiff_diff(pair: Pair) -> object:
    import ckptdiff

    return ckptdiff.diff(pair.a, pair.b, threads=THREADS).total


def ckptdiff_identical(pair: Pair) -> object:
    import ckptdiff

    return ckptdiff.diff(pair.a, pair.copy, threads=THREADS).total


def ckptdiff_extras(pair: Pair) -> object:
    """With a histogram, five thresholds and a tolerance."""
    import ckptdiff

    thresholds = (0.0, 1e-8, 1e-6, 1e-5, 1e-4)
    return ckptdiff.diff(
        pair.a, pair.b, threads=THREADS, histogram=True, thresholds=thresholds, atol=1e-5, rtol=1e-3
    ).total


def ckptdiff_stats(pair: Pair) -> object:
    import ckptdiff

    return ckptdiff.stats(pair.a, threads=THREADS).total


def torch_diff(pair: Pair) -> object:
    rows = []
    for a, b in pairs(pair, "pt"):
        x, y = a.float(), b.float()
        d = y - x
        norm_a, norm_b = x.norm(), y.norm()
        rows.append(
            {
                "changed": int((d != 0).sum()),
                "max_abs": float(d.abs().max()),
                "mean_abs": float(d.abs().mean()),
                "l2": float(d.norm()),
                "rel_l2": float(d.norm() / norm_a),
                "cosine": float((x * y).sum() / (norm_a * norm_b)),
                "nan_a": int(x.isnan().sum()),
                "nan_b": int(y.isnan().sum()),
            }
        )
    return rows


def torch_stats(pair: Pair) -> object:
    rows = []
    for _, a in tensors(pair.a, "pt"):
        x = a.float()
        rows.append(
            {
                "min": float(x.min()),
                "max": float(x.max()),
                "mean": float(x.mean()),
                "std": float(x.std()),
                "l1": float(x.abs().sum()),
                "l2": float(x.norm()),
                "zeros": int((x == 0).sum()),
                "nan": int(x.isnan().sum()),
            }
        )
    return rows


def numpy_diff(pair: Pair) -> object:
    import ml_dtypes  # noqa: F401 - gives numpy its bfloat16
    import numpy as np

    rows = []
    for a, b in pairs(pair, "numpy"):
        x, y = a.astype(np.float32), b.astype(np.float32)
        d = y - x
        norm_a, norm_b = np.linalg.norm(x), np.linalg.norm(y)
        rows.append(
            {
                "changed": int((d != 0).sum()),
                "max_abs": float(np.abs(d).max()),
                "mean_abs": float(np.abs(d).mean()),
                "l2": float(np.linalg.norm(d)),
                "rel_l2": float(np.linalg.norm(d) / norm_a),
                "cosine": float(np.vdot(x, y) / (norm_a * norm_b)),
                "nan_a": int(np.isnan(x).sum()),
                "nan_b": int(np.isnan(y).sum()),
            }
        )
    return rows


def numpy_stats(pair: Pair) -> object:
    import ml_dtypes  # noqa: F401 - gives numpy its bfloat16
    import numpy as np

    rows = []
    for _, a in tensors(pair.a, "numpy"):
        x = a.astype(np.float32)
        rows.append(
            {
                "min": float(x.min()),
                "max": float(x.max()),
                "mean": float(x.mean()),
                "std": float(x.std()),
                "l1": float(np.abs(x).sum()),
                "l2": float(np.linalg.norm(x)),
                "zeros": int((x == 0).sum()),
                "nan": int(np.isnan(x).sum()),
            }
        )
    return rows


def cmp(pair: Pair) -> object:
    """GNU cmp of A with its copy; of A with B it would stop at the first difference."""
    for file in sorted(pair.a.glob("*.safetensors")):
        subprocess.run(["cmp", file, pair.copy / file.name], check=True)
    return None


def ceiling(pair: Pair, *, sides: int = 2, io: str = "mapped") -> float:
    """Seconds to read both sides and XOR them, as the engine reads; measured by itself."""
    arguments = [io, str(THREADS), str(pair.a), str(pair.b)][: 2 + sides]
    run = subprocess.run([ceiling_binary(), *arguments], check=True, capture_output=True, text=True)
    return float(run.stdout.split()[1])


def ceiling_one_side(pair: Pair) -> float:
    return ceiling(pair, sides=1)


def read_ceiling(pair: Pair) -> float:
    """The same with ``read`` into buffers, which is all that a program without mappings can do."""
    return ceiling(pair, io="read")


def read_ceiling_one_side(pair: Pair) -> float:
    return ceiling(pair, sides=1, io="read")


def direct(pair: Pair) -> object:
    """A plain sequential read of both sides past the page cache, 4 MiB at a time."""
    import mmap

    buffer = mmap.mmap(-1, 4 << 20)
    for side in (pair.a, pair.b):
        for file in sorted(side.glob("*.safetensors")):
            descriptor = os.open(file, os.O_RDONLY | os.O_DIRECT)
            while os.readv(descriptor, [buffer]) == len(buffer):
                pass
            os.close(descriptor)
    return None


def ceiling_binary() -> Path:
    """The engine's example of that name, in the release profile; see :func:`build_ceiling`."""
    workspace = Path(__file__).parents[1]
    target = Path(os.environ.get("CARGO_TARGET_DIR", workspace / "target"))
    return target / "release" / "examples" / "ceiling"


def build_ceiling() -> None:
    subprocess.run(
        ["cargo", "build", "--quiet", "--release", "-p", "ckptdiff-engine", "--example", "ceiling"],
        cwd=Path(__file__).parents[1],
        check=True,
    )


#: ckptdiff imports what it needs when it is first used.
CKPTDIFF = (
    "ckptdiff.api",
    "ckptdiff.config",
    "ckptdiff.coverage",
    "ckptdiff.diff_report",
    "ckptdiff.formats.safetensors",
    "ckptdiff.pairing",
    "ckptdiff.stats_report",
)

#: What each reads (sides), and what must be imported before the clock starts.
TOOLS: dict[str, tuple[Callable[[Pair], object], int, tuple[str, ...]]] = {
    "ckptdiff diff": (ckptdiff_diff, 2, CKPTDIFF),
    "torch loop": (torch_diff, 2, ("torch", "safetensors")),
    "numpy loop": (numpy_diff, 2, ("ml_dtypes", "numpy", "safetensors")),
    "cmp": (cmp, 2, ()),
    "ceiling": (ceiling, 2, ()),
    "read ceiling": (read_ceiling, 2, ()),
    "ckptdiff identical": (ckptdiff_identical, 2, CKPTDIFF),
    "ckptdiff extras": (ckptdiff_extras, 2, CKPTDIFF),
    "direct": (direct, 2, ()),
    "ckptdiff stats": (ckptdiff_stats, 1, CKPTDIFF),
    "torch loop, stats": (torch_stats, 1, ("torch", "safetensors")),
    "numpy loop, stats": (numpy_stats, 1, ("ml_dtypes", "numpy", "safetensors")),
    "ceiling, one side": (ceiling_one_side, 1, ()),
    "read ceiling, one side": (read_ceiling_one_side, 1, ()),
}


def main() -> None:
    name, folder = sys.argv[1:]
    run, _, modules = TOOLS[name]
    for module in modules:
        importlib.import_module(module)
    pair = Pair(*(Path(folder) / side for side in Pair._fields))
    start = time.perf_counter()
    result = run(pair)
    seconds = time.perf_counter() - start
    if isinstance(result, float):  # it measured itself, without the start of a process
        seconds = result
    sys.stdout.write(json.dumps({"seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
