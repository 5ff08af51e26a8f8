"""The one place that turns what went wrong into a line on stderr and an exit status.

Statuses are those of diff and cmp: 0 and 1 are answers, 2 is trouble. 130 and 141 are what a shell
reports for Ctrl-C and for a reader that went away. An error in this program keeps its traceback,
to be reported, but ends in 2 too: Python's own 1 would read as "they differ".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

import click

from ckptdiff.render.escape import escape

__all__ = ["TROUBLE", "Stopped", "exit_status_of", "message_of", "print_message"]

TROUBLE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


class Stopped(Exception):  # noqa: N818 - what it carries was an error, or the user's wish
    """Carries a BrokenPipeError or KeyboardInterrupt past handlers that are not ours."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__()
        self.reason = reason


def exit_status_of(run: Callable[[], object]) -> int:
    """Run a command and return its exit status; what it returns is the status, None being 0."""
    try:
        try:
            status = run()
            # what is still buffered may fail to be written, which is trouble as any other
            if sys.stdout is not None:
                sys.stdout.flush()
        except Stopped as stopped:
            raise stopped.reason from None
    except BrokenPipeError:
        _abandon_stdout()
        return BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        _print_to_stderr("interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        _print_to_stderr(f"error: {_usage_message(error)}")
        return TROUBLE
    except MemoryError as error:
        _print_to_stderr(f"error: out of memory{f': {error}' if str(error) else ''}")
        return TROUBLE
    except (OSError, ValueError) as error:
        _print_differences(error)
        _print_to_stderr(f"error: {message_of(error)}")
        return TROUBLE
    except SystemExit:
        raise
    except BaseException:
        _print_traceback()
        return TROUBLE
    return status if isinstance(status, int) else 0


def print_message(text: str) -> None:
    """Print one line about the run to stderr, prefixed with the command's name."""
    _print_to_stderr(text)


def message_of(error: BaseException) -> str:
    """What went wrong, in a line: for an error of the system the file and the reason."""
    summary = getattr(error, "summary", None)
    if summary is not None:
        # the fields that differ are in the table above
        return f"{summary}; --force compares what has one name and one shape"
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror[0].lower() + error.strerror[1:]
        return f"{os.fsdecode(error.filename)}: {reason}" if error.filename else reason
    return str(error) or type(error).__name__


def _print_differences(error: BaseException) -> None:
    """The table of what differs, where that is why a pair was refused."""
    # the class is not imported to be asked for: most errors are others, before the core is there
    differences = getattr(error, "differences", None)
    if differences is None or sys.stderr is None:
        return
    from ckptdiff.render.screen import Screen
    from ckptdiff.render.table import difference_lines

    with suppress(OSError):
        lines = difference_lines(differences, Screen.of(sys.stderr))
        sys.stderr.writelines(f"{line}\n" for line in lines)


def _usage_message(error: click.ClickException) -> str:
    message = error.format_message().rstrip()
    if isinstance(error, click.UsageError) and error.ctx is not None:
        if not message.endswith((".", "?", "!")):
            message += "."
        return f"{message} See '{error.ctx.command_path} --help'."
    return message


def _print_to_stderr(text: str) -> None:
    if sys.stderr is None:
        return
    with suppress(OSError):
        sys.stderr.write(f"ckptdiff: {escape(text)}\n")
        sys.stderr.flush()


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _abandon_stdout() -> None:
    """Point stdout nowhere, or the interpreter complains of the pipe again when it exits."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
