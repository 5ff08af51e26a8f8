"""Files that torch writes, in each of its ways: the oracle is what torch loads back."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ckptdiff
import numpy as np
import pytest
import torch
from ckptdiff.formats import torch as torch_format
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file as save_safetensors

from tests.cli import assert_one_line_of_trouble, invoke, measure
from tests.compare import assert_rows
from tests.dtypes import DTYPES
from tests.engine import expected_diff, expected_stats, stats_rows
from tests.test_real_writers import TORCH_DTYPES, as_tensors, torch_tensor
from tests.writers import write_hub_snapshot

State = dict[str, torch.Tensor]


def save_zip(value: object, path: Path) -> None:
    torch.save(value, path)


def save_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_in_protocol_4(value: object, path: Path) -> None:
    torch.save(value, path, pickle_protocol=4)


def save_legacy_in_protocol_5(value: object, path: Path) -> None:
    torch.save(value, path, pickle_protocol=5, _use_new_zipfile_serialization=False)


def save_without_crc(value: object, path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(value, path)
    finally:
        torch.serialization.set_crc32_options(True)


WAYS = [
    save_zip,
    save_legacy,
    save_in_protocol_4,
    save_legacy_in_protocol_5,
    save_without_crc,
]

in_every_way = pytest.mark.parametrize("save", WAYS, ids=lambda save: save.__name__)

Save = Callable[[object, Path], None]


def flat(value: object, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of nested values by dotted name: the obvious loop."""
    if isinstance(value, torch.Tensor):
        yield prefix, value.detach()
    elif isinstance(value, (dict, list, tuple)):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in entries:
            yield from flat(item, f"{prefix}.{key}" if prefix else f"{key}")


def loaded(path: Path) -> State:
    return dict(flat(torch.load(path, weights_only=False)))


def assert_is(path: Path, state: State, **options: Any) -> None:
    """Every tensor is there, no other, and each is bit by bit what torch has."""
    checkpoint = ckptdiff.open(path, **options)
    report = ckptdiff.diff(checkpoint, {name: t.detach() for name, t in state.items()})
    assert sorted(checkpoint) == sorted(state)
    assert not report.only_in_a
    assert not report.only_in_b
    assert {row.name: row.verdict for row in report} == dict.fromkeys(
        (row.name for row in report), "bit_identical"
    )
    assert len(report) == len(state)


# Dtypes and views.


@in_every_way
def test_every_dtype(save: Save, tmp_path: Path) -> None:
    state = {
        name: torch_tensor(DTYPES[name], (4, 8), seed) for seed, name in enumerate(TORCH_DTYPES)
    }
    path = tmp_path / "model.pt"
    save(state, path)
    assert {name: ref.dtype for name, ref in ckptdiff.open(path).items()} == {n: n for n in state}
    # torch cannot load its own legacy files of new dtypes (2.15): what was saved is the truth
    held = state if "legacy" in save.__name__ else loaded(path)
    assert_rows(stats_rows(path), expected_stats(as_tensors(held)))


@in_every_way
def test_complex_numbers_of_two_doubles(save: Save, tmp_path: Path) -> None:
    state = {"w": torch.randn(5, 3, dtype=torch.complex128)}
    save(state, tmp_path / "model.pt")
    assert ckptdiff.open(tmp_path / "model.pt")["w"].dtype == "C128"
    assert_is(tmp_path / "model.pt", state)


@in_every_way
def test_packed_four_bit_floats(save: Save, tmp_path: Path) -> None:
    packed = torch.arange(256).to(torch.uint8).reshape(2, 128).view(torch.float4_e2m1fn_x2)
    save({"w": packed}, tmp_path / "model.pt")
    assert ckptdiff.open(tmp_path / "model.pt")["w"].shape == (2, 256)
    assert_is(tmp_path / "model.pt", {"w": packed})


