"""``ckptdiff series RUN_DIR``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

import click

from ckptdiff import api
from ckptdiff.atomic import check_folder, check_writable
from ckptdiff.cli import options
from ckptdiff.cli.errors import print_message
from ckptdiff.cli.output import RowsBy, prepare, write, write_lines
from ckptdiff.cli.progress import ProgressBar
from ckptdiff.render.units import duration, human_bytes, rate

if TYPE_CHECKING:
    from ckptdiff.dynamics.report import SeriesReport

__all__ = ["command"]

_OPTIONS_OF_READING = ("order", "name_map", "include", "exclude", "key", "optimizer")


@click.command(
    "series",
    epilog="""\b
Examples:
  ckptdiff series run/
  ckptdiff series run/ --pick 5 --plots plots/ --save run.series
  ckptdiff series run.series --by layer
  ckptdiff series --list OLMo-2-1124-7B-stage2.csv --evals evals.csv
  ckptdiff series step1.pt step2.pt step3.pt --json | jq .events

\b
Exit status: 0 where the series is sound, 1 where something is missing, damaged,
there twice or not what its label says, 2 in case of trouble, 130 when
interrupted. Events are answers and change nothing.
""",
)
@click.argument("paths", metavar="[RUN_DIR | CKPT... | SAVED]", nargs=-1)
@click.option(
    "--list",
    "lists",
    metavar="FILE",
    multiple=True,
    help="Checkpoints that a CSV file lists, with OLMo's columns. Repeatable.",
)
@click.option(
    "--order",
    type=click.Choice(("position", "given")),
    default="position",
    show_default=True,
    help="Order by stage, ingredient and step, or keep the order given.",
)
@options.layout_map_option
@options.filter_options
@options.key_option
@options.optimizer_option
@click.option(
    "--by",
    type=click.Choice(["tensor", "layer", "module", "total"]),
    default="total",
    show_default=True,
    help="Tell of each layer, module or tensor, too.",
)
@click.option(
    "--pick",
    metavar="K",
    type=click.IntRange(min=1),
    help="Pick K checkpoints that represent the series, with the reason for each.",
)
@click.option(
    "--evals",
    metavar="FILE",
    help="Correlate with evaluations: a CSV file with a step and a column per metric.",
)
@click.option("--plots", metavar="DIR", help="Write plots as PNG and SVG. Needs matplotlib.")
@click.option("--csv", "csv_folder", metavar="DIR", help="Write everything as tidy CSV files.")
@click.option("--save", metavar="FILE", help="Store the series, to be shown again in no time.")
@options.format_options(("table", "json"))
@options.output_option
@options.run_options
@click.pass_context
def command(
    context: click.Context,
    paths: tuple[str, ...],
    lists: tuple[str, ...],
    order: str,
    name_map: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    key: str | None,
    optimizer: bool,
    by: RowsBy,
    pick: int | None,
    evals: str | None,
    plots: str | None,
    csv_folder: str | None,
    save: str | None,
    output_format: str,
    output: str | None,
    threads: int,
    io: str,
    quiet: bool,
) -> int:
    """Tell how weights moved over the checkpoints of a training run, and what is odd about it.

    Each checkpoint is read once. RUN_DIR has them, or directories of them for stages and
    ingredients; what --save has stored is shown without reading any.
    """
    # numpy comes with these, and help can do without
    from ckptdiff.dynamics.report import SeriesReport
    from ckptdiff.dynamics.stored import is_stored

    prepare(output)
    _prepare_files(save, plots, csv_folder)
    table = None
    if evals is not None:
        from ckptdiff.dynamics.evals import read_evals

        # what is wrong with it shows now, not when all is read
        table = read_evals(evals)
        if table.left_out:
            columns = ", ".join(table.left_out)
            print_message(f"note: {evals}: of text, so no metrics, and left out: {columns}")
    if len(paths) == 1 and not lists and is_stored(paths[0]):
        _refuse_options_of_reading(context)
        report = SeriesReport.load(paths[0])
    elif not paths and not lists:
        raise click.UsageError("Give a directory of checkpoints, some checkpoints, or a --list")
    else:
        with ProgressBar(quiet=quiet) as progress:
            report = api.series(
                paths,
                lists=lists,
                order=order,
                map=name_map,
                include=include,
                exclude=exclude,
                threads=threads,
                io=io,
                on_progress=progress,
                key=key,
                optimizer=optimizer,
            )
    if save is not None:
        report.save(save)
    if table is not None:
        report = report.with_evals(table)
        if left := report.unmatched_evals:
            some = "; ".join(f"line {row.line}: {row.describe()}" for row in left[:3])
            rest = f" and {len(left) - 3:,} more" if len(left) > 3 else ""
            count = f"{len(left):,} of {len(table.rows):,} lines"
            print_message(f"warning: {evals}: {count} of no checkpoint: {some}{rest}")
    written = []
    if csv_folder is not None:
        written += report.to_csv(csv_folder, by=by, pick=pick or 0)
    if plots is not None:
        written += report.write_plots(plots)
    if not quiet or output is not None:
        _write(report, output_format=output_format, output=output, by=by, pick=pick or 0)
    if not quiet:
        for path in written:
            print_message(f"wrote {path}")
        if report.bytes_read:
            print_message(
                f"read {human_bytes(report.bytes_read)} in {duration(report.seconds)}, "
                f"{rate(report.bytes_read, report.seconds)}"
            )
    return report.exit_status


def _write(
    report: SeriesReport, *, output_format: str, output: str | None, by: RowsBy, pick: int
) -> None:
    if output_format == "json":
        from ckptdiff.render import series_json

        write(output, lambda stream: series_json.write(report, stream, by=by, pick=pick))
        return

    def write_table(stream: TextIO) -> None:
        from ckptdiff.render import series_table
        from ckptdiff.render.screen import Screen

        screen = Screen.of(stream) if stream is sys.stdout else Screen.for_file()
        write_lines(series_table.lines(report, screen, by=by, pick=pick), stream)

    write(output, write_table)


def _prepare_files(save: str | None, plots: str | None, csv_folder: str | None) -> None:
    """Find out before the work whether its results can be written."""
    if save is not None:
        check_writable(save)
    for folder in (plots, csv_folder):
        if folder is not None:
            check_folder(folder)
    if plots is not None:
        import importlib.util

        if importlib.util.find_spec("matplotlib") is None:
            raise ValueError("--plots needs matplotlib: pip install 'ckptdiff[plots]'")


def _refuse_options_of_reading(context: click.Context) -> None:
    """Of a series that was saved, raise where an option asks for another way to read it."""
    for name in _OPTIONS_OF_READING:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            name = name.removeprefix("name_")
            raise click.UsageError(f"--{name} is for reading, and a saved series was read already")
