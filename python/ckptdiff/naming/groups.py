"""The layer and the module that a parameter name belongs to.

Names are dotted paths, and a component of digits alone is the number of a layer (or an expert).
For ``model.layers.3.mlp.up_proj.weight`` the layer is ``model.layers.3``, and the module, which is
the same in every layer, is ``model.layers.*.mlp.up_proj``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, get_args

__all__ = ["Grouping", "group_key", "layer", "module", "total"]

Grouping = Literal["layer", "module", "total"]

_THROUGH_FIRST_NUMBER = re.compile(r"(?:.*?\.)??[0-9]+(?=\.|$)", re.DOTALL)
_NUMBER_COMPONENT = re.compile(r"(?<![^.])[0-9]+(?![^.])")


def layer(name: str) -> str:
    """The name up to and including its first numeric component; without one, all but the last.

    >>> layer("model.layers.3.mlp.up_proj.weight"), layer("lm_head.weight"), layer("bias")
    ('model.layers.3', 'lm_head', 'bias')
    """
    match = _THROUGH_FIRST_NUMBER.match(name)
    if match:
        return match.group()
    return _without_last_component(name)


def module(name: str) -> str:
    """The name without its last component, every numeric component replaced by ``*``.

    >>> module("model.layers.3.self_attn.q_proj.weight"), module("bias")
    ('model.layers.*.self_attn.q_proj', 'bias')
    """
    return _NUMBER_COMPONENT.sub("*", _without_last_component(name))


def total(name: str) -> str:
    """``total``, whatever the name."""
    del name
    return "total"


def group_key(grouping: Grouping) -> Callable[[str], str]:
    """The function from a tensor's name to the name of its group.

    Raises ValueError, with the nearest name, for an unknown grouping.
    """
    keys: dict[str, Callable[[str], str]] = {"layer": layer, "module": module, "total": total}
    if grouping not in keys:
        from ckptdiff.suggest import unknown

        raise ValueError(unknown("grouping", grouping, get_args(Grouping)))
    return keys[grouping]


def _without_last_component(name: str) -> str:
    return name.rpartition(".")[0] or name
