"""A tied weight that one side does not store: its twin stands in for it.

Where a model's output head is the very matrix of its embeddings, some formats store it once
(Hugging Face leaves out ``lm_head.weight``) and others twice (OLMo-core). The side that lacks it is
given it, as another name of the same bytes, so that the head which the other side stores is
compared and not only listed. It is not where a config says that the two are not tied, nor where
the shapes differ.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.naming.mapping import LAYOUTS
from ckptdiff.naming.parts import Layout, Model

__all__ = ["Tie", "find_tie", "may_be_head", "with_twin"]

_HEADS = tuple(layout.head for layout in LAYOUTS)
_CONFIG_BYTES = 1 << 20
_UNTIED_YAML = re.compile(rb"^\s*weight_tying\s*:\s*false\s*$", re.MULTILINE | re.IGNORECASE)


class Tie(NamedTuple):
    """``name`` is what the head would be called, ``twin`` the tensor that stands in for it."""

    name: str
    twin: str
    position: int


def may_be_head(names: Sequence[str], indices: Sequence[int]) -> bool:
    """Whether one of these tensors is called as an output head is."""
    return any(names[index].endswith(_HEADS) for index in indices)


def find_tie(lacking: Checkpoint, model: Model, other: Model) -> Tie | None:
    """The head that ``other`` has and ``lacking``, whose tensors ``model`` names, does not store.

    The name is that of the layout of ``lacking``, so that a map finds it.
    """
    here, there = _layout(model), _layout(other)
    if here is None or there is None or here.head in model:
        return None
    head = other.index(there.head)
    twin = model.index(here.embeddings)
    if head is None or twin is None or model.shape(here.embeddings) != other.shape(there.head):
        return None
    name = other.names[head] if here is there else here.head
    if lacking.manifest.find(name) is not None or _says_untied(lacking):
        return None
    return Tie(name, model.names[twin], twin)


def with_twin(checkpoint: Checkpoint, names: Sequence[str], tie: Tie) -> Checkpoint:
    """The checkpoint under these names, and with the head besides."""
    items = [(name, index) for index, name in enumerate(names)]
    stored = checkpoint.names()
    origins = {name: old for name, old in zip(names, stored, strict=True) if name != old}
    return checkpoint.deriving(
        [*items, (tie.name, tie.position)], origins | {tie.name: stored[tie.position]}
    )


def _layout(model: Model) -> Layout | None:
    """The layout by the name of the embeddings, which is there whatever the blocks are."""
    return next((layout for layout in LAYOUTS if layout.embeddings in model), None)


def _says_untied(checkpoint: Checkpoint) -> bool:
    """Whether a config beside the weights says that head and embeddings are two matrices."""
    if checkpoint.path is None:
        return False
    folder = checkpoint.path
    if not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    try:
        config = json.loads(_start_of(os.path.join(folder, "config.json")) or b"null")
    except ValueError:
        config = None
    if isinstance(config, dict):
        return config.get("tie_word_embeddings") is False
    return _UNTIED_YAML.search(_start_of(os.path.join(folder, "config.yaml"))) is not None


def _start_of(path: str) -> bytes:
    """The first bytes of a file, nothing where it cannot be read: a config is only a help here."""
    try:
        with open(path, "rb") as file:
            return file.read(_CONFIG_BYTES)
    except OSError:
        return b""
