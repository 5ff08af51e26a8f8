"""Run the command line: in this process for speed, in its own where that is what is tested."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ckptdiff.cli import main
from click.testing import CliRunner

MODULE = (sys.executable, "-m", "ckptdiff")


class Outcome(NamedTuple):
    """What a shell sees of a command."""

    status: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"status {self.status}\n--- stdout\n{self.stdout}--- stderr\n{self.stderr}"


def invoke(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Outcome:
    """Run in this process; an exception that the command lets through is a failure of the test."""
    # 120 columns whatever the terminal of whoever runs the tests
    env = {"COLUMNS": "120"} | dict(env or {})
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def environment(**changes: str) -> dict[str, str]:
    """The environment of a child that runs this package."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    return inherited | {"COLUMNS": "120"} | changes


def run(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> Outcome:
    """Run as a process of its own, as a shell does."""
    completed = subprocess.run(
        [*MODULE, *arguments],
        env=environment(**(env or {})),
        cwd=cwd,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return Outcome(
        completed.returncode,
        completed.stdout.decode(errors="surrogateescape"),
        completed.stderr.decode(errors="surrogateescape"),
    )


class Usage(NamedTuple):
    """What a command cost."""

    status: int
    seconds: float
    peak_rss: int
    stdout: str
    stderr: str
    #: of all its threads together: what it would take alone on a machine, if it has one
    cpu_seconds: float


# Runs a command and prints what it cost: RUSAGE_CHILDREN counts every child, so each command needs
# a parent of its own, one that has not imported torch (a child starts with its parent's peak).
_MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.run(sys.argv[1:]).returncode
seconds = time.perf_counter() - start
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
with open({report!r}, "w") as file:
    print(status, seconds, usage.ru_maxrss, usage.ru_utime + usage.ru_stime, file=file)
"""


def measure(arguments: Sequence[str | Path], report: Path, timeout: float = 300) -> Usage:
    """Run a command and say how long it took and how much memory it had at most, in bytes."""
    command = [sys.executable, "-S", "-E", "-c", _MEASURE.format(report=str(report))]
    completed = subprocess.run(
        [*command, *MODULE, *map(str, arguments)],
        env=environment(),
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    status, seconds, peak, cpu_seconds = report.read_text().split()
    unit = 1 if sys.platform == "darwin" else 1024
    return Usage(
        int(status),
        float(seconds),
        int(peak) * unit,
        completed.stdout,
        completed.stderr,
        float(cpu_seconds),
    )


_TIMINGS = re.compile(r"\b\d+(\.\d+)? ?(ms|s|µs|min)\b( \d+ s)?")
_RATES = re.compile(r"\b[\d.,]+ ?[kMGT]?B/s")


def without_timings(text: str) -> str:
    """The text with every duration and rate replaced: two runs differ in nothing else."""
    return _TIMINGS.sub("TIME", _RATES.sub("RATE", text))


def assert_one_line_of_trouble(outcome: Outcome, *says: str) -> None:
    """Status 2, nothing on stdout, and one line on stderr that names what is wrong."""
    assert outcome.status == 2, outcome
    assert outcome.stdout == "", outcome
    assert outcome.stderr.endswith("\n"), outcome
    assert outcome.stderr.count("\n") == 1, outcome
    assert "Traceback" not in outcome.stderr, outcome
    assert len(outcome.stderr) < 10_000, len(outcome.stderr)
    assert outcome.stderr.rstrip("\n").isprintable() or not outcome.stderr.isascii(), outcome
    assert "\x1b" not in outcome.stderr, outcome
    for text in says:
        assert text in outcome.stderr, (text, str(outcome))