def views() -> State:
    base = torch.randn(60, 70)
    image = torch.randn(2, 3, 8, 9)
    return {
        "base": base,
        "transposed": base.t(),
        "rows": base[5:20],
        "columns": base[:, 5:20],
        "steps": base[::7, ::11],
        "row": base[3],
        "column": base[:, 3],
        "element": base[2, 3],
        "empty": base[4:4],
        "nothing": torch.zeros(3, 0, 2),
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 50),
        "repeated": torch.tensor(7.0).expand(3, 4),
        "channels_last": image.to(memory_format=torch.channels_last),
        "permuted": image.permute(3, 0, 2, 1),
        "windows": base.reshape(-1).unfold(0, 5, 2),
        "one": torch.randn(1, 1, 1),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "half": base.half().t()[3:, 2:],
        "double": base.double().t()[3:, 2:],
        "byte": torch.arange(200, dtype=torch.uint8).reshape(10, 20).t(),
        "complex": torch.randn(6, 5, dtype=torch.complex64).t(),
        "complex128": torch.randn(6, 5, dtype=torch.complex128).t(),
        "reinterpreted": base.clone().view(torch.int32).t(),
        "parameter": torch.nn.Parameter(torch.randn(3)),
    }


@in_every_way
def test_views(save: Save, tmp_path: Path) -> None:
    state = views()
    path = tmp_path / "model.pt"
    save(state, path)
    assert_is(path, state)
    # of C128 the oracle has no dtype: that one is held against memory alone
    readable = {n: t for n, t in loaded(path).items() if t.dtype != torch.complex128}
    rows = {name: row for name, row in stats_rows(path).items() if name in readable}
    assert_rows(rows, expected_stats(as_tensors(readable)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.complex128])
def test_large_views_of_several_blocks_and_threads(dtype: torch.dtype, tmp_path: Path) -> None:
    base = torch.randn(1201, 1303).to(dtype)
    other = (base + 1).to(dtype)
    state = {"a": base.t(), "b": other[3:, ::2].t(), "c": base.reshape(-1)[1:-1].unfold(0, 3, 3)}
    torch.save(state, tmp_path / "model.pt")
    for threads in (1, 3):
        report = ckptdiff.diff(tmp_path / "model.pt", state, threads=threads)
        assert report.total.verdict == "bit_identical"
    changed = {name: t.clone() for name, t in state.items()}
    changed["a"][700, 800] += 1
    report = ckptdiff.diff(tmp_path / "model.pt", changed)
    assert report["a"].changed == 1
    assert tuple(report["a"].max_abs_index or ())[:2] == (700, 800)


