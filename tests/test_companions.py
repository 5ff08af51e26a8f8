"""What lies beside the weights: the optimizer's file, the configuration, how far training was.

Models, and which of their parameters decay, are transformers'; optimizers and files are torch's.
The truth of which number is which parameter is the identity of the objects in memory.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ckptdiff
import pytest
import torch
import transformers
from ckptdiff.formats.definition_order import MODEL_TYPES, parameters_in_order
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers.trainer import Trainer

from tests.cli import invoke

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 11,  # so that 10 comes behind 9, and before 2 by its text
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "vocab_size": 32,
    "pad_token_id": 0,
}


def model_of(model_type: str, **changed: object) -> torch.nn.Module:
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(model_type, **SMALL, **changed)
    return transformers.AutoModelForCausalLM.from_config(config)


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    """As ``Trainer.create_optimizer`` makes it, after a step."""
    decaying = Trainer.get_decay_parameter_names(None, model)
    named = list(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if n in decaying], "weight_decay": 0.1},
            {"params": [p for n, p in named if n not in decaying], "weight_decay": 0.0},
        ]
    )
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    return optimizer


def state_by_name(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of each parameter, found by the object that it is of."""
    return {
        f"optimizer.state.{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def write_checkpoint(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> Path:
    """What the trainer leaves in ``checkpoint-1``, as far as it matters here."""
    model.save_pretrained(folder)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save({"last_epoch": 1}, folder / "scheduler.pt")
    (folder / "trainer_state.json").write_text("{}")
    return folder


def assert_holds(path: Path, expected: dict[str, torch.Tensor]) -> None:
    report = ckptdiff.diff(path, expected, optimizer=True, include="optimizer.*")
    assert {row.name for row in report} == set(expected)
    assert {row.verdict for row in report} == {"bit_identical"}


def as_bin(folder: Path, model: torch.nn.Module) -> None:
    """The weights in a torch file, as transformers wrote them before safetensors."""
    for file in folder.glob("*.safetensors"):
        file.unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_trainers_optimizer_is_joined_by_name(weights: str, tied: bool, tmp_path: Path) -> None:
    model = model_of("olmo2", tie_word_embeddings=tied)
    optimizer = optimizer_of(model)
    folder = write_checkpoint(tmp_path / "checkpoint-1", model, optimizer)
    if weights == "bin":
        as_bin(folder, model)
    assert_holds(folder, state_by_name(model, optimizer))
    checkpoint = ckptdiff.open(folder)
    assert not [name for name in checkpoint if name.startswith("optimizer")]
    assert any("optimizer.pt is left out" in note for note in checkpoint.notes)
    assert checkpoint.config_path == str(folder / "config.json")
    assert "optimizer.param_groups.0.lr" in ckptdiff.open(folder, optimizer=True).metadata


def test_several_shards_of_safetensors(tmp_path: Path) -> None:
    model = model_of("llama")
    optimizer = optimizer_of(model)
    folder = write_checkpoint(tmp_path / "checkpoint-1", model, optimizer)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert_holds(folder, state_by_name(model, optimizer))


@pytest.mark.parametrize("tied", [False, True])
def test_several_shards_of_torch_files(tied: bool, tmp_path: Path) -> None:
    """As transformers wrote them: what is larger than a shard has one of its own, out of turn."""
    model = model_of("qwen3", tie_word_embeddings=tied)
    optimizer = optimizer_of(model)
    folder = write_checkpoint(tmp_path / "checkpoint-1", model, optimizer)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    state = model.state_dict()
    split = split_torch_state_dict_into_shards(
        state, filename_pattern="pytorch_model{suffix}.bin", max_shard_size=1800
    )
    weight_map = {}
    for name, held in split.filename_to_tensors.items():
        torch.save({key: state[key] for key in held}, folder / name)
        weight_map |= dict.fromkeys(held, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert len(split.filename_to_tensors) > 5
    assert_holds(folder, state_by_name(model, optimizer))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of"}))
    checkpoint = ckptdiff.open(folder, optimizer=True)
    assert "optimizer.state.0.exp_avg" in checkpoint
    assert any(
        "numbers, as shards keep no order" in note and "model_type 'unheard-of'" in note
        for note in checkpoint.notes
    )
    (folder / "config.json").unlink()
    notes = ckptdiff.open(folder, optimizer=True).notes
    assert any("no config.json says the model_type" in note for note in notes)


def test_numbers_stay_where_the_order_is_not_known(tmp_path: Path) -> None:
    """Safetensors of an architecture that is not in the table: shapes alone could fit by chance."""
    model = model_of("olmo2")
    optimizer = optimizer_of(model)
    folder = write_checkpoint(tmp_path / "checkpoint-1", model, optimizer)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of"}))
    state = optimizer.state_dict()["state"]
    assert_holds(
        folder,
        {f"optimizer.state.{n}.{k}": v for n, held in state.items() for k, v in held.items()},
    )
    notes = ckptdiff.open(folder, optimizer=True).notes
    assert any("parameters are numbers" in note for note in notes)


def test_numbers_stay_where_the_groups_can_be_merged_in_two_ways(tmp_path: Path) -> None:
    """Two groups of layers of one shape: which is in which, nothing tells."""
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(4)))
    groups = [model[0::2].parameters(), model[1::2].parameters()]
    optimizer = torch.optim.SGD([{"params": list(g)} for g in groups], lr=0.1, momentum=0.9)
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    names = set(ckptdiff.open(tmp_path, optimizer=True))
    assert {f"optimizer.state.{number}.momentum_buffer" for number in range(8)} <= names


