"""A series in float64 numpy, with nothing of the package but its types: the oracle of the core.

``series_of`` makes the :class:`SeriesData` that one read leaves, from arrays in memory, and
``read_run`` reads the training run of tests/training_run.py with the safetensors library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from ckptdiff.naming.groups import layer, module, total
from ckptdiff.series.data import ROOT, SeriesCheckpoint, SeriesData, SeriesLevel
from numpy.typing import NDArray

from tests.training_run import TOKENS_PER_STEP, TrainingRun, learning_rate

__all__ = ["Weights", "chain", "read_run", "series_of"]

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


def series_of(weights: Sequence[Weights], checkpoints: Sequence[SeriesCheckpoint]) -> SeriesData:
    """The data of a series whose checkpoints hold these weights."""
    levels = {}
    for name, group_of in GROUPS.items():
        groups: dict[str, list[str]] = {}
        for tensor in weights[0]:
            groups.setdefault(group_of(tensor), []).append(tensor)
        flat = {
            group: np.array([_flat(of_one, tensors) for of_one in weights])
            for group, tensors in groups.items()
        }
        levels[name] = _level(flat, [checkpoint.parent for checkpoint in checkpoints])
    return SeriesData(checkpoints=tuple(checkpoints), levels=levels)


def _flat(weights: Weights, tensors: Sequence[str]) -> Floats:
    return np.concatenate([weights[tensor].reshape(-1) for tensor in tensors])


def _level(rows: Mapping[str, Floats], parents: Sequence[int]) -> SeriesLevel:
    """A level whose rows are arrays (N, elements)."""
    grams, finite = [], []
    stats: dict[str, list[Floats]] = {}
    diffs: dict[str, list[Floats]] = {}
    for values in rows.values():
        usable = values[:, np.isfinite(values).all(axis=0)]
        updates = np.array(
            [
                w if parent == ROOT else w - usable[parent]
                for w, parent in zip(usable, parents, strict=True)
            ]
        )
        grams.append(updates @ updates.T)
        finite.append(usable.shape[1])
        masked = np.where(np.isfinite(values), values, np.nan)
        with np.errstate(all="ignore"):
            columns = {
                "abs_max": np.array([_abs_max(row) for row in masked]),
                "l2": np.sqrt(np.nansum(masked**2, axis=1)),
                "nan": np.isnan(values).sum(axis=1).astype(float),
                "pos_inf": (values == np.inf).sum(axis=1).astype(float),
                "neg_inf": (values == -np.inf).sum(axis=1).astype(float),
            }
        for name, column in columns.items():
            stats.setdefault(name, []).append(column)
        for name, measure in (("changed_bf16", _changed_bf16), ("sign_flips", _sign_flips)):
            diffs.setdefault(name, []).append(
                np.array(
                    [
                        np.nan if parent == ROOT else measure(values[parent], w)
                        for w, parent in zip(values, parents, strict=True)
                    ]
                )
            )
    return SeriesLevel(
        names=tuple(rows),
        numel=np.array([values.shape[1] for values in rows.values()], np.int64),
        finite=np.array(finite, np.int64),
        gram=np.array(grams),
        stats={name: np.array(columns).T for name, columns in stats.items()},
        diffs={name: np.array(columns).T for name, columns in diffs.items()},
    )


def _abs_max(row: Floats) -> float:
    finite = row[~np.isnan(row)]
    return float(np.abs(finite).max()) if finite.size else np.nan


def _bf16(values: Floats) -> NDArray[np.generic]:
    import ml_dtypes

    return values.astype(np.float32).astype(ml_dtypes.bfloat16)


def _changed_bf16(a: Floats, b: Floats) -> float:
    same = (_bf16(a) == _bf16(b)) | (np.isnan(a) & np.isnan(b))
    return float((~same).sum())


def _sign_flips(a: Floats, b: Floats) -> float:
    with np.errstate(invalid="ignore"):
        return float((a * b < 0).sum())


_LABEL = re.compile(r"stage(\d)(?:-ingredient([\d+]+))?-step(\d+)-tokens(\d+)")


def read_run(run: TrainingRun) -> tuple[list[Weights], list[SeriesCheckpoint]]:
    """The weights of every checkpoint in float64, and where training stood."""
    weights = [_read(run.path(label)) for label in run.labels]
    checkpoints: list[SeriesCheckpoint] = []
    last_of_stage1 = 0
    for index, label in enumerate(run.labels):
        match = _LABEL.fullmatch(label)
        assert match is not None
        stage, step, stage_tokens = int(match[1]), int(match[3]), int(match[4])
        ingredients = match[2]
        if stage == 1:
            parent, before = index - 1, 0
            last_of_stage1 = index
        else:
            follows = f"-ingredient{ingredients}-" in checkpoints[-1].label
            parent = index - 1 if follows else last_of_stage1
            before = checkpoints[last_of_stage1].tokens or 0
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
                tokens=before + stage_tokens,
                stage_tokens=stage_tokens,
                learning_rate=learning_rate(stage, step),
            )
        )
    return weights, checkpoints


def _read(folder: Path) -> Weights:
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    return {name: tensors[name].double().numpy() for name in sorted(tensors)}
