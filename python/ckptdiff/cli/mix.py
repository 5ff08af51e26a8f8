"""``ckptdiff mix TARGET PART…``."""

from __future__ import annotations

import sys
from typing import TextIO

import click

from ckptdiff import api
from ckptdiff.cli import options
from ckptdiff.cli.errors import print_message
from ckptdiff.cli.output import RowsBy, prepare, write, write_lines
from ckptdiff.cli.progress import ProgressBar
from ckptdiff.mix_report import COLUMNS, MixReport
from ckptdiff.render.units import duration, human_bytes, rate
from ckptdiff.suggest import unknown

__all__ = ["command"]


@click.command(
    "mix",
    epilog="""\b
Examples:
  ckptdiff mix main/ ingredient1/ ingredient2/ ingredient3/
  ckptdiff mix merged/ base/ tuned/ --by layer
  ckptdiff mix main/ ingredient*/ --json | jq .summary.total

\b
Exit status: 0 where TARGET is exactly the mean of the parts, taken in float32
and rounded, summed in the order given or, of up to 4 parts, in any; 1 where it
is not or a tensor could not be compared, 2 in case of trouble, such as nothing
to compare, 130 when interrupted.
""",
)
@click.argument("target", metavar="TARGET")
@click.argument("parts", metavar="PART...", nargs=-1, required=True)
@options.layout_map_option
@options.filter_options
@options.key_option
@options.optimizer_option
@options.choice_options
@options.output_options
@options.run_options
def command(
    target: str,
    parts: tuple[str, ...],
    name_map: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    key: str | None,
    optimizer: bool,
    by: RowsBy,
    sort: str | None,
    top: int | None,
    output_format: str,
    output: str | None,
    threads: int,
    io: str,
    quiet: bool,
) -> int:
    """Tell what checkpoint TARGET is made of: the combination of PARTs nearest to it.

    For each tensor and in total: the coefficients of the parts by least squares,
    what they leave unexplained, and whether TARGET is exactly the rounded mean.
    """
    prepare(output)
    if sort is not None and sort not in COLUMNS:
        # not when all is read
        raise ValueError(unknown("column", sort, COLUMNS))
    with ProgressBar(quiet=quiet) as progress:
        report = api.mix(
            target,
            parts,
            map=name_map,
            include=include,
            exclude=exclude,
            threads=threads,
            io=io,
            on_progress=progress,
            key=key,
            optimizer=optimizer,
        )
    for note in report.notes:
        if not quiet:
            print_message(f"warning: {note}")
    status = 0 if report.exact else 1
    if quiet and output is None:
        return status
    if by != "tensor":
        report = report.by(by)
    if sort is not None:
        report = report.sorted(sort)
    if top:
        report = (report if sort is not None else report.sorted()).head(top)
    _write(report, output_format=output_format, output=output, fit=top is None)
    if not quiet:
        print_message(
            f"read {human_bytes(report.bytes_read)} in {duration(report.seconds)}, "
            f"{rate(report.bytes_read, report.seconds)}"
        )
    return status


def _write(report: MixReport, *, output_format: str, output: str | None, fit: bool) -> None:
    from ckptdiff.render import mix
    from ckptdiff.render.screen import Screen

    def write_table(stream: TextIO) -> None:
        screen = Screen.of(stream) if stream is sys.stdout else Screen.for_file()
        count = mix.rows_that_fit(report, screen) if fit else None
        shown = report
        if count is not None and count < len(report):
            shown = (report if report.selection.sort else report.sorted()).head(count)
        write_lines(mix.table_lines(shown, screen), stream)

    writers = {
        "table": write_table,
        "json": lambda stream: mix.write_json(report, stream),
        "csv": lambda stream: mix.write_csv(report, stream),
        "markdown": lambda stream: mix.write_markdown(report, stream),
    }
    write(output, writers[output_format])