def test_numbers_stay_where_sorted_names_fit_as_well(tmp_path: Path) -> None:
    """Some trainers sort names: with layers 0 to 11 of one shape, 10 and 2 would be mistaken."""
    model = torch.nn.ModuleDict(
        {str(layer): torch.nn.Linear(3, 4, bias=False) for layer in range(12)}
    )
    model.register_parameter("a", torch.nn.Parameter(torch.ones(5)))
    named = dict(model.named_parameters())
    groups = [[n for n in named if n != "a"], ["a"]]
    optimizer = torch.optim.SGD(
        [{"params": [named[n] for n in sorted(group)]} for group in groups], lr=0.1, momentum=0.9
    )
    sum(p.square().sum() for p in named.values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    assert "optimizer.state.2.momentum_buffer" in ckptdiff.open(tmp_path, optimizer=True)


@pytest.mark.parametrize("model_type", sorted(MODEL_TYPES))
def test_the_order_is_that_of_transformers(model_type: str) -> None:
    names = [name for name, _ in model_of(model_type).named_parameters()]
    assert parameters_in_order(sorted(names), model_type) == names
    assert parameters_in_order([*names, "model.layers.0.adapter.weight"], model_type) is None


def test_a_broken_optimizer_is_trouble_only_where_it_is_asked_for(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "optimizer.pt").write_bytes(b"PK\x03\x04 and nothing else")
    assert invoke("ls", tmp_path).status == 0
    outcome = invoke("ls", tmp_path, "--optimizer")
    assert outcome.status == 2
    assert "optimizer.pt" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_names_that_would_meet_are_refused(tmp_path: Path) -> None:
    save_file({"optimizer.state.0.exp_avg": torch.ones(2)}, tmp_path / "model.safetensors")
    state = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"params": [0]}]}
    torch.save(state, tmp_path / "optimizer.pt")
    with pytest.raises(ckptdiff.InvalidCheckpointError, match=r"optimizer\.pt.*exp_avg"):
        ckptdiff.open(tmp_path, optimizer=True)


# OLMo.


def write_first_generation(folder: Path) -> dict[str, torch.Tensor]:
    """``model.pt`` and ``optim.pt`` of an unsharded checkpoint, whose state goes by name."""
    folder.mkdir(exist_ok=True)
    weights = {
        "transformer.wte.weight": torch.randn(8, 4),
        "transformer.blocks.0.ff_out.weight": torch.randn(4, 4),
    }
    torch.save(weights, folder / "model.pt")
    state = {n: {"exp_avg": w * 2, "exp_avg_sq": w * w} for n, w in weights.items()}
    groups = [{"lr": 1e-3, "params": list(weights), "param_names": list(weights)}]
    torch.save({"state": state, "param_groups": groups}, folder / "optim.pt")
    torch.save({"global_step": 9, "global_train_tokens_seen": 72}, folder / "train.pt")
    (folder / "config.yaml").write_text(
        "run_name: peteish\nmodel:\n  d_model: 4\n  rope: true\nbetas: [0.9, 0.95]\n"
    )
    return {
        **weights,
        **{f"optim.state.{n}.{k}": v for n, held in state.items() for k, v in held.items()},
    }


