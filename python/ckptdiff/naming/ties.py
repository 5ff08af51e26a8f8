"""A tied weight that one side does not store: its twin stands in for it.

Where a model's output head is the very matrix of its embeddings, some formats store it once
(Hugging Face leaves out ``lm_head.weight``) and others twice (OLMo-core). The side that lacks it is
given it, as another name of the same bytes, so that the head which the other side stores is
compared and not only listed. It is not where a config of either side says that the two are not
tied, nor where the shapes differ, nor where the side that seems to lack a head has a tensor without
a partner that may be one under another name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.naming.mapping import LAYOUTS
from ckptdiff.naming.parts import Layout, Model, Shape

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


def find_tie(
    lacking: Checkpoint,
    model: Model,
    storing: Checkpoint,
    other: Model,
    unpaired: Iterable[int],
) -> Tie | None:
    """The head that ``storing`` has and ``lacking`` does not store.

    ``model`` and ``other`` name the tensors of the two, ``unpaired`` are those of ``lacking`` that
    have no partner. The name is that of the layout of ``lacking``, so that a map finds it.
    """
    here, there = _layout(model), _layout(other)
    if here is None or there is None or here.head in model:
        return None
    head = other.index(there.head)
    twin = model.index(here.embeddings)
    if head is None or twin is None or model.shape(here.embeddings) != other.shape(there.head):
        return None
    name = other.names[head] if here is there else here.head
    if lacking.manifest.find(name) is not None or _says_untied(lacking) or _says_untied(storing):
        return None
    if any(_is_unknown_of_shape(model, index, here, other.tensors[head][1]) for index in unpaired):
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


def _is_unknown_of_shape(model: Model, index: int, layout: Layout, shape: Shape) -> bool:
    """Whether a tensor has this shape, either way round, and is none that the layout knows."""
    its_shape = model.tensors[index][1]
    return (
        its_shape in (shape, shape[::-1])
        and layout.part(model.stripped(index), model) is None
        and layout.stored(model.stripped(index), its_shape, model) is None
    )


def _says_untied(checkpoint: Checkpoint) -> bool:
    """Whether a config beside the weights says that head and embeddings are two matrices."""
    path = checkpoint.config_path
    if path is None:
        return False
    text = _start_of(path)
    if path.endswith(".yaml"):
        return _UNTIED_YAML.search(text) is not None
    try:
        config = json.loads(text or b"null")
    except ValueError:
        return False
    return isinstance(config, dict) and config.get("tie_word_embeddings") is False


def _start_of(path: str) -> bytes:
    """The first bytes of a file, nothing where it cannot be read: a config is only a help here."""
    try:
        with open(path, "rb") as file:
            return file.read(_CONFIG_BYTES)
    except OSError:
        return b""
