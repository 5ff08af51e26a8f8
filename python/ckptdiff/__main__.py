"""The ``ckptdiff`` command, which is ``python -m ckptdiff`` too."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with its status; Ctrl-C counts from the first import on."""
    try:
        from ckptdiff.cli import main as command
    except KeyboardInterrupt:
        sys.stderr.write("ckptdiff: interrupted\n")
        sys.exit(130)
    command(prog_name="ckptdiff")


if __name__ == "__main__":
    main()
