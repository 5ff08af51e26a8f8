"""``ckptdiff diff A B``."""

from __future__ import annotations

import click

from ckptdiff import api
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.cli import options
from ckptdiff.cli.errors import print_message
from ckptdiff.cli.output import RowsBy, chosen, prepare, write, write_report
from ckptdiff.cli.progress import ProgressBar
from ckptdiff.render.units import duration, human_bytes, rate

__all__ = ["command"]

_STDOUT = "-"


@click.command(
    "diff",
    epilog="""\b
Examples:
  ckptdiff diff base/ tuned/
  ckptdiff diff base/ tuned/ --by layer --sort rel_l2
  ckptdiff diff fp32.safetensors bf16.safetensors --cast BF16
  ckptdiff diff native/ hf/
  ckptdiff diff mine/ hf/ --rename '^blocks\\.=model.layers.'
  ckptdiff diff a/ b/ --json | jq .summary

\b
Exit status: 0 where nothing differs (within the tolerance asked for), 1 where
something does or has no partner, 2 in case of trouble, 130 when interrupted.
""",
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@options.filter_options
@options.key_option
@click.option("--key-a", metavar="PATH", help="--key of A only.")
@click.option("--key-b", metavar="PATH", help="--key of B only.")
@options.optimizer_option
@click.option(
    "--rename",
    metavar="REGEX=REPLACEMENT",
    multiple=True,
    help="Rewrite A's names before pairing, split at the last '='. Repeatable, in order.",
)
@click.option(
    "--map",
    "name_map",
    metavar="NAME|FILE|none",
    default="auto",
    help="How A's names become B's: a map by name, a TOML file, none; auto finds it.",
)
@click.option(
    "--propose-map",
    metavar="FILE",
    type=click.Path(),
    help="Write a map found by content, shape and name to FILE, - for stdout, and stop.",
)
@click.option(
    "--atol", metavar="X", type=float, default=0.0, help="Tolerate |d| up to X + rtol·|a|."
)
@click.option("--rtol", metavar="X", type=float, default=0.0, help="The relative part of that.")
@click.option("--cast", metavar="DTYPE", help="Round both sides to DTYPE first, to nearest even.")
@click.option(
    "--threshold",
    "thresholds",
    metavar="T",
    type=float,
    multiple=True,
    help="Count elements with |d| > T. Repeatable.",
)
@click.option("--force", is_flag=True, help="Compare what can be, though the architectures differ.")
@click.option("--histogram", is_flag=True, help="Keep a log2 histogram of |d|, and quantiles.")
@options.choice_options
@click.option("--only-changed", is_flag=True, help="Only rows in which a value changed.")
@options.output_options
@options.device_option
@options.run_options
def command(
    a: str,
    b: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    key: str | None,
    key_a: str | None,
    key_b: str | None,
    optimizer: bool,
    rename: tuple[str, ...],
    name_map: str,
    propose_map: str | None,
    atol: float,
    rtol: float,
    cast: str | None,
    thresholds: tuple[float, ...],
    force: bool,
    histogram: bool,
    by: RowsBy,
    sort: str | None,
    top: int | None,
    only_changed: bool,
    output_format: str,
    output: str | None,
    device: str | None,
    threads: int,
    io: str,
    quiet: bool,
) -> int:
    """Tell what changed from checkpoint A, the baseline, to checkpoint B.

    Tensors are paired by name. A and B may be sharded differently and have different dtypes.
    """
    key_a, key_b = key if key_a is None else key_a, key if key_b is None else key_b
    if propose_map is not None:
        first = api.open(a, key=key_a, optimizer=optimizer)
        second = api.open(b, key=key_b, optimizer=optimizer)
        return _propose(first, second, propose_map, threads=threads, io=io)
    prepare(output)
    # a run of nothing has the columns of any run: a mistyped column shows now, not when all is read
    of_nothing = api.diff({}, {}, thresholds=thresholds, histogram=histogram)
    chosen(of_nothing, by=by, sort=sort, top=None)
    with ProgressBar(quiet=quiet) as progress:
        report = api.diff(
            a,
            b,
            include=include,
            exclude=exclude,
            rename=rename,
            map=name_map,
            atol=atol,
            rtol=rtol,
            cast=cast,
            thresholds=thresholds,
            histogram=histogram,
            threads=threads,
            io=io,
            on_progress=progress,
            device=device,
            key_a=key_a,
            key_b=key_b,
            optimizer=optimizer,
            force=force,
        )
    for note in report.notes:
        if not quiet:
            print_message(f"warning: {note}")
    if quiet and output is None:
        return report.exit_status
    shown = chosen(report, by=by, sort=sort, top=top, only_changed=only_changed)
    write_report(shown, output_format=output_format, output=output, top=top)
    if not quiet:
        print_message(
            f"compared {human_bytes(report.bytes_read)} in {duration(report.seconds)}, "
            f"{rate(report.bytes_read, report.seconds)}"
        )
    return report.exit_status


def _propose(a: Checkpoint, b: Checkpoint, file: str, *, threads: int, io: str) -> int:
    output = None if file == _STDOUT else file
    prepare(output)
    proposal = api.propose_map(a, b, threads=threads, io=io)
    write(output, lambda stream: stream.write(proposal.text))
    named, use = ("the proposal", "a file") if output is None else (file, file)
    print_message(
        f"{named}: gives {proposal.tensors:,} of {proposal.wanted:,} tensors a partner; "
        f"read it, then use --map {use}"
    )
    return 0
