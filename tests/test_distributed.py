"""Distributed checkpoints by torch and OLMo-core, in one process and in two.

The oracle is what ``torch.distributed.checkpoint.load`` gives back, or the tensors that were saved;
they are compared as safetensors of the same values.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import pickle
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import ckptdiff
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from tests.distributed_writers import (
    SHAPES,
    network,
    trained,
    value_of,
    write_in_processes,
)
from tests.mutations import count_mutations

pytestmark = pytest.mark.filterwarnings("ignore")

OURS = (
    ckptdiff.CheckpointNotFoundError,
    ckptdiff.InvalidCheckpointError,
    ckptdiff.CheckpointReadError,
)


def assert_same(path: Path, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """The checkpoint is bit for bit these tensors, and the JSON that of safetensors."""
    reference = folder / "reference.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, reference)
    report = ckptdiff.diff(path, reference, optimizer=True)
    assert {row.name for row in report} == set(tensors)
    assert {row.verdict for row in report} == {"bit_identical"}
    assert set(ckptdiff.open(path, optimizer=True)) == set(tensors)
    texts = [
        (ckptdiff.stats(one, optimizer=True, content_hash=True).to_json() or "").replace(
            str(one), "PATH"
        )
        for one in (path, reference)
    ]
    assert texts[0] == texts[1]


def loaded(path: Path) -> dict[str, torch.Tensor]:
    """All tensors, by torch's own loader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = dcp.FileSystemReader(path)
        state = {
            key: torch.empty(value.size, dtype=value.properties.dtype)
            for key, value in reader.read_metadata().state_dict_metadata.items()
            if hasattr(value, "size")
        }
        dcp.load(state, storage_reader=reader, no_dist=True)
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


def written(folder: Path, what: str) -> Path:
    path = folder / what
    if not path.exists():
        write_in_processes(path, what)
    return path


@pytest.mark.parametrize(
    "what",
    ["plain", "several_files", "file_per_item", "without_collectives", "hugging_face",
     "hugging_face_consolidated"],
)  # fmt: skip
def test_two_processes_with_shards_on_any_dimension(
    what: str, folder: Path, tmp_path: Path
) -> None:
    path = written(folder, what)
    assert_same(path, {name: value_of(name) for name in SHAPES}, tmp_path)


@pytest.mark.parametrize("what", ["plain", "fully_sharded"])
def test_as_torch_loads_it(what: str, folder: Path, tmp_path: Path) -> None:
    path = written(folder, what)
    tensors = loaded(path)
    assert len(tensors) >= 7
    assert_same(path, tensors, tmp_path)


def test_olmo_core(folder: Path, tmp_path: Path) -> None:
    """A step's directory: weights by default, the optimizer where asked, the configuration."""
    if importlib.util.find_spec("olmo_core") is None:
        pytest.skip("ai2-olmo-core is not installed")
    step = tmp_path / "step2"
    shutil.copytree(written(folder, "olmo_core"), step / "model_and_optim")
    (step / ".metadata.json").write_text('{"version": "2.0"}')
    (step / "config.json").write_text(json.dumps({"model": {"d_model": 7, "name": "tiny"}}))
    model = network()
    optimizer = trained(model)
    names = [name for name, _ in model.named_parameters()]
    weights = {f"model.{name}": value.detach() for name, value in model.named_parameters()}
    checkpoint = ckptdiff.open(step)
    assert set(checkpoint) == set(weights)
    assert checkpoint.metadata["config.model.d_model"] == "7"
    assert "left out" in checkpoint.notes[0]
    everything = loaded(step / "model_and_optim") if _torch_reads_olmo_core() else None
    if everything is not None:
        assert_same(step, everything, tmp_path)
    for name, value in weights.items():
        row = ckptdiff.stats(step)[name]
        assert row.l2 == pytest.approx(value.double().norm().item(), rel=1e-5)
    report = ckptdiff.stats(step, optimizer=True)
    for number, name in enumerate(names):
        held = optimizer.state_dict()["state"][number]
        for part in ("exp_avg", "exp_avg_sq"):
            row = report[f"optim.state.{name}.{part}"]
            assert row.l2 == pytest.approx(held[part].double().norm().item(), rel=1e-4)


def _torch_reads_olmo_core() -> bool:
    """torch's reader wants fields that OLMo-core's class of places does not have."""
    import olmo_core.distributed.checkpoint.filesystem as filesystem

    return hasattr(filesystem._StorageInfo, "transform_descriptors")


