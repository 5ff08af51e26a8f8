"""The ``ckptdiff`` command. It parses and prints; what it does is in :mod:`ckptdiff.api`.

``main`` is the group; each subcommand has a file of its own and is imported when it is run, so
that ``--help`` and ``--version`` need neither the core nor the renderers.
"""

from ckptdiff.cli.group import main

__all__ = ["main"]