def test_a_view_has_no_spans_and_a_tensor_in_one_piece_has(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    path = tmp_path / "model.pt"
    torch.save({"t": base.t(), "rows": base[1:]}, path)
    checkpoint = ckptdiff.open(path)
    assert checkpoint["t"].spans == ()
    (span,) = checkpoint["rows"].spans
    content = path.read_bytes()[span.offset : span.offset + span.length]
    assert content == base[1:].numpy().tobytes()
    assert checkpoint["t"].bytes == checkpoint["rows"].bytes * 3 / 2
    assert checkpoint.files == (str(path),)


# Tied weights.


def tied_state() -> State:
    embedding = torch.randn(10, 4)
    return {
        "embed.weight": embedding,
        "head.weight": embedding,
        "again": embedding.detach(),
        "transposed": embedding.t(),
        "part": embedding[:5],
        "copy": embedding.clone(),
    }


@in_every_way
def test_tied_weights_are_named(save: Save, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    state = tied_state()
    save(state, path)
    checkpoint = ckptdiff.open(path)
    assert checkpoint.tied == {"head.weight": "embed.weight", "again": "embed.weight"}
    assert_is(path, state)
    outcome = invoke("ls", path)
    assert "tied: head.weight = embed.weight" in outcome.stdout
    document = json.loads(invoke("ls", path, "--format", "json").stdout)
    assert document["a"]["tied"] == dict(checkpoint.tied)


@in_every_way
def test_tied_weights_are_read_once(save: Save, tmp_path: Path) -> None:
    """The engine reads their bytes once, also through a view, and every name has its row."""

    def state(seed: int) -> State:
        torch.manual_seed(seed)
        weight, wide = torch.randn(40, 30), torch.randn(20, 50).t()
        return {"embed": weight, "head": weight, "wide": wide, "again": wide, "own": torch.ones(7)}

    for side, seed in (("a", 1), ("b", 2)):
        save(state(seed), tmp_path / f"{side}.pt")
        separate = {name: tensor.clone().contiguous() for name, tensor in state(seed).items()}
        save_safetensors(separate, tmp_path / f"{side}.safetensors")
    once = 4 * (40 * 30 + 20 * 50 + 7)
    reports, read = {}, {}
    for kind in ("pt", "safetensors"):
        a, b = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
        told: list[tuple[int, int]] = []

        def tell(done: int, total: int, told: list[tuple[int, int]] = told) -> None:
            told.append((done, total))

        report = ckptdiff.diff(a, b, histogram=True, thresholds=[0.1], on_progress=tell)
        described = ckptdiff.stats(a, content_hash=True, on_progress=tell)
        read[kind] = (report.bytes_read, described.bytes_read)
        # the engine counts what it reduces; the last is told when all is done
        assert [at for at in told if at[0] == at[1]][-1] == (described.bytes_read,) * 2
        assert (report.bytes_read,) * 2 in told
        texts = ((report.to_json() or ""), (described.to_json() or ""))
        reports[kind] = "".join(texts).replace(f".{kind}", "")
    assert read["pt"] == (2 * once, once)
    assert read["safetensors"][1] == once + 4 * (40 * 30 + 20 * 50)
    assert reports["pt"] == reports["safetensors"]


def test_what_ties_on_one_side_only_is_no_pair_of_twins(tmp_path: Path) -> None:
    weight = torch.arange(12.0)
    torch.save({"embed": weight, "head": weight}, tmp_path / "a.pt")
    torch.save({"embed": weight.clone(), "head": weight + 1}, tmp_path / "b.pt")
    report = ckptdiff.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    assert report["embed"].verdict == "bit_identical"
    assert report["head"].max_abs == 1
    assert report.bytes_read == 4 * 48


# What surrounds tensors.


def test_parameters_modules_states_and_attributes(tmp_path: Path) -> None:
    """What state_dict() makes, with its _metadata; parameters and tensors with attributes."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    marked = torch.nn.Parameter(torch.randn(2))
    marked.sharded = True  # type: ignore[attr-defined]
    attributed = torch.randn(3)
    attributed.note = "x"  # type: ignore[attr-defined]
    state = OrderedDict(model.state_dict(), marked=marked, attributed=attributed)
    for save in WAYS:
        save(state, tmp_path / "model.pt")
        assert_is(tmp_path / "model.pt", dict(state))


@in_every_way
def test_nested_values_have_dotted_names(save: Save, tmp_path: Path) -> None:
    value = {
        "model": {"layers.0.weight": torch.randn(2), "layers": {1: [torch.randn(3)]}},
        "ema": (torch.randn(1), {"x": torch.randn(4)}),
        "epoch": 3,
    }
    path = tmp_path / "model.pt"
    save(value, path)
    assert_is(path, dict(flat(value)))
    assert sorted(ckptdiff.open(path)) == [
        "ema.0", "ema.1.x", "model.layers.0.weight", "model.layers.1.0",
    ]  # fmt: skip


@in_every_way
def test_numbers_and_texts_are_metadata(save: Save, tmp_path: Path) -> None:
    value = {
        "w": torch.ones(1),
        "epoch": 3,
        "best": True,
        "loss": 0.25,
        "name": "run 7",
        "none": None,
        "args": argparse.Namespace(lr=1e-3, layers=[1, 2], inner=argparse.Namespace(x="y")),
        "betas": (0.9, 0.95),
        "long": list(range(1000)),
        "large": 2**100,
        "numpy": np.float64(1.5),
        "step": np.int64(7),
        "array": np.arange(3),
        "dtype": torch.bfloat16,
        "set": {1},
        "bytes": b"\0\1",
    }
    save(value, tmp_path / "model.pt")
    checkpoint = ckptdiff.open(tmp_path / "model.pt")
    expected = {
        "epoch": "3",
        "best": "true",
        "loss": "0.25",
        "name": "run 7",
        "args.lr": "0.001",
        "args.layers": "[1, 2]",
        "args.inner.x": "y",
        "betas": "[0.9, 0.95]",
        "large": str(2**100),
        "numpy": "1.5",
        "step": "7",
        "dtype": "bfloat16",
        "set": "[1]",
    }
    long = checkpoint.metadata["long"]
    assert long.startswith("[0, 1, 2")
    assert "1,000 in all" in long
    assert {key: value for key, value in checkpoint.metadata.items() if key != "long"} == expected
    shown = invoke("ls", tmp_path / "model.pt").stdout
    assert "epoch: 3\n" in shown
    assert "name: run 7\n" in shown


def test_a_lone_tensor(tmp_path: Path) -> None:
    torch.save(torch.arange(3.0), tmp_path / "model.pt")
    assert_is(tmp_path / "model.pt", {"tensor": torch.arange(3.0)})


def test_nothing(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.pt")
    assert len(ckptdiff.open(tmp_path / "model.pt")) == 0


@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("quantised (qint8)", lambda: torch.quantize_per_tensor(
            torch.randn(4), 0.1, 0, torch.qint8)),
        ("quantised (quint8)", lambda: torch.quantize_per_channel(
            torch.randn(2, 2), torch.tensor([0.1, 0.2]), torch.tensor([0, 0]), 0, torch.quint8)),
        ("sparse_coo", lambda: torch.eye(3).to_sparse()),
        ("sparse_csr", lambda: torch.eye(3).to_sparse_csr()),
        ("meta device", lambda: torch.empty(3, device="meta")),
        ("conjugated", lambda: torch.randn(3, dtype=torch.complex64).conj()),
        ("complex32", lambda: torch.zeros(3, dtype=torch.complex32)),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(
    what: str, make: Callable[[], torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensor = make()
        torch.save({"odd": tensor, "even": torch.ones(2)}, path)
    checkpoint = ckptdiff.open(path)
    assert what in checkpoint["odd"].dtype
    assert checkpoint["odd"].shape == tuple(tensor.shape)
    listed = invoke("ls", path)
    assert listed.status == 0
    assert what in listed.stdout
    assert invoke("stats", path, "--exclude", "odd").status == 0
    assert "odd" in (outcome := invoke("stats", path)).stdout + outcome.stderr


# Which part: keys and optimizer state.


class Tower(torch.nn.Module):
    """With a tied weight, a buffer that is saved, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(6, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.inner = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("inv_freq", torch.arange(4.0))
        self.register_buffer("cache", torch.ones(2), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.head(self.norm(self.inner(self.embed(tokens))))
        return hidden


def trained(optimizer_of: Callable[[Tower], torch.optim.Optimizer]) -> tuple[Tower, Any]:
    torch.manual_seed(3)
    model = Tower()
    optimizer = optimizer_of(model)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.tensor([1, 2, 3])).square().sum().backward()
        optimizer.step()
    return model, optimizer


def one_group(model: Tower) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), amsgrad=True)


def named_groups(model: Tower) -> torch.optim.Optimizer:
    named = list(model.named_parameters())
    return torch.optim.AdamW([
        {"params": [(n, p) for n, p in named if p.ndim > 1], "weight_decay": 0.1},
        {"params": [(n, p) for n, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ])  # fmt: skip


def two_groups(model: Tower) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    return torch.optim.AdamW([
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ])  # fmt: skip


def momentum(model: Tower) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def names_by_identity(model: Tower, optimizer: torch.optim.Optimizer) -> dict[int, str]:
    """The truth: which parameter each number is, by the objects in memory."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {number: names[id(parameter)] for number, parameter in enumerate(parameters)}


@pytest.mark.parametrize("order", ["model first", "optimizer first"])
@pytest.mark.parametrize("optimizer_of", [one_group, named_groups, momentum])
def test_optimizer_state_is_named_by_parameter(
    optimizer_of: Callable[[Tower], torch.optim.Optimizer], order: str, tmp_path: Path
) -> None:
    model, optimizer = trained(optimizer_of)
    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 7}
    keys = list(parts) if order == "model first" else list(reversed(parts))
    path = tmp_path / "checkpoint.pt"
    torch.save({key: parts[key] for key in keys}, path)
    names = names_by_identity(model, optimizer)
    weights = {f"model.{name}": t for name, t in model.state_dict().items()}
    state = {
        f"optimizer.state.{names[number]}.{kind}": value
        for number, held in optimizer.state_dict()["state"].items()
        for kind, value in held.items()
    }
    assert_is(path, weights)
    assert_is(path, weights | state, optimizer=True)
    assert any(".exp_avg" in name or ".momentum_buffer" in name for name in state)
    (note,) = ckptdiff.open(path).notes
    assert f"{len(state)} tensors" in note
    assert "--optimizer" in note
    assert note in invoke("ls", path).stdout
    assert note not in invoke("ls", path, "--optimizer").stdout


def test_where_names_are_not_certain_numbers_stay(tmp_path: Path) -> None:
    model, optimizer = trained(two_groups)
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    names = {name for name in ckptdiff.open(path, optimizer=True) if name.startswith("opt")}
    assert names == {
        f"optimizer.state.{number}.{kind}"
        for number in optimizer.state_dict()["state"]
        for kind in ("step", "exp_avg", "exp_avg_sq")
    }


def test_names_are_not_certain_beside_two_models_of_one_shape(tmp_path: Path) -> None:
    model, optimizer = trained(one_group)
    other = {f"other.{name}": t for name, t in model.state_dict().items()}
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": model.state_dict(), "b": other, "optimizer": optimizer.state_dict()}, path)
    assert "optimizer.state.0.exp_avg" in ckptdiff.open(path, optimizer=True)
    # the same names in both leave nothing open
    torch.save(
        {"model": model.state_dict(), "b": model.state_dict(), "optimizer": optimizer.state_dict()},
        path,
    )
    assert "optimizer.state.embed.weight.exp_avg" in ckptdiff.open(path, optimizer=True)


def test_shapes_in_another_order_are_no_names(tmp_path: Path) -> None:
    """As many parameters, but not those: the order of this model says nothing."""
    model, optimizer = trained(one_group)
    other = dict(reversed(model.state_dict().items()))
    assert [t.shape for t in other.values()] != [t.shape for t in model.state_dict().values()]
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": other, "optimizer": optimizer.state_dict()}, path)
    assert "optimizer.state.0.exp_avg" in ckptdiff.open(path, optimizer=True)


def test_a_parameter_without_state_keeps_the_order(tmp_path: Path) -> None:
    """A frozen parameter has no state; the others keep their names."""
    torch.manual_seed(3)
    model = Tower()
    model.inner.weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.tensor([1, 2, 3])).square().sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    names = names_by_identity(model, optimizer)
    state = {
        f"optimizer.state.{names[number]}.{kind}": value
        for number, held in optimizer.state_dict()["state"].items()
        for kind, value in held.items()
    }
    weights = {f"model.{name}": t for name, t in model.state_dict().items()}
    assert_is(path, weights | state, optimizer=True)


@in_every_way
def test_a_file_of_an_optimizer_alone_is_shown(save: Save, tmp_path: Path) -> None:
    """The Trainer's optimizer.pt: it is what was asked for."""
    _, optimizer = trained(two_groups)
    save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    state = dict(flat(optimizer.state_dict()))
    assert_is(tmp_path / "optimizer.pt", state)
    assert "state.0.exp_avg" in state


def training_checkpoints() -> dict[str, tuple[dict[str, Any], set[str]]]:
    """As several frameworks arrange them, and the prefixes of what counts as weights."""
    model, optimizer = trained(two_groups)
    weights, state = model.state_dict(), optimizer.state_dict()
    scheduler = {"last_epoch": 3, "base": torch.ones(2)}
    return {
        "lightning": (
            {
                "epoch": 1,
                "global_step": 500,
                "pytorch-lightning_version": "2.0",
                "state_dict": weights,
                "loops": {"fit_loop": {"state_dict": {}}},
                "callbacks": {"ModelCheckpoint{'monitor': None}": {"best": torch.tensor(0.5)}},
                "optimizer_states": [state],
                "lr_schedulers": [scheduler],
                "hparams_name": "kwargs",
            },
            {"state_dict.", "callbacks."},
        ),
        "deepspeed": (
            {
                "module": weights,
                "optimizer": None,
                "lr_scheduler": scheduler,
                "global_steps": 7,
                "ds_version": "0.16",
            },
            {"module."},
        ),
        "accelerate": (
            {"model": weights, "optimizer_state_dict": state, "scaler": {"scale": torch.ones(1)}},
            {"model."},
        ),
        "with generators": (
            {
                "model": weights,
                "rng_state": torch.get_rng_state(),
                "rng": {"torch": torch.get_rng_state(), "numpy": np.random.get_state()},
                "cuda_rng_state_all": [torch.get_rng_state()],
            },
            {"model."},
        ),
        "unusual key": ({"net": weights, "adam_a": state, "extra": {"deep": [state]}}, {"net."}),
        "flat": (dict(weights), {"embed.", "norm.", "inner.", "head.", "inv_freq"}),
    }


@pytest.mark.parametrize("name", list(training_checkpoints()))
@in_every_way
def test_only_weights_unless_asked(name: str, save: Save, tmp_path: Path) -> None:
    value, prefixes = training_checkpoints()[name]
    path = tmp_path / "checkpoint.ckpt"
    save(value, path)
    every = dict(flat(value))
    weights = {n: t for n, t in every.items() if n.startswith(tuple(prefixes))}
    assert len(weights) >= len(Tower().state_dict())
    assert_is(path, weights)
    assert_is(path, every, optimizer=True)


def test_a_weight_may_have_any_name(tmp_path: Path) -> None:
    state = {name: torch.ones(1) for name in ("scaler", "optim", "scheduler", "a.rng_b.weight")}
    torch.save(state, tmp_path / "model.pt")
    assert_is(tmp_path / "model.pt", state)


def test_a_key_selects_a_subtree(tmp_path: Path) -> None:
    model, optimizer = trained(one_group)
    value = {
        "model": {"a.b": {"w": torch.ones(1)}, "c": [torch.ones(2), {"d": torch.ones(3)}]},
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"x": torch.ones(1)}],
        "epoch": 3,
    }
    path = tmp_path / "checkpoint.pt"
    torch.save(value, path)
    assert_is(path, model.state_dict(), key="state_dict")
    assert_is(path, dict(flat(value["model"])), key="model")
    assert_is(path, {"w": torch.ones(1)}, key="model.a.b")
    assert_is(path, {"d": torch.ones(3)}, key="model.c.1")
    assert_is(path, {"0": torch.ones(2)}, key="model.c.0")
    assert_is(path, {"x": torch.ones(1)}, key="lr_schedulers.0")
    assert_is(path, {"0.x": torch.ones(1)}, key="lr_schedulers")
    assert_is(path, dict(flat([optimizer.state_dict()])), key="optimizer_states")
    assert_is(path, dict(flat(optimizer.state_dict())), key="optimizer")
    assert_is(path, dict(flat(optimizer.state_dict()["state"])), key="optimizer.state")


def test_a_key_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": {"w": torch.ones(1)}, "epoch": 3}, path)
    for key, *says in (
        ("modle", "modle", "model, epoch"),
        ("model.v", "model.v"),
        ("epoch", "epoch", "single value"),
        ("", "''"),
    ):
        assert_one_line_of_trouble(invoke("ls", path, "--key", key), "checkpoint.pt", *says)
        with pytest.raises(ValueError, match=r"checkpoint\.pt"):
            ckptdiff.stats(path, key=key)


def test_keys_of_a_mixed_pair(tmp_path: Path) -> None:
    state = {"w": torch.ones(3), "v": torch.zeros(2)}
    nested, plain = tmp_path / "nested.pt", tmp_path / "plain.safetensors"
    torch.save({"model": state, "ema": {"w": torch.ones(3), "v": torch.zeros(2)}}, nested)
    save_safetensors(state, plain)
    assert invoke("diff", nested, plain).status == 1
    assert invoke("diff", nested, plain, "--key-a", "model").status == 0
    assert invoke("diff", plain, nested, "--key-b", "ema").status == 0
    assert invoke("diff", nested, nested, "--key", "model", "--key-b", "ema").status == 0
    assert invoke("stats", nested, "--key", "model").status == 0
    outcome = invoke("diff", nested, plain, "--key", "model")
    assert_one_line_of_trouble(outcome, "plain.safetensors", "model")
    with pytest.raises(ValueError, match="only a path"):
        ckptdiff.open(state, key="model")


# Shards, folders, and other formats beside them.


@pytest.fixture
def sharded(tmp_path: Path) -> tuple[Path, State]:
    torch.manual_seed(5)
    state = {f"layers.{layer}.w": torch.randn(30, 40) for layer in range(12)}
    folder = tmp_path / "sharded"
    folder.mkdir()
    save_torch_state_dict(state, folder, max_shard_size="15KB", safe_serialization=False)
    return folder, state


def test_shards(sharded: tuple[Path, State], tmp_path: Path) -> None:
    folder, state = sharded
    index = folder / "pytorch_model.bin.index.json"
    assert len(list(folder.glob("*.bin"))) > 3, "the model was not sharded"
    assert_is(folder, state)
    assert_is(index, state)
    torch.save(state, tmp_path / "whole.pt")
    assert invoke("diff", folder, tmp_path / "whole.pt").status == 0
    assert "in 4 shards" in invoke("ls", folder).stdout
    snapshot = write_hub_snapshot(tmp_path / "cache", Path(shutil.copytree(folder, tmp_path / "c")))
    assert_is(snapshot, state)
    assert_is(tmp_path / "cache" / "models--org--name", state)


def test_a_shard_may_hold_what_the_index_does_not_name(
    sharded: tuple[Path, State], tmp_path: Path
) -> None:
    folder, state = sharded
    shard = sorted(folder.glob("*.bin"))[0]
    held = torch.load(shard)
    torch.save(held | {"stale": torch.ones(1), "optimizer": {"w": torch.ones(1)}}, shard)
    assert_is(folder, state)


def test_safetensors_come_first_where_both_are_there(tmp_path: Path) -> None:
    """A repository that has both has the same weights twice; the index or file decides."""
    save_safetensors({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    torch.save({"w": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert ckptdiff.open(tmp_path).format == "safetensors"
    (tmp_path / "model.safetensors").unlink()
    assert_is(tmp_path, {"w": torch.zeros(1)})


def test_the_weights_of_a_training_directory(tmp_path: Path) -> None:
    """Beside what the Trainer writes, pytorch_model.bin is the one that is meant."""
    model, optimizer = trained(one_group)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.save({"last_epoch": 1}, tmp_path / "scheduler.pt")
    torch.save({"python": 1}, tmp_path / "rng_state.pth")
    torch.save(argparse.Namespace(x=1), tmp_path / "training_args.bin")
    assert_is(tmp_path, model.state_dict())
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "weights.bin")
    assert_is(tmp_path, model.state_dict())


@pytest.mark.parametrize("name", ["model", "model.txt", "model.safetensors.old", "model.npz"])
@pytest.mark.parametrize("save", [save_zip, save_legacy], ids=lambda save: save.__name__)
def test_the_content_tells_the_format(name: str, save: Save, tmp_path: Path) -> None:
    save({"w": torch.ones(2)}, tmp_path / name)
    assert_is(tmp_path / name, {"w": torch.ones(2)})


def test_an_archive_of_something_else_is_not_taken_for_torch(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", w=np.ones(3))
    (tmp_path / "arrays.npz").rename(tmp_path / "arrays.bin")
    assert not torch_format.can_open(str(tmp_path / "arrays.bin"))
    assert not torch_format.can_open(str(tmp_path))


def test_a_broken_file_is_what_a_directory_holds(tmp_path: Path) -> None:
    """The reason it cannot be read is said, and not that there is nothing."""
    torch.save({"w": torch.ones(3)}, tmp_path / "weights.bin")
    content = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(content[:-10])
    assert_one_line_of_trouble(invoke("ls", tmp_path), "weights.bin", "cut off")


# TorchScript.


class Scripted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)
        self.scale = torch.nn.Parameter(torch.randn(()))
        self.sizes = [1, 2, 3]
        self.note = "hello"
        self.register_buffer("mask", torch.ones(4, dtype=torch.bool))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(self.mask, self.linear(x) * self.scale, torch.zeros(4))


@pytest.mark.parametrize("how", ["script", "trace"])
def test_tensors_of_torchscript(how: str, tmp_path: Path) -> None:
    model = Scripted()
    path = tmp_path / "model.jit"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "script":
            archive = torch.jit.script(model)
        else:
            archive = torch.jit.trace(model, torch.randn(2, 3))
        archive.save(path)
        back = torch.jit.load(path).state_dict()
    assert_is(path, dict(back))
    assert set(back) == set(model.state_dict())


def test_a_frozen_module_has_its_tensors_as_constants(tmp_path: Path) -> None:
    """torch.jit.freeze leaves no parameters; its own graph says which constant is which."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).eval()
    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.freeze(torch.jit.script(model)).save(path)
    values = model.state_dict().values()
    assert_is(path, {f"constants.{at}": value for at, value in enumerate(values)})
    assert any("frozen TorchScript" in note and "4 tensors" in note for note in notes_of(path))


class WithConstant(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_constants_beside_parameters_are_left_out(tmp_path: Path) -> None:
    model = WithConstant()
    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, torch.randn(2, 3)).save(path)
    assert_is(path, model.state_dict())
    assert notes_of(path) == ("left out: 1 tensor in the code of this TorchScript archive",)


def notes_of(path: Path) -> tuple[str, ...]:
    return ckptdiff.open(path).notes


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures with getrusage")
def test_two_hundred_thousand_tensors(tmp_path: Path) -> None:
    """A mixture of experts in one file: 5 s and 130 MB on an idle machine."""
    shape = torch.arange(32, dtype=torch.bfloat16).reshape(4, 8)
    state = {f"layers.{i // 512}.experts.{i % 512}.w": shape.clone() for i in range(200_000)}
    torch.save(state, tmp_path / "many.pt")
    usage = measure(["ls", tmp_path / "many.pt", "-o", tmp_path / "out"], tmp_path / "usage")
    print(f"{usage.seconds:.1f} s, {usage.peak_rss / 1e6:.0f} MB")  # noqa: T201
    assert usage.status == 0, usage.stderr
    assert usage.peak_rss < 150_000_000
    assert usage.seconds < 60
    assert "200,000 tensors" in (tmp_path / "out").read_text()


# The same tensors are the same result.


@in_every_way
def test_the_json_is_that_of_safetensors(save: Save, tmp_path: Path) -> None:
    def written(write: Callable[[State, Path], None], folder: Path) -> str:
        texts = []
        folder.mkdir()
        for side, seed in (("a", 1), ("b", 2)):
            torch.manual_seed(seed)
            state = {
                "w": torch.randn(1200, 900),
                "t": torch.randn(1100, 1000).t(),
                "half": torch.randn(70, 80).bfloat16().t(),
                "layers.10.w": torch.randn(5),
                "layers.9.w": torch.arange(5),
                side: torch.ones(1),
            }
            write(state, folder / side)
        options = {"thresholds": (0.0, 1e-4), "histogram": True}
        for threads in (1, 3):
            report = ckptdiff.diff(folder / "a", folder / "b", threads=threads, **options)
            texts.append(report.to_json() or "")
            described = ckptdiff.stats(folder / "a", threads=threads, content_hash=True)
            texts.append(described.to_json() or "")
        return "".join(texts).replace(str(folder), "")

    def write_safetensors(state: State, path: Path) -> None:
        save_safetensors({name: t.contiguous() for name, t in state.items()}, path)

    assert written(save, tmp_path / "torch") == written(write_safetensors, tmp_path / "other")


def test_a_diff_of_training_steps(tmp_path: Path) -> None:
    """Two files of a run against the oracle, tensor by tensor."""
    model, optimizer = trained(one_group)
    before = {"model": {k: t.clone() for k, t in model.state_dict().items()}}
    save_legacy(before, tmp_path / "a.pt")
    model(torch.tensor([1, 2, 3])).square().sum().backward()
    optimizer.step()
    save_zip({"model": model.state_dict()}, tmp_path / "b.pt")
    report = ckptdiff.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    expected = expected_diff(
        as_tensors(loaded(tmp_path / "a.pt")), as_tensors(loaded(tmp_path / "b.pt"))
    )
    assert_rows({row.name: row for row in report}, expected)
    assert math.isfinite(report.total.l2)
    assert report["model.embed.weight"].verdict == "different"
