"""``ckptdiff demo [DIR]``: makes two small checkpoints and shows the commands on them.

Each command runs as the process that its line says, so what is shown is what a user will see.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import NamedTuple

import click

from ckptdiff.demo.checkpoints import RENAME, make_pair
from ckptdiff.render.screen import Screen

__all__ = ["command"]


class _Step(NamedTuple):
    """A command, what to look at in its result, and what its output is piped into, if anything."""

    look_at: str
    arguments: tuple[str, ...]
    pipe_into: tuple[str, ...] = ()


@click.command(
    "demo",
    epilog="""\b
Examples:
  ckptdiff demo
  ckptdiff demo /tmp/demo
""",
)
@click.argument("directory", metavar="[DIR]", default="ckptdiff-demo")
def command(directory: str) -> int:
    """Write two small OLMo-2-shaped checkpoints into DIR and run the commands on them.

    DIR is ckptdiff-demo where none is given. It must be empty, or made by this command.
    """
    base, tuned = make_pair(directory)
    screen = Screen.of(sys.stdout)
    print_line(
        f"wrote {base} and {tuned}: the same small model, before and after training", screen, "bold"
    )
    for step in _steps(base, tuned):
        _show(step, screen)
    print_line(f"\nThey stay in {directory}; now try your own: ckptdiff diff A B", screen, "bold")
    return 0


def _steps(base: str, tuned: str) -> list[_Step]:
    summary = 'import json, sys; print(json.load(sys.stdin)["summary"]["verdicts"])'
    return [
        _Step(
            "The NaN comes first, then what moved most. The embedding is frozen, and the final "
            "norm seems to be missing on both sides.",
            ("diff", base, tuned),
        ),
        _Step(
            "It was only renamed: a rule on A's names pairs the two.",
            ("diff", base, tuned, "--rename", RENAME, "--include", "*norm*", "--top", "3"),
        ),
        _Step(
            "By layer, merged exactly: the first two are frozen, and later ones moved more.",
            ("diff", base, tuned, "--rename", RENAME, "--by", "layer"),
        ),
        _Step(
            "How much of the update is larger than a threshold, by module.",
            ("diff", base, tuned, "--by", "module", "--threshold", "1e-5", "--threshold", "1e-3"),
        ),
        _Step(
            "What is in one checkpoint: the NaN again, and norms that sit around 1.",
            ("stats", tuned, "--by", "module"),
        ),
        _Step(
            "What is in it, without reading it.",
            ("ls", base, "--include", "*layers.0*"),
        ),
        _Step(
            "For programs: JSON, here only its count of verdicts. The exit status says it too.",
            ("diff", base, tuned, "--rename", RENAME, "--format", "json"),
            (os.path.basename(sys.executable), "-c", summary),
        ),
    ]


def _show(step: _Step, screen: Screen) -> None:
    line = shlex.join(("ckptdiff", *step.arguments))
    if step.pipe_into:
        line += f" | {shlex.join(step.pipe_into)}"
    print_line("", screen, "")
    print_line(f"# {step.look_at}", screen, "dim")
    print_line(f"$ {line}", screen, "bold cyan")
    command_line = [sys.executable, "-m", "ckptdiff", *step.arguments]
    if not step.pipe_into:
        status = subprocess.run(command_line, check=False).returncode
    else:
        with subprocess.Popen(command_line, stdout=subprocess.PIPE) as first:
            subprocess.run((sys.executable, *step.pipe_into[1:]), stdin=first.stdout, check=True)
        status = first.returncode
    if status not in (0, 1):
        raise click.ClickException(f"the command ended with status {status}")


def print_line(text: str, screen: Screen, style: str) -> None:
    """Print a line before the next process writes its own."""
    sys.stdout.write(screen.style(screen.text(text), style) + "\n")
    sys.stdout.flush()
