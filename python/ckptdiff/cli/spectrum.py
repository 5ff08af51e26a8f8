"""``ckptdiff spectrum A [B]``."""

from __future__ import annotations

import sys
from typing import TextIO

import click

from ckptdiff.cli import options
from ckptdiff.cli.errors import print_message
from ckptdiff.cli.output import prepare, write, write_lines
from ckptdiff.cli.progress import ProgressBar

__all__ = ["command"]


@click.command(
    "spectrum",
    epilog="""\b
Examples:
  ckptdiff spectrum model/
  ckptdiff spectrum base/ tuned/ --include '*proj*' --sort rank
  ckptdiff spectrum base/ tuned/ --exact --json -o spectrum.json
  ckptdiff spectrum model/ --sort alpha --top 10 --device cuda

\b
The table has the largest singular value of each matrix (σ₁) with its error,
stable and effective rank, participation ratio, how many singular values hold
90 and 99 % of the energy, the exponent alpha of the tail, and the rank
where the matrix is low-rank but for rounding. '-' is what would need all
singular values: --exact. 'angle' is the largest principal angle between the
leading subspaces of A and B; '?' says that no gap follows them, so that it
means little. docs/spectrum.md defines every column.

\b
Exit status: 0, also where a value is not finite; 2 in case of trouble, 130
when interrupted.
""",
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="[B]", required=False)
@options.filter_options
@click.option(
    "--rename",
    metavar="REGEX=REPLACEMENT",
    multiple=True,
    help="Rename tensors of A before pairing and filtering. Repeatable, in order.",
)
@options.key_option
@click.option("--key-a", metavar="PATH", help="--key of A only.")
@click.option("--key-b", metavar="PATH", help="--key of B only.")
@options.optimizer_option
@click.option(
    "-k",
    metavar="N",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="How many of the largest singular values.",
)
@click.option(
    "--exact",
    "method",
    flag_value="exact",
    help="All singular values of every matrix; else where a side is 2048 or less.",
)
@click.option(
    "--randomised",
    "method",
    flag_value="randomised",
    help="Only the largest, with bounds on their errors, of every matrix.",
)
@click.option(
    "--iterations",
    metavar="N",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    help="Subspace iterations of the randomised method: more are more certain.",
)
@click.option(
    "--angles",
    metavar="N",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="Dimension of the leading subspaces compared between A and B; 0 for none.",
)
@click.option(
    "--experts",
    metavar="GLOB",
    multiple=True,
    default=("*expert*",),
    show_default=True,
    help="Tensors (experts, rows, columns), or with the first two as one, that are a matrix per "
    "expert.",
)
@click.option(
    "--device",
    metavar="DEVICE",
    default="cpu",
    show_default=True,
    help="cpu (numpy), cuda, cuda:N, xpu, mps, torch:cpu, or auto, what is there.",
)
@click.option(
    "--sort",
    metavar="COLUMN",
    help="Order rows by a column: numbers from the largest down, text from A on.",
)
@click.option(
    "--top",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Show the first N rows; 0, the default, shows all.",
)
@options.output_options
@click.option("--quiet", "-q", is_flag=True, help="Print no table, progress or timing.")
def command(
    a: str,
    b: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    rename: tuple[str, ...],
    key: str | None,
    key_a: str | None,
    key_b: str | None,
    optimizer: bool,
    k: int,
    method: str | None,
    iterations: int,
    angles: int,
    experts: tuple[str, ...],
    device: str,
    sort: str | None,
    top: int,
    output_format: str,
    output: str | None,
    quiet: bool,
) -> int:
    """Singular values of every matrix of A, or of B - A: norms, ranks, tails, angles."""
    # numpy is imported with these, and only where the command runs
    from ckptdiff.render import spectrum as render
    from ckptdiff.render.screen import Screen
    from ckptdiff.render.units import duration, human_bytes
    from ckptdiff.spectra.api import spectrum
    from ckptdiff.spectra.options import Method

    prepare(output)
    if b is None and key_b is not None:
        raise click.UsageError("--key-b is given, but no B")
    if sort is not None:
        # a mistyped column shows now, not when all is read
        spectrum({}).sorted(sort)
    chosen: Method = "exact" if method == "exact" else "randomised" if method else "auto"
    with ProgressBar(quiet=quiet) as progress:
        report = spectrum(
            a,
            b,
            k=k,
            method=chosen,
            iterations=iterations,
            angles=angles,
            experts=experts,
            device=device,
            include=include,
            exclude=exclude,
            rename=rename,
            key_a=key if key_a is None else key_a,
            key_b=key if key_b is None else key_b,
            optimizer=optimizer,
            on_progress=progress,
        )
    for note in report.notes:
        if not quiet:
            print_message(f"warning: {note}")
    if quiet and output is None:
        return 0
    if sort is not None:
        report = report.sorted(sort)
    if top:
        report = report.head(top)

    def write_table(stream: TextIO) -> None:
        screen = Screen.of(stream) if stream is sys.stdout else Screen.for_file()
        write_lines(render.table_lines_of(report, screen), stream)

    writers = {
        "table": write_table,
        "json": lambda stream: render.write_json(report, stream),
        "csv": lambda stream: render.write_csv(report, stream),
        "markdown": lambda stream: render.write_markdown(report, stream),
    }
    write(output, writers[output_format])
    if not quiet:
        print_message(f"{human_bytes(report.bytes_read)} of matrices in {duration(report.seconds)}")
    return 0
