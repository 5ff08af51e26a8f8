"""The command group: names its subcommands, and imports one only when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from ckptdiff.cli.errors import TROUBLE, Stopped, exit_status_of
from ckptdiff.cli.termination import unwinding_when_terminated

__all__ = ["main"]

# Name -> the line that `ckptdiff --help` says about it. Each lives in ckptdiff.cli.<name>.
_COMMANDS = {
    "diff": "Tell what changed from checkpoint A to checkpoint B.",
    "stats": "Describe every tensor of a checkpoint: extremes, moments, NaN.",
    "ls": "List names, dtypes, shapes and sizes, from the headers alone.",
    "where": "Tell the training position of checkpoints: stage, step, tokens, learning rate.",
    "demo": "Write two small checkpoints and run the commands on them.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported on use, and which turns errors into exit statuses."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"ckptdiff.cli.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from ckptdiff.suggest import unknown

            raise click.UsageError(unknown("command", args[0], _COMMANDS), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, keeping from click what it would make something else of.

        It exits with 1 where a reader of stdout went away, which would say that two checkpoints
        differ, and prints an empty line for Ctrl-C.
        """
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, KeyboardInterrupt) as error:
            raise Stopped(error) from error

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "ckptdiff",
        *,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command; in standalone mode, exit with its status and never with a traceback."""

        def run() -> Any:
            return super(LazyGroup, self).main(args, prog_name, standalone_mode=False, **extra)

        if not standalone_mode:
            return run()
        with unwinding_when_terminated():
            status = exit_status_of(run)
        sys.exit(status)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from ckptdiff import __version__

    click.echo(f"ckptdiff {__version__}")
    ctx.exit()


@click.group(
    "ckptdiff",
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="'ckptdiff COMMAND --help' has the options and examples of a command.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def main(ctx: click.Context) -> int:
    """What changed between two model checkpoints: exactly, and in constant memory.

    A checkpoint is a safetensors or torch file, an index of shards, a directory with either, or a
    snapshot of the Hugging Face cache.
    """
    if ctx.invoked_subcommand is None:
        # called for nothing: help, but not as an answer that a script could take for success
        click.echo(ctx.get_help(), err=True)
        return TROUBLE
    return 0