def test_olmo_cores_class_of_places_without_olmo_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OLMo-core pickles a class of its own for where an item lies, with fewer fields than torch's.

    Here that class is a stand-in of the same name, so that this is tested where the package is not
    installed.
    """
    path = one_process(tmp_path / "a", {"w": torch.arange(3.0)})
    name = "olmo_core.distributed.checkpoint.filesystem"
    module = ModuleType(name)

    @dataclass
    class _StorageInfo:
        relative_path: str
        offset: int
        length: int

    _StorageInfo.__module__, _StorageInfo.__qualname__ = name, "_StorageInfo"
    module._StorageInfo = _StorageInfo  # type: ignore[attr-defined]
    for at in range(len(name.split("."))):
        package = ".".join(name.split(".")[: at + 1])
        monkeypatch.setitem(
            sys.modules, package, module if package == name else ModuleType(package)
        )
    metadata = pickle.loads((path / ".metadata").read_bytes())
    metadata.storage_data = {
        index: _StorageInfo(place.relative_path, place.offset, place.length)
        for index, place in metadata.storage_data.items()
    }
    content = pickle.dumps(metadata, 4)
    monkeypatch.undo()
    assert name.encode() in content
    (path / ".metadata").write_bytes(content)
    assert_same(path, {"w": torch.arange(3.0)}, tmp_path)


def one_process(path: Path, state: dict[str, object]) -> Path:
    dcp.save(state, checkpoint_id=path, no_dist=True)
    return path


def test_views_scalars_empty_and_odd_dtypes(tmp_path: Path) -> None:
    tensors = {
        "transposed": torch.arange(12.0).reshape(3, 4).t(),
        "sliced": torch.arange(100, dtype=torch.int16).reshape(10, 10)[::2, 1:7],
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "flag": torch.tensor([True, False, True]),
        "eight": torch.arange(8.0).to(torch.float8_e4m3fn),
        "nested.complex": torch.arange(4).to(torch.complex64),
    }
    path = one_process(tmp_path / "a", dict(tensors))
    assert_same(path, tensors, tmp_path)


def test_weights_by_default_and_a_key(tmp_path: Path) -> None:
    model = network()
    optimizer = trained(model)
    state = {"model": model.state_dict(), "optim": optimizer.state_dict(), "step": 7}
    path = one_process(tmp_path / "a", state)
    checkpoint = ckptdiff.open(path)
    assert set(checkpoint) == {f"model.{name}" for name in model.state_dict()}
    assert checkpoint.metadata == {"step": "7"}
    assert checkpoint.notes == (
        "12 tensors are the state of training (optimizer …) and left out; "
        "--optimizer includes them",
    )
    assert set(ckptdiff.open(path, key="model")) == set(model.state_dict())
    assert set(ckptdiff.open(path, key="optim.state.0")) == {"step", "exp_avg", "exp_avg_sq"}
    assert len(ckptdiff.open(path, optimizer=True)) == 16
    with pytest.raises(ValueError, match="no key 'modl'; there is model, optim"):
        ckptdiff.open(path, key="modl")


def test_what_torchtitan_keeps_beside_the_weights(tmp_path: Path) -> None:
    """Its checkpointer's state, with the weights at the top: steps and tokens are tensors, too."""
    state = {
        "tok_embeddings.weight": torch.ones(4, 2),
        "train_sampler.weight": torch.ones(2),
        "optimizer": {"state": {"tok_embeddings.weight": {"exp_avg": torch.ones(4, 2)}}},
        "lr_scheduler": {"last_epoch": torch.tensor(3)},
        "dataloader": {"dp_rank_0": {"offset": torch.tensor(7)}, "world_size": 1},
        "train_state": {"step": torch.tensor(3), "ntokens_seen": torch.tensor(24)},
    }
    path = one_process(tmp_path / "step-3", state)
    weights = {"tok_embeddings.weight", "train_sampler.weight"}
    assert set(ckptdiff.open(path)) == weights
    torch.save(state, tmp_path / "a.pt")
    assert set(ckptdiff.open(tmp_path / "a.pt")) == weights
    everything = set(ckptdiff.open(path, optimizer=True))
    assert {"train_state.step", "train_state.ntokens_seen"} < everything
    assert set(ckptdiff.open(path, key="train_state")) == {"step", "ntokens_seen"}


