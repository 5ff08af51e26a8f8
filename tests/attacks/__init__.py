"""Hostile and broken checkpoints, each made by a small function that says what it tries.

A function gets an empty folder and returns the path to hand to the tool. The decorator adds it to
:data:`ATTACKS`, with what the one line on stderr must contain: the file (``names``, by default the
one returned), and the tensor where there is one.
"""

from tests.attacks import aliases, arrays, distributed, files, folders, gguf, special, torch_files
from tests.attacks.registry import ATTACKS, Attack

__all__ = [
    "ATTACKS",
    "Attack",
    "aliases",
    "arrays",
    "distributed",
    "files",
    "folders",
    "gguf",
    "special",
    "torch_files",
]
