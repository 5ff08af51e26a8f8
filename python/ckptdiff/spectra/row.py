"""One matrix and what its spectrum says."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["COLUMNS", "SpectrumRow"]


@dataclass(frozen=True, slots=True)
class SpectrumRow:
    """A matrix of A, or of B - A; None is what cannot be told, or not from the leading values.

    ``values`` are the largest k singular values, descending, and ``error`` says that each true one
    is at most so much larger (and, but for rounding, no smaller). ``nonfinite`` counts elements
    that are NaN or infinite; where there are any, nothing else is known. ``angles_left`` and
    ``angles_right`` are the principal angles in radians, ascending, between the spaces of the
    leading singular vectors of A and of B, on the side of the rows (outputs) and of the columns
    (inputs), and ``angle_error`` bounds by how much they can be off.
    :mod:`ckptdiff.spectra.measures`, :mod:`~ckptdiff.spectra.tail` and
    :mod:`~ckptdiff.spectra.rounding` define the others.
    """

    name: str
    rows: int
    columns: int
    dtype_a: str
    dtype_b: str | None
    method: str | None = None
    nonfinite: int = 0
    spectral_norm: float | None = None
    error: float | None = None
    frobenius_norm: float | None = None
    stable_rank: float | None = None
    effective_rank: float | None = None
    participation_ratio: float | None = None
    nuclear_norm: float | None = None
    rank_90: int | None = None
    rank_99: int | None = None
    low_rank: str | None = None
    rank: int | None = None
    rank_floor: float | None = None
    alpha: float | None = None
    alpha_error: float | None = None
    alpha_distance: float | None = None
    alpha_xmin: float | None = None
    alpha_count: int | None = None
    angle: float | None = None
    angle_error: float | None = None
    values: tuple[float, ...] = ()
    angles_left: tuple[float, ...] = ()
    angles_right: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """The columns by name, in order."""
        return {column: getattr(self, column) for column in COLUMNS}


#: The names of the columns, in order.
COLUMNS = tuple(field.name for field in fields(SpectrumRow))