def test_the_metadata_file_and_a_moved_directory(tmp_path: Path) -> None:
    """The recorded path is that of a temporary directory."""
    path = one_process(tmp_path / "a-tmp", {"w": torch.ones(3)})
    moved = tmp_path / "a"
    os.rename(path, moved)
    assert list(ckptdiff.open(moved)) == ["w"]
    assert list(ckptdiff.open(moved / ".metadata")) == ["w"]
    (moved / "__0_0.distcp").unlink()
    with pytest.raises(ckptdiff.CheckpointNotFoundError, match=r"__0_0\.distcp"):
        ckptdiff.open(moved)


def test_what_is_missing_is_not_made_up(folder: Path, tmp_path: Path) -> None:
    """Without a rank's own metadata, and without a shard between others."""
    alone = tmp_path / "alone"
    shutil.copytree(written(folder, "without_collectives"), alone)
    (alone / "__1.metadata").unlink()
    with pytest.raises(ckptdiff.InvalidCheckpointError, match=r"has no item for its part|not the"):
        ckptdiff.open(alone)
    shards = tmp_path / "shards"
    shutil.copytree(written(folder, "hugging_face"), shards)
    (shards / "shard-00001-model-00001-of-00001.safetensors").unlink()
    with pytest.raises(ckptdiff.InvalidCheckpointError, match="shard 00001 is missing"):
        ckptdiff.open(shards)


class Payload:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_metadata_runs_nothing(tmp_path: Path) -> None:
    path = one_process(tmp_path / "a", {"w": torch.ones(3)})
    metadata = pickle.loads((path / ".metadata").read_bytes())
    metadata.planner_data = Payload(f"touch '{tmp_path / 'pwned'}'")
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ckptdiff.InvalidCheckpointError, match="system"):
        ckptdiff.open(path)
    assert not (tmp_path / "pwned").exists()


def encoded(*keys: str, is_pickled: bool = False) -> str:
    """A name as OLMo's safetensors_util writes it: with pickle's protocol of its time."""
    return base64.urlsafe_b64encode(pickle.dumps((keys, is_pickled), 4)).decode()


def test_the_first_olmo(tmp_path: Path) -> None:
    run = tmp_path / "step1000-unsharded"
    run.mkdir()
    (run / "config.yaml").write_text("run_name: tiny\n")
    weights = {
        "transformer.wte.weight": torch.randn(5, 3),
        "transformer.ln_f.weight": torch.ones(3),
    }
    save_file({encoded(name): value for name, value in weights.items()}, run / "model.safetensors")
    state = {encoded("state", "transformer.wte.weight", "exp_avg"): torch.randn(5, 3)}
    state[encoded("param_groups", is_pickled=True)] = torch.zeros(4, dtype=torch.uint8)
    save_file(state, run / "optim.safetensors")
    assert set(ckptdiff.open(run)) == set(weights)
    assert set(ckptdiff.open(run, optimizer=True)) == {
        *weights,
        "optim.state.transformer.wte.weight.exp_avg",
    }
    assert_same(run / "model.safetensors", weights, tmp_path)
    payload = base64.urlsafe_b64encode(pickle.dumps((Payload("false"), False), 4)).decode()
    save_file({payload: torch.ones(2)}, run / "model.safetensors")
    with pytest.raises(ckptdiff.InvalidCheckpointError, match="system"):
        ckptdiff.open(run)


def test_many_mutations_of_the_metadata(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a"
    shutil.copytree(written(folder, "plain"), path)
    original = (path / ".metadata").read_bytes()

    def attempt(content: bytes) -> None:
        (path / ".metadata").write_bytes(content)
        try:
            ckptdiff.stats(path, optimizer=True)
            message = "a"
        except OURS as error:
            message = str(error)
        assert "\n" not in message

    assert count_mutations([original], attempt) > 20


def test_many_mutations_of_the_items(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a"
    shutil.copytree(written(folder, "plain"), path)
    items = path / "__0_0.distcp"
    original = items.read_bytes()

    def attempt(content: bytes) -> None:
        items.write_bytes(content)
        try:
            ckptdiff.stats(path, optimizer=True)
            message = "a"
        except OURS as error:
            message = str(error)
        assert "\n" not in message

    assert count_mutations([original], attempt) > 20
