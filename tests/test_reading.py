"""How files are read never shows in a result, and a file that shrinks never ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import ckptdiff
import numpy as np
import pytest
from ckptdiff import _core

from tests.cli import environment, invoke, measure
from tests.dtypes import DTYPES
from tests.samples import CHUNK, perturbed, tame
from tests.writers import tensor, write_file, write_sparse

linux = pytest.mark.skipif(sys.platform != "linux", reason="files are mapped on Linux only")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tensors around the sizes of a window, a page and a chunk, at odd offsets."""
    folder = tmp_path_factory.mktemp("pair")
    lengths = (1, 2047, 2048, 65_536, 65_537, 524_288 // 2 + 1, CHUNK, CHUNK + 3, 3 * CHUNK + 77)
    a = {
        f"{'x' * seed}.{length}": tame(DTYPES[dtype], (length,), seed)
        for seed, (length, dtype) in enumerate(
            zip(lengths, ("BF16", "F32", "F8_E4M3") * 3, strict=True)
        )
    }
    b = {name: perturbed(value, 5, share=0.1) for name, value in a.items()}
    return write_file(folder / "a.safetensors", a), write_file(folder / "b.safetensors", b)


@pytest.mark.parametrize("io", _core.io_names())
@pytest.mark.parametrize("threads", [1, 2, 40])
def test_the_same_json_however_files_are_read(
    io: str, threads: int, pair: tuple[Path, Path]
) -> None:
    """40 threads make the windows small."""
    expected = ckptdiff.diff(*pair, threads=1, io="read").to_json()
    assert ckptdiff.diff(*pair, threads=threads, io=io).to_json() == expected
    expected = ckptdiff.stats(pair[0], threads=1, io="read", content_hash=True).to_json()
    report = ckptdiff.stats(pair[0], threads=threads, io=io, content_hash=True)
    assert report.to_json() == expected


def test_an_unknown_way_to_read_is_refused(pair: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=r"'mmaped'.*mapped"):
        ckptdiff.diff(*pair, io="mmaped")
    with pytest.raises(ValueError, match="mmaped"):
        _core.stats(ckptdiff.open(pair[0]).manifest, io="mmaped")
    outcome = invoke("stats", pair[0], "--io", "mmaped")
    assert outcome.status == 2
    outcome = invoke("stats", pair[0], "--io", "mapped")
    assert outcome.status == 0, outcome


@linux
def test_mapped_windows_leave_no_more_resident_than_promised(tmp_path: Path) -> None:
    """With many threads, too: each has windows of a share of 32 MB, or none."""
    shapes = {"w": (1000, 1_000_000)}
    a = write_sparse(tmp_path / "a.safetensors", shapes)
    b = write_sparse(tmp_path / "b.safetensors", shapes)
    for arguments in (["--threads", "24", "--io", "mapped"], ["--threads", "64"]):
        usage = measure(["diff", a, b, *arguments], tmp_path / "usage")
        print(f"{arguments}: peak {usage.peak_rss / 1e6:.0f} MB")  # noqa: T201 - for pytest -rP
        assert usage.status == 0, usage.stderr
        assert usage.peak_rss < 150_000_000


@linux
@pytest.mark.parametrize("io", ["mapped", "read"])
def test_a_file_that_shrinks_again_and_again(io: str, tmp_path: Path) -> None:
    """Truncated and restored while it is reduced: each run is right, or an error that names it."""
    values = np.random.default_rng(1).normal(0, 0.02, 20 * CHUNK)
    a = write_file(tmp_path / "a.safetensors", {"w": tensor(values, "F32")})
    b = write_file(tmp_path / "b.safetensors", {"w": tensor(values * 1.01, "F32")})
    content = b.read_bytes()
    expected = ckptdiff.diff(a, b).to_json()
    opened_a = ckptdiff.open(a)
    stop = threading.Event()

    def shrink() -> None:
        pause = 0.0
        while not stop.is_set():
            os.truncate(b, 4096 * 3)
            time.sleep(pause)
            with b.open("r+b") as file:
                file.write(content)
            time.sleep(0.03 - pause)
            pause = (pause + 0.007) % 0.03

    opened_b = ckptdiff.open(b)
    thread = threading.Thread(target=shrink)
    thread.start()
    outcomes = {"right": 0, "refused": 0, "nameless": 0, "torn": 0}
    try:
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            try:
                report = ckptdiff.diff(opened_a, opened_b, io=io)
            except ckptdiff.CheckpointReadError as error:
                outcomes["refused" if "b.safetensors" in str(error) else "nameless"] += 1
            else:
                # Half restored, the file has zeros where nothing was written yet: its size is right
                # and so is what was read of it, but it is not the whole.
                outcomes["right" if report.to_json() == expected else "torn"] += 1
    finally:
        stop.set()
        thread.join()
    print(io, outcomes)  # noqa: T201 - for pytest -rP
    assert outcomes["refused"] > 0
    assert outcomes["nameless"] == 0


@linux
def test_a_bus_error_of_somebody_else_still_ends_the_process(tmp_path: Path) -> None:
    """While windows are open, and after: faulthandler tells, and the signal does what it did."""
    script = """
        import faulthandler, mmap, os, sys, threading, time
        import ckptdiff

        faulthandler.enable()
        a, b, own, moment = sys.argv[1:]
        run = threading.Thread(target=lambda: ckptdiff.diff(a, b, io="mapped"), daemon=True)
        run.start()
        if moment == "after":
            run.join()
        with open(own, "wb") as file:
            file.write(bytes(8192))
        file = open(own, "r+b")
        mapped = mmap.mmap(file.fileno(), 8192, prot=mmap.PROT_READ)
        os.truncate(own, 0)
        print(mapped[5000])
    """
    shapes = {f"layers.{layer}.w": (20_000, 10_000) for layer in range(8)}
    a = write_sparse(tmp_path / "a.safetensors", shapes)
    b = write_sparse(tmp_path / "b.safetensors", shapes)
    for moment in ("during", "after"):
        arguments = [str(a), str(b), str(tmp_path / "own"), moment]
        process = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), *arguments],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert process.returncode == -signal.SIGBUS, (moment, process)
        assert "Bus error" in process.stderr
        assert process.stdout == ""