def test_the_first_generation_of_olmo(tmp_path: Path) -> None:
    expected = write_first_generation(tmp_path / "step9")
    report = ckptdiff.diff(tmp_path / "step9", expected, optimizer=True)
    assert report.exit_status == 0
    assert len(report) == len(expected)
    checkpoint = ckptdiff.open(tmp_path / "step9")
    assert set(checkpoint) == {name for name in expected if not name.startswith("optim.")}
    assert checkpoint.config_path == str(tmp_path / "step9" / "config.yaml")
    assert "optim.pt is left out; --optimizer includes it" in checkpoint.notes
    assert "written at step 9 after 72 tokens of training (train.pt)" in checkpoint.notes
    assert checkpoint.metadata["train.global_step"] == "9"
    assert checkpoint.metadata["config.model.d_model"] == "4"
    listed = invoke("ls", tmp_path / "step9").stdout
    assert "written at step 9" in listed
    for text in ("config.run_name = peteish", "config.model.rope = true"):
        assert text in listed.replace(": ", " = "), listed
    (tmp_path / "step9" / "config.yaml").write_text("model: !!python/object:os.system {}\n")
    assert any("config.yaml" in note for note in ckptdiff.open(tmp_path / "step9").notes)


def test_a_data_set_beside_weights_is_no_state_of_training(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt")
    torch.save({"global_step": 9}, tmp_path / "train.pt")
    assert ckptdiff.open(tmp_path).notes == ()


@pytest.mark.skipif(
    importlib.util.find_spec("olmo_core") is None, reason="ai2-olmo-core is not installed"
)
def test_a_step_of_olmo_core(tmp_path: Path) -> None:
    """As a directory, as ``model_and_optim/`` and as ``.metadata``: three paths of one thing."""
    from olmo_core.train.checkpoint import Checkpointer

    for step in (1, 2):
        state = {"model": {"layer.weight": torch.full((2, 3), float(step))}}
        Checkpointer(work_dir=tmp_path / "work").save(
            tmp_path / f"step{step}",
            SimpleNamespace(state_dict_to_save=lambda state=state: state),
            {"global_step": step, "global_train_tokens_seen": 8 * step, "callbacks": {}},
        )
        (tmp_path / f"step{step}" / "config.json").write_text('{"model": {"d_model": 3}}')
    documents = []
    for inner in (".", "model_and_optim", "model_and_optim/.metadata"):
        a, b = tmp_path / "step1" / inner, tmp_path / "step2" / inner
        checkpoint = ckptdiff.open(a)
        assert checkpoint.config_path == str(tmp_path / "step1" / "config.json")
        assert checkpoint.metadata["train.global_step"] == "1"
        assert checkpoint.metadata["config.model.d_model"] == "3"
        assert any("at step 1 after 8 tokens" in note for note in checkpoint.notes)
        outcome = invoke("diff", a, b, "--format", "json")
        assert outcome.status == 1, outcome.stderr
        documents.append(json.loads(outcome.stdout)["tensors"])
        assert documents[-1][0]["max_abs"] == 1
    assert documents[0] == documents[1] == documents[2]


def test_a_state_of_training_that_is_not_allowed_is_no_trouble_for_weights(tmp_path: Path) -> None:
    """A callback may keep an object of its own in it; the weights are compared, and it is said."""
    write_first_generation(tmp_path / "step9")
    torch.save({"global_step": torch.nn.Linear(1, 1)}, tmp_path / "step9" / "train.pt")
    checkpoint = ckptdiff.open(tmp_path / "step9")
    assert len(checkpoint) == 2
    assert any("not read: " in note and "train.pt" in note for note in checkpoint.notes)
