"""Options that several commands share, each with one meaning and one help text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = [
    "FORMATS",
    "choice_options",
    "device_option",
    "filter_options",
    "key_option",
    "optimizer_option",
    "output_options",
    "run_options",
]

FORMATS = ("table", "json", "csv", "markdown")

Function = TypeVar("Function", bound=Callable[..., Any])


def _all_of(*options: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """A decorator that adds options in the order given, which is the order of the help."""

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


filter_options = _all_of(
    click.option(
        "--include",
        metavar="GLOB",
        multiple=True,
        help="Only tensors whose name matches; '*' crosses dots. Repeatable.",
    ),
    click.option(
        "--exclude",
        metavar="GLOB",
        multiple=True,
        help="Not the tensors whose name matches. Repeatable.",
    ),
)

key_option = click.option(
    "--key",
    metavar="PATH",
    help="Only this subtree, where dictionaries are nested (torch): 'model'.",
)

optimizer_option = click.option(
    "--optimizer", is_flag=True, help="Include optimizer state; without it, weights only."
)

device_option = click.option(
    "--device",
    metavar="DEVICE",
    help="Reduce there, with torch: cuda, cuda:1, xpu, mps, or auto, what is there. "
    "cpu is the core.",
)

choice_options = _all_of(
    click.option(
        "--by",
        type=click.Choice(["tensor", "layer", "module", "total"]),
        default="tensor",
        show_default=True,
        help="Merge rows, exactly, by layer or by module.",
    ),
    click.option(
        "--sort",
        metavar="COLUMN",
        help="Order rows by a column: numbers from the largest down, text from A on.",
    ),
    click.option(
        "--top",
        metavar="N",
        type=click.IntRange(min=0),
        help="Show the first N rows; 0 shows all. Without it, a table shows what fits a screen.",
    ),
)

output_options = _all_of(
    click.option(
        "--format",
        "output_format",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="How to write the result.",
    ),
    click.option(
        "-o",
        "--output",
        metavar="FILE",
        type=click.Path(),
        help="Write to FILE instead of stdout: completely, or not at all.",
    ),
)

run_options = _all_of(
    click.option(
        "--threads",
        metavar="N",
        type=click.IntRange(min=0),
        default=0,
        help="How many threads work; 0, the default, is one per core.",
    ),
    click.option(
        "--io",
        type=click.Choice(("auto", "mapped", "read")),
        default="auto",
        help="Map local files, or read them into buffers; auto, the default, decides.",
    ),
    click.option("--quiet", "-q", is_flag=True, help="Print no report, progress or timing."),
)
