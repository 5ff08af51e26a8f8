"""Where chunks are reduced: what ``--device`` and ``device=`` can say, and what is there.

torch is imported only where a device is asked for that the core is not.
"""

from __future__ import annotations

import re
from importlib.util import find_spec

__all__ = ["AUTOMATIC", "CORE", "TORCH_CPU", "resolved"]

#: The core, with its own kernels, threads and reads.
CORE = "cpu"

#: torch's operations on the CPU: what a GPU does, where there is none.
TORCH_CPU = "torch:cpu"

AUTOMATIC = "auto"

#: Other names for what is the same: there is one CPU, and a device of torch's on it.
_ALIASES = {"cpu:0": CORE, "cpu-torch": TORCH_CPU, "mps:0": "mps"}

#: In the order in which ``auto`` prefers them.
_ACCELERATORS = ("cuda", "xpu", "mps")

_NAME = re.compile(r"(cuda|xpu)(?::(0|[1-9][0-9]*))?|mps", re.ASCII)


def resolved(device: str) -> str:
    """The device that is meant: ``cpu`` for the core, or torch's name of one that is there.

    ``auto`` is the first accelerator there is, else the core. Raises ValueError, in a line, for
    a device that is not there or not known, and where torch is needed and missing.
    """
    device = _ALIASES.get(device, device)
    if device == CORE:
        return CORE
    if device == AUTOMATIC:
        if find_spec("torch") is None:
            return CORE
        return next((kind for kind in _ACCELERATORS if _count(kind)), CORE)
    name = _NAME.fullmatch(device)
    if name is None and device != TORCH_CPU:
        raise ValueError(
            f"unknown device {device!r}; one is cpu, cuda, cuda:N, mps, xpu, xpu:N, auto or "
            f"{TORCH_CPU}"
        )
    if find_spec("torch") is None:
        raise ValueError(
            f"device {device!r} needs torch, which is not installed (pip install 'ckptdiff[torch]')"
        )
    if name is None:
        return TORCH_CPU
    count = _count(device.partition(":")[0])
    if int(name[2] or 0) >= count:
        there = f"torch sees {count} of that kind" if count else "torch sees none of that kind"
        raise ValueError(f"no device {device!r}: {there}")
    return device


def _count(kind: str) -> int:
    """How many devices of a kind torch can use."""
    import torch

    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind)
    return int(module.device_count()) if module.is_available() else 0
