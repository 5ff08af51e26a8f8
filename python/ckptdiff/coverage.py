"""How much of each side a report speaks about.

No tensor vanishes in silence: what was not compared is counted here and named in the report, each
with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptdiff.checkpoint import TensorRef

__all__ = ["SideCoverage", "unsupported_notes"]

_NAMED_AT_MOST = 3


def unsupported_notes(tensors: Sequence[TensorRef]) -> list[str]:
    """A line for each of the first tensors that were left out for their dtype, one for the rest."""
    notes = [
        f"tensor {tensor.name!r} is left out: its dtype {tensor.dtype} is not supported"
        for tensor in tensors[:_NAMED_AT_MOST]
    ]
    rest = tensors[_NAMED_AT_MOST:]
    if rest:
        dtypes = sorted({tensor.dtype for tensor in rest})
        notes.append(
            f"{len(rest):,} more left out, as {', '.join(dtypes)} "
            f"{'is' if len(dtypes) == 1 else 'are'} not supported"
        )
    return notes


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
