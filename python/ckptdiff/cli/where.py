"""``ckptdiff where PATH...``."""

from __future__ import annotations

import sys
from typing import TextIO

import click

from ckptdiff.cli import options
from ckptdiff.cli.errors import TROUBLE, message_of, print_message
from ckptdiff.cli.output import prepare, write, write_lines
from ckptdiff.dynamics.discover import Search, find
from ckptdiff.position import TrainingPosition, in_order, position_of
from ckptdiff.render import positions as render
from ckptdiff.render.screen import Screen

__all__ = ["command"]


@click.command(
    "where",
    epilog="""\b
Examples:
  ckptdiff where run/step1000
  ckptdiff where run/ --format csv
  ckptdiff where ~/.cache/huggingface/hub/models--allenai--OLMo-2-1124-7B/snapshots/*

\b
Exit status: 0, also where nothing tells the position; 1 where two sources
disagree; 2 where a path does not exist or a file cannot be read.
""",
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@options.output_options
def command(paths: tuple[str, ...], output_format: str, output: str | None) -> int:
    """Tell where training stood at each checkpoint: stage, step, tokens, learning rate.

    They are read from the checkpoint's name (or its revision, in the Hub's cache), the trainer's
    state and the config. A run's directory stands for the checkpoints in it, those that series
    finds. No tensor is read.
    """
    prepare(output)
    positions: list[TrainingPosition] = []
    trouble = False
    for path in paths:
        try:
            search = Search()
            find([path], search)
            positions += in_order(position_of(found.path) for found in search.found)
        except (OSError, ValueError) as error:
            # the others are still of use
            print_message(f"error: {message_of(error)}")
            trouble = True

    def write_table(stream: TextIO) -> None:
        screen = Screen.of(stream) if stream is sys.stdout else Screen.for_file()
        write_lines(render.table_of_positions(positions, screen), stream)

    writers = {
        "table": write_table,
        "json": lambda stream: render.write_json(positions, stream),
        "csv": lambda stream: render.write_csv(positions, stream),
        "markdown": lambda stream: render.write_markdown(positions, stream),
    }
    if positions or not trouble:
        write(output, writers[output_format])
    if trouble or any(position.problems for position in positions):
        return TROUBLE
    return 1 if any(position.conflicts for position in positions) else 0
