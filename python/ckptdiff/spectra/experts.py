"""How many experts a matrix of two dimensions has, one below the other.

OLMo-core keeps the experts of a layer as (experts · rows, columns), so that FSDP has rows enough to
deal: w1 and w3 as (E·d, h), or (E·h, d) where no token is dropped, and w2 as (E·h, d) in both
(``olmo_core/nn/moe/mlp.py``); megablocks, and OLMoE's own training code, do the same. Nothing in
such a tensor says what E is. The layer's router does: it has a row of d numbers for each expert,
flattened to (E·d) by OLMo-core, and d is the columns of w2. Without a router, the config does.
"""

from __future__ import annotations

import math
import re
from functools import cached_property

from ckptdiff.checkpoint import Checkpoint

__all__ = ["Experts"]

#: Experts under a number have a tensor each; what follows a name is that of an optimizer's state.
_STACKED = re.compile(r"(?P<layer>.+)\.experts\.mlp\.(w1|w2|w3|v1)(?P<state>\.[^.]+)?")

#: Those of a stack of whatever name, whose first dimension is the experts: biases, as of GPT-OSS.
_IN_EXPERTS = re.compile(r"(?P<layer>.+)\.experts\.(?!\d+\.)[^.]+(?P<state>)")

#: OLMo-core's, megablocks', and those of Hugging Face's models.
_ROUTERS = ("router.weight", "router.layer.weight", "gate.weight")


class Experts:
    """The experts of a checkpoint's stacks."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def are_stacked(self, name: str) -> bool:
        """Whether a tensor of this name, if it has two dimensions, is made of several experts."""
        return _STACKED.fullmatch(name) is not None

    def count(self, name: str) -> int | None:
        """How many are in a tensor of two dimensions; None where it is one matrix or nobody says.

        Raises what :func:`ckptdiff.config.read_config` does, if that has to be asked.
        """
        match = _STACKED.fullmatch(name) or _IN_EXPERTS.fullmatch(name)
        if match is None:
            return None
        layer, state = match["layer"], match["state"] or ""
        for router in _ROUTERS:
            shape = self._shape(f"{layer}.{router}{state}")
            if shape is None:
                continue
            if len(shape) == 2:
                return shape[0]
            down = self._shape(f"{layer}.experts.mlp.w2{state}")
            if down is not None and len(down) == 2 and down[1]:
                count, rest = divmod(math.prod(shape), down[1])
                if rest == 0 and count:
                    return count
        return self._count_in_config

    def _shape(self, name: str) -> tuple[int, ...] | None:
        index = self._checkpoint.manifest.find(name)
        return None if index is None else self._checkpoint.tensor_at(index).shape

    @cached_property
    def _count_in_config(self) -> int | None:
        from ckptdiff.config import read_config

        path = self._checkpoint.path
        config = None if path is None else read_config(path)
        return None if config is None else config.n_experts
