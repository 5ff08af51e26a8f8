"""What was asked of a spectrum, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ckptdiff.naming.rules import Rules
from ckptdiff.spectra.matrices import EXPERTS
from ckptdiff.suggest import unknown

__all__ = ["EXACT_UP_TO", "Method", "SpectrumOptions"]

#: ``exact`` computes every singular value, ``randomised`` the leading ones with bounds on their
#: errors, ``auto`` is exact where the smaller side has at most :data:`EXACT_UP_TO`.
Method = Literal["auto", "exact", "randomised"]

#: The smaller side of matrices that are exact under ``auto``: a few seconds on two cores.
EXACT_UP_TO = 2048


@dataclass(frozen=True, slots=True)
class SpectrumOptions:
    """How a spectrum was made, but for the device."""

    rules: Rules = field(default_factory=Rules)
    k: int = 16
    method: Method = "auto"
    oversampling: int = 10
    iterations: int = 4
    angles: int = 8
    experts: tuple[str, ...] = EXPERTS

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(unknown("method", self.method, get_args(Method)))
        for name, least in (("k", 1), ("oversampling", 0), ("iterations", 0), ("angles", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} must be {least} or more, not {value}")

    def is_exact(self, rows: int, columns: int) -> bool:
        """Whether every singular value of a matrix of this shape is computed."""
        if self.method == "auto":
            return min(rows, columns) <= EXACT_UP_TO
        return self.method == "exact"
