"""``ckptdiff ls A``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

import click

from ckptdiff import api
from ckptdiff.cli import options
from ckptdiff.cli.errors import print_message
from ckptdiff.cli.output import prepare, write, write_lines
from ckptdiff.naming.rules import Rules, apply_rules, unmatched
from ckptdiff.render.listing import Listing
from ckptdiff.render.screen import Screen

__all__ = ["command"]


@click.command(
    "ls",
    epilog="""\b
Examples:
  ckptdiff ls model/
  ckptdiff ls model/ --include '*norm*'
  ckptdiff ls model/ --format csv | sort -t, -k5 -n

\b
Exit status: 0, or 2 in case of trouble.
""",
)
@click.argument("a", metavar="A")
@options.filter_options
@options.key_option
@options.optimizer_option
@options.output_options
def command(
    a: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    key: str | None,
    optimizer: bool,
    output_format: str,
    output: str | None,
) -> int:
    """List the tensors of checkpoint A with dtype, shape, bytes and shard, and the total.

    Only headers are read, so this is quick for a checkpoint of any size.
    """
    prepare(output)
    checkpoint = api.open(a, key=key, optimizer=optimizer)
    rules = Rules.of(include, exclude)
    indices: Sequence[int] = range(len(checkpoint))
    if rules != Rules():
        named = apply_rules(checkpoint.names(), rules, ())
        indices = [index for index in indices if named.keeps(index)]
        for note in unmatched(rules, named):
            print_message(f"warning: {note}")
    listing = Listing(checkpoint, indices)

    def write_table(stream: TextIO) -> None:
        screen = Screen.of(stream) if stream is sys.stdout else Screen.for_file()
        write_lines(listing.table_lines(screen), stream)

    writers = {
        "table": write_table,
        "json": listing.write_json,
        "csv": listing.write_csv,
        "markdown": listing.write_markdown,
    }
    write(output, writers[output_format])
    return 0
