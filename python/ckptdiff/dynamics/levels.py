"""The levels of a series: the tables of a run as arrays, per tensor, layer, module and in total.

The core merges the partials of stats and diffs, so a layer's row is what one pass over its tensors
would give. Gram matrices and counts of finite elements add up; they are added in natural order of
the tensors, so that a result has the same bits whatever read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ckptdiff.dynamics.data import Floats, SeriesLevel
from ckptdiff.naming.groups import group_key

if TYPE_CHECKING:
    from ckptdiff._core import SeriesRun, Table

__all__ = ["levels_of", "with_diverged"]


def levels_of(run: SeriesRun) -> dict[str, SeriesLevel]:
    """A level for each grouping, from what the core has read of N checkpoints and T tensors."""
    names = tuple(run.names)
    checkpoints = len(run.stats)
    gram = np.frombuffer(run.gram, dtype="<f8").reshape(len(names), checkpoints, checkpoints)
    tensors = SeriesLevel(
        names=names,
        numel=np.array(run.numel, dtype=np.int64),
        finite=np.array(run.finite, dtype=np.int64),
        gram=gram.astype(np.float64),
        stats=_stacked(run.stats),
        diffs=_with_changed_bf16(_stacked(run.diffs), _changed_bf16(run, len(names))),
    )
    layers = _merged(run, tensors, group_key("layer"))
    modules = _merged(run, tensors, group_key("module"))
    total = _merged(run, tensors, group_key("total"))
    return {"tensor": tensors, "layer": layers, "module": modules, "total": total}


def with_diverged(
    levels: Mapping[str, SeriesLevel], sound: Mapping[str, SeriesLevel], members: Sequence[int]
) -> dict[str, SeriesLevel]:
    """The levels of all checkpoints, where what ``members`` are to one another is in ``sound``.

    Both are of the same rows. The others keep their stats and their diffs from their parents, and
    their Gram products are NaN.
    """
    merged: dict[str, SeriesLevel] = {}
    for name, level in levels.items():
        gram = np.full_like(level.gram, np.nan)
        gram[np.ix_(range(len(level.names)), members, members)] = sound[name].gram
        diffs = {column: values.copy() for column, values in level.diffs.items()}
        for column, values in diffs.items():
            values[list(members)] = sound[name].diffs.get(column, np.nan)
        merged[name] = replace(level, finite=sound[name].finite, gram=gram, diffs=diffs)
    return merged


def _merged(run: SeriesRun, tensors: SeriesLevel, key: Callable[[str], str]) -> SeriesLevel:
    """The rows of tensors merged into groups, which come in the order of their first tensors."""
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(key(name), len(numbers)) for name in tensors.names]
    # the total of no tensors is a row all the same
    names = list(numbers) or [name for name in [key("")] if name == "total"]
    rows = len(names)
    gram = np.zeros((rows, *tensors.gram.shape[1:]))
    numel = np.zeros(rows, dtype=np.int64)
    finite = np.zeros(rows, dtype=np.int64)
    changed = tensors.diffs["changed_bf16"]
    changed_of_groups = np.zeros((len(changed), rows))
    for row, group in enumerate(groups):
        gram[group] += tensors.gram[row]
        numel[group] += tensors.numel[row]
        finite[group] += tensors.finite[row]
        changed_of_groups[:, group] += changed[:, row]
    tables = [table.merged(groups, names) for table in run.stats]
    diffs = [None if table is None else table.merged(groups, names) for table in run.diffs]
    return SeriesLevel(
        names=tuple(names),
        numel=numel,
        finite=finite,
        gram=gram,
        stats=_stacked(tables),
        diffs=_with_changed_bf16(_stacked(diffs), changed_of_groups),
    )


def _stacked(tables: Sequence[Table | None]) -> dict[str, Floats]:
    """The numeric columns of N tables of R rows, each of the shape (N, R); NaN without a table."""
    first = next((table for table in tables if table is not None), None)
    if first is None:
        return {}
    columns: dict[str, Floats] = {}
    for name in first.column_names:
        if not isinstance(first.column(name), tuple):
            # names, dtypes, shapes, verdicts and places
            continue
        column = np.full((len(tables), len(first)), np.nan)
        for row, table in zip(column, tables, strict=True):
            if table is not None:
                typestr, data = table.column(name)
                row[:] = np.frombuffer(data, dtype=typestr)  # type: ignore[call-overload]
        columns[name] = column
    return columns


def _changed_bf16(run: SeriesRun, rows: int) -> Floats:
    """How many elements differ from the parent's in bf16: (N, T), NaN at a root."""
    changed = np.full((len(run.stats), rows), np.nan)
    for row, counts in zip(changed, run.changed_bf16, strict=True):
        if counts is not None:
            row[:] = np.frombuffer(counts, dtype="<u8")
    return changed


def _with_changed_bf16(
    columns: Mapping[str, Floats], changed: npt.NDArray[np.float64]
) -> dict[str, Floats]:
    return {**columns, "changed_bf16": changed}
