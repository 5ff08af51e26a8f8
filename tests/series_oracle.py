"""A series in float64 numpy, with nothing of the package but its types: the oracle of the core.

``series_of`` makes the :class:`SeriesData` that one read leaves, from arrays in memory, and
``read_run`` reads the training run of tests/training_run.py with the safetensors library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ckptdiff.dynamics.data import ROOT, SeriesCheckpoint, SeriesData, SeriesLevel
from ckptdiff.dynamics.trajectory import QUANTITIES
from ckptdiff.naming.groups import layer, module, total
from numpy.typing import NDArray

from tests.training_run import SOUP, TOKENS_PER_STEP, TrainingRun, learning_rate

__all__ = [
    "GROUPS",
    "RealSeries",
    "Weights",
    "chain",
    "cosine",
    "distances_of_row",
    "norm",
    "quantities_of",
    "read_run",
    "series_of",
    "squares_of_tensors",
    "vectors",
]

Floats = NDArray[np.float64]
Weights = Mapping[str, Floats]

GROUPS: Mapping[str, Callable[[str], str]] = {
    "tensor": str,
    "layer": layer,
    "module": module,
    "total": total,
}


def chain(count: int, **known: Sequence[int] | Sequence[float]) -> list[SeriesCheckpoint]:
    """``count`` checkpoints of one branch; ``known`` has values of some of their fields."""
    return [
        SeriesCheckpoint(
            label=f"step{index}",
            path=f"step{index}",
            format="memory",
            parent=index - 1,
            **{name: values[index] for name, values in known.items()},  # type: ignore[arg-type]
        )
        for index in range(count)
    ]


class RealSeries(NamedTuple):
    """The training run, read."""

    weights: Sequence[Weights]
    data: SeriesData


def series_of(weights: Sequence[Weights], checkpoints: Sequence[SeriesCheckpoint]) -> SeriesData:
    """The data of a series whose checkpoints hold these weights."""
    parents = [checkpoint.parent for checkpoint in checkpoints]
    tensors = [
        _tensor_level(name, np.array([w[name].reshape(-1) for w in weights]), parents)
        for name in weights[0]
    ]
    levels = {}
    for name, group_of in GROUPS.items():
        groups: dict[str, list[SeriesLevel]] = {}
        for tensor in tensors:
            groups.setdefault(group_of(tensor.names[0]), []).append(tensor)
        levels[name] = _side_by_side([_merged(group, members) for group, members in groups.items()])
    return SeriesData(checkpoints=tuple(checkpoints), levels=levels)


def _tensor_level(name: str, values: Floats, parents: Sequence[int]) -> SeriesLevel:
    """The one row of a tensor whose elements are ``values`` (N, elements)."""
    usable = values[:, np.isfinite(values).all(axis=0)]
    pairs = zip(usable, parents, strict=True)
    updates = np.array([w if parent == ROOT else w - usable[parent] for w, parent in pairs])
    stats = {
        "abs_max": [_abs_max(row) for row in values],
        "nan": np.isnan(values).sum(axis=1),
        "pos_inf": (values == np.inf).sum(axis=1),
        "neg_inf": (values == -np.inf).sum(axis=1),
    }
    diffs = {
        column: [
            np.nan if parent == ROOT else measure(values[parent], w)
            for w, parent in zip(values, parents, strict=True)
        ]
        for column, measure in (
            ("changed", _changed),
            ("changed_bf16", _changed_bf16),
            ("sign_flips", _sign_flips),
        )
    }
    return SeriesLevel(
        names=(name,),
        numel=np.array([values.shape[1]], np.int64),
        finite=np.array([usable.shape[1]], np.int64),
        gram=(updates @ updates.T)[None],
        stats={column: np.array(of_each, float)[:, None] for column, of_each in stats.items()},
        diffs={column: np.array(of_each, float)[:, None] for column, of_each in diffs.items()},
    )


def _merged(name: str, members: Sequence[SeriesLevel]) -> SeriesLevel:
    """One row of several: everything adds up but the largest magnitude."""
    first = members[0]
    return SeriesLevel(
        names=(name,),
        numel=np.sum([member.numel for member in members], axis=0),
        finite=np.sum([member.finite for member in members], axis=0),
        gram=np.sum([member.gram for member in members], axis=0),
        stats={
            column: (np.fmax.reduce if column == "abs_max" else np.sum)(
                [member.stats[column] for member in members], axis=0
            )
            for column in first.stats
        },
        diffs={
            column: np.sum([member.diffs[column] for member in members], axis=0)
            for column in first.diffs
        },
    )


def _side_by_side(rows: Sequence[SeriesLevel]) -> SeriesLevel:
    first = rows[0]
    return SeriesLevel(
        names=tuple(row.names[0] for row in rows),
        numel=np.concatenate([row.numel for row in rows]),
        finite=np.concatenate([row.finite for row in rows]),
        gram=np.concatenate([row.gram for row in rows]),
        stats={column: np.hstack([row.stats[column] for row in rows]) for column in first.stats},
        diffs={column: np.hstack([row.diffs[column] for row in rows]) for column in first.diffs},
    )


def _abs_max(row: Floats) -> float:
    finite = row[np.isfinite(row)]
    return float(np.abs(finite).max()) if finite.size else np.nan


def _bf16(values: Floats) -> NDArray[np.generic]:
    import ml_dtypes

    return values.astype(np.float32).astype(ml_dtypes.bfloat16)


def _changed(a: Floats, b: Floats) -> float:
    return float((~((a == b) | (np.isnan(a) & np.isnan(b)))).sum())


def _changed_bf16(a: Floats, b: Floats) -> float:
    same = (_bf16(a) == _bf16(b)) | (np.isnan(a) & np.isnan(b))
    return float((~same).sum())


def _sign_flips(a: Floats, b: Floats) -> float:
    with np.errstate(invalid="ignore"):
        return float((a * b < 0).sum())


def vectors(weights: Sequence[Weights], level: str, row: str) -> list[Floats]:
    """The elements of one row at each checkpoint."""
    names = [name for name in weights[0] if GROUPS[level](name) == row]
    return [np.concatenate([w[name].reshape(-1) for name in names]) for w in weights]


def norm(x: Floats) -> float:
    return float(np.sqrt(np.dot(x, x)))


def cosine(x: Floats, y: Floats) -> float:
    size = norm(x) * norm(y)
    return float(np.dot(x, y) / size) if size else np.nan


def squares_of_tensors(weights: Sequence[Weights]) -> dict[str, Floats]:
    """``||w_s - w_t||^2`` of every pair (N, N) of each tensor, from the differences themselves."""
    squares = {}
    for name in weights[0]:
        w = np.array([of_one[name].reshape(-1) for of_one in weights])
        squares[name] = np.array([((w - w[t]) ** 2).sum(axis=1) for t in range(len(w))])
    return squares


def distances_of_row(squares: Mapping[str, Floats], level: str, row: str) -> Floats:
    """The distance of every pair of a row: squares of tensors add up."""
    of_row = [square for name, square in squares.items() if GROUPS[level](name) == row]
    return np.sqrt(np.sum(of_row, axis=0))


def quantities_of(
    w: Sequence[Floats], checkpoints: Sequence[SeriesCheckpoint], copies: Sequence[str]
) -> dict[str, Floats]:
    """Every quantity of one row (N,), from its elements at each checkpoint.

    ``copies`` are labels of checkpoints that are their parents again. Stage 2 counts anew.
    """
    parents = [checkpoint.parent for checkpoint in checkpoints]
    expected = {quantity: np.full(len(w), np.nan) for quantity in QUANTITIES}
    for t, (checkpoint, parent) in enumerate(zip(checkpoints, parents, strict=True)):
        expected["norm"][t] = norm(w[t])
        expected["distance_from_first"][t] = norm(w[t] - w[0])
        expected["displacement"][t] = norm(w[t] - w[0])
        expected["distance_from_last"][t] = norm(w[t] - w[-1])
        expected["cosine_with_last"][t] = cosine(w[t], w[-1])
        if parent == ROOT:
            expected["path_length"][t] = 0
            continue
        u = w[t] - w[parent]
        # nothing was trained between a copy and what it is a copy of
        home = parents[parent] if checkpoints[parent].label in copies else parent
        before = checkpoints[home]
        assert checkpoint.stage_tokens is not None
        assert before.stage_tokens is not None
        assert checkpoint.step is not None
        assert before.step is not None
        assert checkpoint.learning_rate is not None
        assert before.learning_rate is not None
        anew = checkpoint.stage != before.stage
        steps = checkpoint.step if anew else checkpoint.step - before.step
        rate = (checkpoint.learning_rate + before.learning_rate) / 2
        expected["update_norm"][t] = norm(u)
        expected["relative_update"][t] = norm(u) / norm(w[parent])
        tokens = checkpoint.stage_tokens - (0 if anew else before.stage_tokens)
        expected["update_per_token"][t] = norm(u) / tokens
        expected["update_per_learning_rate"][t] = norm(u) / (steps * rate)
        expected["path_length"][t] = expected["path_length"][parent] + norm(u)
        # bf16 values are bf16 already
        expected["changed_share"][t] = (w[t] != w[parent]).sum() / len(u)
        expected["sign_flips"][t] = (w[t] * w[parent] < 0).sum()
        if parents[home] != ROOT:
            expected["cosine_of_updates"][t] = cosine(u, w[home] - w[parents[home]])
    return expected


_LABEL = re.compile(r"stage(\d)(?:-ingredient([\d+]+))?-step(\d+)-tokens(\d+)")


def read_run(run: TrainingRun) -> RealSeries:
    """The weights of every checkpoint in float64, and the data of the series."""
    weights = [_read(run.path(label)) for label in run.labels]
    checkpoints: list[SeriesCheckpoint] = []
    last_of_stage1 = 0
    for index, label in enumerate(run.labels):
        match = _LABEL.fullmatch(label)
        assert match is not None
        stage, step, stage_tokens = int(match[1]), int(match[3]), int(match[4])
        ingredients = match[2]
        if stage == 1:
            parent = index - 1
            last_of_stage1 = index
        else:
            follows = f"-ingredient{ingredients}-" in checkpoints[-1].label
            parent = index - 1 if follows else last_of_stage1
        assert stage_tokens == step * TOKENS_PER_STEP
        checkpoints.append(
            SeriesCheckpoint(
                label=label,
                path=str(run.path(label)),
                format="safetensors",
                parent=parent,
                stage=stage,
                ingredient=int(ingredients) if ingredients and ingredients.isdigit() else None,
                step=step,
                # nothing says that the last of stage 1 is its end
                tokens=stage_tokens if stage == 1 else None,
                stage_tokens=stage_tokens,
                learning_rate=learning_rate(stage, step),
                is_soup=label == SOUP,
            )
        )
    return RealSeries(weights, series_of(weights, checkpoints))


def _read(folder: Path) -> Weights:
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    return {name: tensors[name].double().numpy() for name in sorted(tensors)}
