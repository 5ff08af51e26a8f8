"""How much of each side a report speaks about.

No tensor vanishes in silence: what was not compared is counted here and named in the report, each
with its reason.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["SideCoverage"]


@dataclass(frozen=True, slots=True)
class SideCoverage:
    """Tensors, elements and stored bytes of one checkpoint, and how many of them were compared."""

    tensors: int
    tensors_compared: int
    elements: int
    elements_compared: int
    bytes: int
    bytes_compared: int

    @property
    def complete(self) -> bool:
        """Whether every tensor was compared."""
        return self.tensors_compared == self.tensors

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)
