"""``ckptdiff stats A``."""

from __future__ import annotations

import click

from ckptdiff import api
from ckptdiff.cli import options
from ckptdiff.cli.errors import print_message
from ckptdiff.cli.output import RowsBy, chosen, prepare, write_report
from ckptdiff.cli.progress import ProgressBar
from ckptdiff.render.units import duration, human_bytes, rate

__all__ = ["command"]


@click.command(
    "stats",
    epilog="""\b
Examples:
  ckptdiff stats model/
  ckptdiff stats model/ --by module
  ckptdiff stats model/ --sort kurtosis --top 10
  ckptdiff stats model/ --hash --format csv -o stats.csv

\b
Exit status: 0, also where a value is not finite; 2 in case of trouble, 130
when interrupted.
""",
)
@click.argument("a", metavar="A")
@options.filter_options
@options.key_option
@options.optimizer_option
@click.option("--histogram", is_flag=True, help="Keep a log2 histogram of |x|, and quantiles.")
@click.option("--hash", "content_hash", is_flag=True, help="Add a hash of each tensor's bytes.")
@options.choice_options
@options.output_options
@options.device_option
@options.run_options
def command(
    a: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    key: str | None,
    optimizer: bool,
    histogram: bool,
    content_hash: bool,
    by: RowsBy,
    sort: str | None,
    top: int | None,
    output_format: str,
    output: str | None,
    device: str | None,
    threads: int,
    io: str,
    quiet: bool,
) -> int:
    """Describe every tensor of checkpoint A: extremes, moments, norms, NaN and infinities."""
    prepare(output)
    # a run of nothing has the columns of any run: a mistyped column shows now, not when all is read
    of_nothing = api.stats({}, histogram=histogram, content_hash=content_hash)
    chosen(of_nothing, by=by, sort=sort, top=None)
    with ProgressBar(quiet=quiet) as progress:
        report = api.stats(
            a,
            include=include,
            exclude=exclude,
            histogram=histogram,
            content_hash=content_hash,
            threads=threads,
            io=io,
            on_progress=progress,
            device=device,
            key=key,
            optimizer=optimizer,
        )
    for note in report.notes:
        if not quiet:
            print_message(f"warning: {note}")
    if quiet and output is None:
        return 0
    shown = chosen(report, by=by, sort=sort, top=top)
    write_report(shown, output_format=output_format, output=output, top=top)
    if not quiet:
        print_message(
            f"read {human_bytes(report.bytes_read)} in {duration(report.seconds)}, "
            f"{rate(report.bytes_read, report.seconds)}"
        )
    return 0
