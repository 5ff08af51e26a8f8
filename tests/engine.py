"""Run the compiled core on checkpoints and get its rows as dictionaries.

The column tests go through this narrow door, which can force an instruction set; the tests of the
Python package show that it passes the same rows on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ckptdiff
from ckptdiff import _core

from tests.oracle import Expected, diff_oracle, stats_oracle
from tests.writers import Tensor

Rows = dict[str, dict[str, object]]
Source = Path | Mapping[str, object]

ISA_LEVELS = tuple(_core.isa_levels())


def manifest(source: Source) -> _core.Manifest:
    checkpoint = ckptdiff.open(source if isinstance(source, Mapping) else str(source))
    return checkpoint.manifest


def rows_of(table: _core.Table) -> Rows:
    names = table.column_names
    rows = [dict(zip(names, row, strict=True)) for row in table.rows(0, len(table))]
    return {str(row["name"]): row for row in rows}


def diff_table(a: Source, b: Source, **options: Any) -> _core.Table:
    return _core.diff(_core.Pairing(manifest(a), manifest(b)), **options)


def diff_rows(a: Source, b: Source, **options: Any) -> Rows:
    return rows_of(diff_table(a, b, **options))


def stats_rows(a: Source, **options: Any) -> Rows:
    return rows_of(_core.stats(manifest(a), **options))


def expected_diff(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    atol: float = 0.0,
    rtol: float = 0.0,
    cast: str | None = None,
    thresholds: Sequence[float] = (),
) -> dict[str, Expected]:
    return {
        name: diff_oracle(
            a[name], b[name], name=name, atol=atol, rtol=rtol, cast=cast, thresholds=thresholds
        )
        for name in a
    }


def expected_stats(a: Mapping[str, Tensor]) -> dict[str, Expected]:
    return {name: stats_oracle(tensor, name=name) for name, tensor in a.items()}
