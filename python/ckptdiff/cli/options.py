"""Options that several commands share, each with one meaning and one help text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

__all__ = [
    "FORMATS",
    "choice_options",
    "device_option",
    "filter_options",
    "format_options",
    "key_option",
    "layout_map_option",
    "optimizer_option",
    "output_option",
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

layout_map_option = click.option(
    "--map",
    "name_map",
    type=click.Choice(("auto", "none")),
    default="auto",
    show_default=True,
    help="Bring OLMo's, OLMo-core's and Hugging Face's names together, or leave names as they are.",
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

_JSON = "ckptdiff.json"


def _json_too(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    ctx.meta[_JSON] = wanted


def _format(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """The format, where --json, which is read before, may have named it."""
    if not ctx.meta.get(_JSON):
        return value
    assert parameter.name is not None
    default = click.core.ParameterSource.DEFAULT
    if value != "json" and ctx.get_parameter_source(parameter.name) is not default:
        raise click.UsageError(f"--json is --format json, and --format says {value}")
    return "json"


def format_options(formats: Sequence[str]) -> Callable[[Function], Function]:
    """``--format`` of some formats, and ``--json`` for the one that is asked for most."""
    return _all_of(
        click.option(
            "--format",
            "output_format",
            type=click.Choice(formats),
            default="table",
            show_default=True,
            callback=_format,
            help="How to write the result.",
        ),
        click.option(
            "--json",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_json_too,
            help="The same as --format json.",
        ),
    )


output_option = click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(),
    help="Write to FILE instead of stdout: completely, or not at all.",
)

output_options = _all_of(format_options(FORMATS), output_option)

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
