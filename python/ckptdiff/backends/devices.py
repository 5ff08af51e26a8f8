"""Where chunks are reduced: what ``--device`` and ``device=`` can say, and what is there.

torch is imported only where a device is asked for that the core is not.
"""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["AUTOMATIC", "CORE", "TORCH_CPU", "resolved"]

#: The core, with its own kernels, threads and reads.
CORE = "cpu"

#: torch's operations on the CPU: what a GPU does, where there is none.
TORCH_CPU = "torch:cpu"

AUTOMATIC = "auto"

#: In the order in which ``auto`` prefers them.
_ACCELERATORS = ("cuda", "xpu")


def resolved(device: str) -> str:
    """The device that is meant: ``cpu`` for the core, or torch's name of one that is there.

    ``auto`` is the first accelerator there is, else the core. Raises ValueError, in a line, for
    a device that is not there or not known, and where torch is needed and missing.
    """
    if device == CORE:
        return CORE
    if device == AUTOMATIC:
        if find_spec("torch") is None:
            return CORE
        return next((kind for kind in _ACCELERATORS if _count(kind)), CORE)
    kind, _, number = ("cpu", "", "") if device == TORCH_CPU else device.partition(":")
    if kind not in (CORE, "mps", *_ACCELERATORS) or (number and not number.isdecimal()):
        raise ValueError(
            f"unknown device {device!r}; one is cpu, cuda, cuda:N, mps, xpu, auto or torch:cpu"
        )
    if find_spec("torch") is None:
        raise ValueError(
            f"device {device!r} needs torch, which is not installed (pip install 'ckptdiff[torch]')"
        )
    if device == TORCH_CPU:
        return TORCH_CPU
    count = _count(kind)
    if int(number or 0) >= count:
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
