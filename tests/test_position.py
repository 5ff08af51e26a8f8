"""Where training stood: from labels, trainers' states and configs, and what disagrees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ckptdiff
import numpy as np
import pytest
from ckptdiff.dynamics.discover import Search, find
from ckptdiff.position import TrainingPosition, position_of
from safetensors.numpy import save_file

from tests.cli import assert_one_line_of_trouble, invoke
from tests.configs import OLMO_STAGE_2_YAML, OLMO_YAML, olmo_core
from tests.test_config import written
from tests.writers import tensor, write_file

BATCH = 1024 * 4096
COMMIT = "7df9a82518afdecae4e8c026b27adccc8c1f0032"


def fields(position: TrainingPosition) -> dict[str, Any]:
    """What is known, without where from."""
    return {name: getattr(position, name) for name in position.sources}


def trainer_state(step_directory: Path, **state: int) -> Path:
    """``train/rank0.pt`` as OLMo-core's checkpointer writes it."""
    torch = pytest.importorskip("torch")
    (step_directory / "train").mkdir(parents=True)
    rng = {"python": (3, (1, 2), None), "torch": torch.get_rng_state()}
    torch.save(state | {"epoch": 1, "world_size": 2, "rng": rng}, step_directory / "train/rank0.pt")
    return step_directory


# From names.


@pytest.mark.parametrize(
    ("path", "expected"),
    {
        "run/step1000": {"step": 1000},
        "run/step1000/model_and_optim/.metadata": {"step": 1000},
        "run/step1000/model.safetensors": {"step": 1000},
        "run/step1000/hf": {"step": 1000},
        "run/step1000.pt": {"step": 1000},
        "run/0000020000/model.pt": {"step": 20000},
        "run/checkpoint-500/model.safetensors": {"step": 500},
        "run/ckpt_356/pytorch_model.bin": {"index": 356},
        # a year, or the number of a run, is not a step of what lies in it
        "2024/run/model.safetensors": {},
        "2024/run": {},
        "olmo-7b-1124_stage2_ingredient1/step1000-unsharded": {
            "stage": 2, "ingredient": 1, "ingredients": (1,), "step": 1000,
        },
        "stage2/ingredient3/step1000/model.safetensors": {
            "stage": 2, "ingredient": 3, "ingredients": (3,), "step": 1000,
        },
        "stage3_longcontext/step9000": {"stage": 3, "phase": "longcontext", "step": 9000},
        "stage1/step1000-tokens4B": {
            "stage": 1, "step": 1000, "tokens": 4 * 10**9, "stage_tokens": 4 * 10**9,
        },
        # tokens start anew in a second stage
        "stage2-ingredient1-step11931-tokens50B": {
            "stage": 2, "ingredient": 1, "ingredients": (1,), "step": 11931,
            "stage_tokens": 50 * 10**9,
        },
        "stage2-ingredient1+2-step23842": {"stage": 2, "ingredients": (1, 2), "step": 23842},
        "step11921+11000+10000": {"step": 11921, "steps": (11921, 11000, 10000)},
        "TinyLlama-1.1B": {},
    }.items(),
)  # fmt: skip
def test_a_name_tells(path: str, expected: dict[str, Any], tmp_path: Path) -> None:
    place = tmp_path / "x" / "y" / "z" / path
    place.parent.mkdir(parents=True)
    if place.suffix in (".safetensors", ".pt", ".bin", ".metadata") or "." in place.name[:1]:
        place.touch()
    else:
        place.mkdir()
    position = position_of(str(place))
    assert fields(position) == expected
    assert position.is_known == bool(expected)
    assert position.is_soup == (position.label is not None and "+" in position.label)
    assert not position.conflicts


def hub_snapshot(cache: Path, repository: str, *references: str) -> Path:
    """A snapshot as huggingface_hub lays it out."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for reference in references:
        file = folder / "refs" / reference
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(COMMIT, encoding="ascii")
    (folder / "refs" / "stage1-step5").write_text("0" * 40, encoding="ascii")
    return snapshot


def test_a_snapshot_of_the_hub_is_named_by_its_revision(tmp_path: Path) -> None:
    label = "stage2-ingredient1-step11931-tokens50B"
    snapshot = hub_snapshot(tmp_path, "allenai/OLMo-2-1124-7B", "pr/1", label)
    (snapshot / "model.safetensors").touch()
    written(snapshot, olmo_core())
    for path in (snapshot, snapshot / "model.safetensors"):
        position = position_of(str(path))
        assert position.label == label
        assert (position.stage, position.ingredient, position.step) == (2, 1, 11931)
        assert position.sources["step"] == f"revision {label}"
        assert position.stage_tokens == 11931 * BATCH


def test_the_main_branch_of_a_repository_of_one_checkpoint(tmp_path: Path) -> None:
    repository = "TinyLlama/TinyLlama-1.1B-intermediate-step-480k-1T"
    snapshot = hub_snapshot(tmp_path, repository, "main")
    # its folder as well as the snapshot in it
    for path in (snapshot, snapshot.parent.parent):
        position = position_of(str(path))
        assert (position.step, position.tokens) == (480_000, 10**12)
        assert position.sources["step"] == f"repository {repository.split('/')[1]}"


def test_two_revisions_of_one_commit_that_disagree(tmp_path: Path) -> None:
    # three revisions of OLMo 2 7B have the same weights
    names = ("stage1-step101000-tokens424B", "stage1-step175000-tokens735B")
    position = position_of(str(hub_snapshot(tmp_path, "allenai/x", *names, "main")))
    assert position.step == 101000
    assert position.conflicts == (
        f"step is 101,000 by revision {names[0]}, but 175,000 by revision {names[1]}",
    )


# From states and configs.


def test_tokens_and_rate_are_computed_from_the_step(tmp_path: Path) -> None:
    step = written(tmp_path / "stage1-step1000-tokens5B", olmo_core())
    position = position_of(str(step))
    # 4.19 billion, which the label rounds up
    assert position.tokens == position.stage_tokens == 1000 * BATCH
    assert position.learning_rate == pytest.approx(3e-4 * 1000 / 2000, rel=1e-14)
    assert position.sources["tokens"] == "step x config.json data_loader.global_batch_size"
    assert position.sources["learning_rate"] == ("config.json train_module.scheduler at step 1,000")
    assert not position.conflicts


def test_the_trainer_is_believed_before_the_label(tmp_path: Path) -> None:
    step = trainer_state(
        tmp_path / "step1000",
        global_step=2000,
        global_train_tokens_seen=2000 * BATCH,
        max_steps=2000,
    )
    written(step, olmo_core())
    position = position_of(str(step))
    assert (position.step, position.tokens) == (2000, 2000 * BATCH)
    assert position.sources["tokens"] == "train/rank0.pt global_train_tokens_seen"
    # it also says when training was to end, which the config can only be asked for
    assert position.learning_rate == pytest.approx(3e-5, rel=1e-14)
    assert position.conflicts == (
        "step is 2,000 by train/rank0.pt global_step, but 1,000 by directory name step1000",
    )


def test_a_rate_in_tokens_of_the_first_generation(tmp_path: Path) -> None:
    step = written(tmp_path / "step928646-unsharded", OLMO_YAML, "config.yaml")
    position = position_of(str(step))
    assert position.tokens == 928646 * BATCH
    # stage 2 was begun with this one, rounded
    assert position.learning_rate == pytest.approx(0.000061499, rel=3e-3)


def test_a_second_stage(tmp_path: Path) -> None:
    name = "stage2-ingredient1-step5960-tokens25B"
    step = written(tmp_path / name, OLMO_STAGE_2_YAML, "config.yaml")
    position = position_of(str(step))
    assert position.tokens is None
    assert position.stage_tokens == 5960 * BATCH
    # half of the way down a line of int(50e9 / batch) steps
    assert position.learning_rate == pytest.approx(0.000061499 / 2, rel=1e-14)
    assert not position.conflicts


def test_tokens_that_go_on_in_a_later_stage(tmp_path: Path) -> None:
    step = trainer_state(
        tmp_path / "stage3-step1000",
        global_step=1000,
        global_train_tokens_seen=5 * 10**12,
    )
    position = position_of(str(written(step, olmo_core())))
    assert (position.tokens, position.stage_tokens) == (5 * 10**12, 1000 * BATCH)
    assert not position.conflicts


def test_a_label_whose_tokens_are_not_those_of_its_step(tmp_path: Path) -> None:
    step = written(tmp_path / "step1000-tokens9B", olmo_core())
    position = position_of(str(step))
    assert position.tokens == 1000 * BATCH
    assert position.conflicts == (
        "tokens is 4,194,304,000 by step x config.json data_loader.global_batch_size, but "
        "9,000,000,000 by directory name step1000-tokens9B",
    )


def test_a_batch_that_was_cut_short_is_no_conflict(tmp_path: Path) -> None:
    for missing, conflicts in ((BATCH, 0), (BATCH + 1, 1)):
        step = trainer_state(
            tmp_path / str(missing) / "step1000",
            global_step=1000,
            global_train_tokens_seen=1000 * BATCH - missing,
        )
        position = position_of(str(written(step, olmo_core())))
        assert position.tokens == 1000 * BATCH - missing
        assert len(position.conflicts) == conflicts


@pytest.mark.parametrize(
    ("value", "unit", "is_end"),
    [
        (1000, "steps", True),
        (1001, "steps", False),
        (1000 * BATCH, "tokens", True),
        (1001 * BATCH - 1, "tokens", True),
        (1001 * BATCH, "tokens", False),
        (1, "epochs", False),
    ],
)
def test_the_end_by_the_config(value: int, unit: str, is_end: bool, tmp_path: Path) -> None:
    config = olmo_core(trainer__max_duration={"value": value, "unit": unit})
    step = written(tmp_path / "stage1-step1000", config)
    assert position_of(str(step)).is_end == is_end
    # the trainer's state counts more
    trainer_state(step, global_step=1000, max_steps=1200)
    assert not position_of(str(step)).is_end


def test_a_soup_has_no_rate(tmp_path: Path) -> None:
    step = written(tmp_path / "stage2-ingredient1+2-step1000", olmo_core())
    position = position_of(str(step))
    assert position.is_soup
    assert position.learning_rate is None


def test_the_trainer_of_hugging_face(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    log = [{"step": 400, "learning_rate": 5e-5}, {"step": 500, "learning_rate": 4e-5, "loss": 2.5}]
    state = transformers.TrainerState(global_step=500, max_steps=900, log_history=log)
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    state.save_to_json(str(folder / "trainer_state.json"))
    position = position_of(str(folder))
    # it was not told to count tokens, and says 0
    assert fields(position) == {"step": 500, "learning_rate": 4e-5}
    assert position.sources == {
        "step": "trainer_state.json global_step",
        "learning_rate": "trainer_state.json log_history",
    }
    state.num_input_tokens_seen = 1_000_000
    state.save_to_json(str(folder / "trainer_state.json"))
    assert position_of(str(folder)).tokens == 1_000_000
    # the last entry is of the training's end, and has no rate
    state.log_history.append({"step": 500, "train_runtime": 3.0})
    state.save_to_json(str(folder / "trainer_state.json"))
    assert position_of(str(folder)).learning_rate == 4e-5


HOSTILE_STATES: dict[str, tuple[str, bytes]] = {
    "a config that is nested": ("config.json", b"[" * 100_000),
    "a trainer's state that is none": ("trainer_state.json", b"[1]"),
    "a rank's state that is no torch file": ("train/rank0.pt", b"nothing"),
    "a rank's state that runs a program": (
        "train/rank0.pt",
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
    ),
}


@pytest.mark.parametrize("name", HOSTILE_STATES)
def test_what_cannot_be_read_is_a_problem_and_the_rest_goes_on(name: str, tmp_path: Path) -> None:
    file, content = HOSTILE_STATES[name]
    path = tmp_path / "step1000" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    position = position_of(str(tmp_path / "step1000"))
    assert fields(position) == {"step": 1000}
    assert len(position.problems) == 1
    assert str(path) in position.problems[0]
    assert "\n" not in position.problems[0]
    assert invoke("where", tmp_path / "step1000").status == 2


def test_the_state_of_the_first_generation_and_what_only_has_its_name(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    step = tmp_path / "step1000-unsharded"
    step.mkdir()
    state = {"global_step": 1000, "global_train_tokens_seen": 5, "epoch": 0}
    torch.save(state, step / "train.pt")
    assert position_of(str(step)).tokens is None
    written(step, OLMO_YAML, "config.yaml")
    position = position_of(str(step))
    assert (position.step, position.tokens) == (1000, 5)
    assert position.sources["tokens"] == "train.pt global_train_tokens_seen"


def test_states_of_the_wrong_kind_tell_nothing(tmp_path: Path) -> None:
    state = {"global_step": "many", "num_input_tokens_seen": -5, "log_history": {"step": 1}}
    folder = written(tmp_path / "run", json.dumps(state), "trainer_state.json")
    assert not position_of(str(folder)).is_known
    assert not position_of(str(folder)).problems


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ckptdiff.CheckpointNotFoundError, match="no such file"):
        ckptdiff.position_of(str(tmp_path / "nowhere"))


# A run's directory.


def checkpoints_in(path: Path) -> list[str]:
    """What ``where`` and ``series`` find in a directory."""
    search = Search()
    find([str(path)], search)
    return [found.path for found in search.found]


def test_a_run_stands_for_its_checkpoints_in_order(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("step10", "step9", "logs", "step100-hf", "stage1"):
        (run / name).mkdir(parents=True)
    (run / "step20.safetensors").touch()
    (run / "step30.json").touch()
    found = [Path(path).name for path in checkpoints_in(run)]
    assert found == ["step9", "step10", "step20.safetensors", "step100-hf"]
    assert checkpoints_in(run / "logs") == [str(run / "logs")]


@pytest.mark.parametrize("with_weights", [True, False])
def test_the_optimizers_folder_of_a_step_is_none(with_weights: bool, tmp_path: Path) -> None:
    """As DeepSpeed has it in a checkpoint of Hugging Face's trainer."""
    steps = [tmp_path / f"checkpoint-{step}" for step in (5, 10)]
    for step in steps:
        folder = step / f"global_step{step.name.removeprefix('checkpoint-')}"
        folder.mkdir(parents=True)
        if with_weights:
            save_file({"w": np.ones(3, np.float32)}, step / "model.safetensors")
            save_file({"w": np.ones(3, np.float32)}, folder / "model.safetensors")
    assert checkpoints_in(steps[0]) == [str(steps[0])]
    assert checkpoints_in(tmp_path) == [str(step) for step in steps]


def test_a_run_named_after_the_step_it_began_from(tmp_path: Path) -> None:
    run = tmp_path / "olmo-step1000-sft"
    for folder in (run, run / "checkpoint-5", run / "checkpoint-10"):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"w": np.ones(3, np.float32)}, folder / "model.safetensors")
    assert checkpoints_in(run) == [str(run / "checkpoint-5"), str(run / "checkpoint-10")]


def test_a_run_in_stages(tmp_path: Path) -> None:
    for name in ("stage2_ingredient2", "stage2_ingredient1", "stage1"):
        for step in (2000, 1000):
            (tmp_path / "run" / name / f"step{step}").mkdir(parents=True)
    positions = map(position_of, checkpoints_in(tmp_path / "run"))
    assert [(p.stage, p.ingredient, p.step) for p in positions] == [
        (1, None, 1000), (1, None, 2000), (2, 1, 1000), (2, 1, 2000), (2, 2, 1000), (2, 2, 2000),
    ]  # fmt: skip


# The command.


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two stages, the working directory's ``run``."""
    written(tmp_path / "run/stage1/step1000", olmo_core())
    written(tmp_path / "run/stage1/step2000-tokens9B", olmo_core())
    written(tmp_path / "run/stage2-ingredient1/step500", OLMO_STAGE_2_YAML, "config.yaml")
    (tmp_path / "run/soups/stage2-ingredient1+2-step500").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_one_checkpoint_in_full(run: Path) -> None:
    assert str(invoke("where", "run/stage2-ingredient1/step500")) == (
        "status 0\n"
        "--- stdout\n"
        "run/stage2-ingredient1/step500\n"
        "  stage            2              directory name stage2-ingredient1\n"
        "  ingredient       1              directory name stage2-ingredient1\n"
        "  step             500            directory name step500\n"
        "  tokens in stage  2,097,152,000"
        "  step x config.yaml global_train_batch_size x model.max_sequence_length\n"
        "  learning rate    5.892e-05      config.yaml scheduler at step 500\n"
        "--- stderr\n"
    )


def test_a_run_as_a_table(run: Path) -> None:
    assert str(invoke("where", "run", env={"COLUMNS": ""})) == (
        "status 0\n"
        "--- stdout\n"
        "checkpoint                              stage  ingredient   step  tokens  in stage"
        "  learning rate  read from\n"
        "run/stage1/step1000                         1           -  1,000  4.19 B    4.19 B"
        "        0.00015  name: stage, step; config.json: tokens, tokens in stage,"
        " learning rate\n"
        "run/stage1/step2000-tokens9B                1           -  2,000  8.39 B    8.39 B"
        "         0.0003  name: stage, step; config.json: tokens, tokens in stage,"
        " learning rate\n"
        "run/stage2-ingredient1/step500              2           1    500       -    2.10 B"
        "      5.892e-05  name: stage, ingredient, step; config.yaml: tokens in stage,"
        " learning rate\n"
        "run/soups/stage2-ingredient1+2-step500      2         1+2    500       -         -"
        "              -  name: stage, ingredient, step\n"
        "--- stderr\n"
    )
    narrow = invoke("where", "run", env={"COLUMNS": "80"}).stdout
    assert max(map(len, narrow.splitlines())) <= 80


def test_sources_that_disagree(run: Path) -> None:
    (run / "stage1/step2000-tokens9B").rename(run / "stage1/step2000-tokens5B")
    outcome = invoke("where", "run")
    assert outcome.status == 1
    assert outcome.stdout.endswith(
        "\n\n! run/stage1/step2000-tokens5B: tokens is 8,388,608,000 by step x config.json "
        "data_loader.global_batch_size, but 5,000,000,000 by directory name "
        "step2000-tokens5B\n"
    )


def test_nothing_known_is_said_and_no_trouble(tmp_path: Path) -> None:
    outcome = invoke("where", tmp_path)
    assert outcome.status == 0
    assert "neither its name" in outcome.stdout
    assert json.loads(invoke("where", tmp_path, "--json").stdout)["checkpoints"][0]["sources"] == {}


def test_a_path_that_is_not_there(run: Path) -> None:
    assert_one_line_of_trouble(invoke("where", "nowhere"), "nowhere: no such file or directory")
    # the others are told all the same
    outcome = invoke("where", "nowhere", "run/stage1/step1000")
    assert outcome.status == 2
    assert "directory name step1000" in outcome.stdout


def test_json(run: Path) -> None:
    document = json.loads(invoke("where", "run", "--json").stdout)
    assert document["schema"] == "ckptdiff.where/1"
    assert document == json.loads(invoke("where", "run", "--format", "json").stdout)
    position = position_of("run/stage1/step1000")
    assert document["checkpoints"][0] == {
        "path": "run/stage1/step1000",
        "label": "step1000",
        "stage": 1,
        "phase": None,
        "ingredient": None,
        "ingredients": [],
        "step": 1000,
        "steps": [],
        "tokens": 1000 * BATCH,
        "stage_tokens": 1000 * BATCH,
        "learning_rate": 1.5e-4,
        "index": None,
        "sources": dict(position.sources),
        "conflicts": [],
        "problems": [],
    }


def test_csv_and_markdown(run: Path) -> None:
    lines = invoke("where", "run", "--format", "csv").stdout.splitlines()
    assert lines[0] == (
        "path,label,stage,phase,ingredient,step,tokens,stage_tokens,learning_rate,index,is_soup"
    )
    assert lines[1] == (
        "run/stage1/step1000,step1000,1,,,1000,4194304000,4194304000,0.00015,,False"
    )
    lines = invoke("where", "run", "--format", "markdown").stdout.splitlines()
    assert lines[2] == (
        "| `run/stage1/step1000` | 1 | - | 1,000 | 4.19 B | 4.19 B | 0.00015 "
        "| name: stage, step; config.json: tokens, tokens in stage, learning rate |"
    )


def test_names_cannot_move_the_cursor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step5-\x1b[2J").mkdir()
    (tmp_path / "step6").mkdir()
    monkeypatch.chdir(tmp_path)
    for command in (("where", "step5-\x1b[2J"), ("where", "."), ("where", ".", "--json")):
        outcome = invoke(*command)
        assert "\x1b" not in outcome.stdout
        assert "x1b" in outcome.stdout or "u001b" in outcome.stdout


def test_a_position_is_a_value(tmp_path: Path) -> None:
    position = position_of(str(tmp_path))
    assert replace(position, step=1) != position
    assert position_of(str(tmp_path)) == position


def test_the_directory_that_all_are_in_is_said_once(tmp_path: Path) -> None:
    """So that a narrow screen has room for what tells them apart."""
    for step in (1000, 2000):
        folder = tmp_path / "run" / f"stage2-ingredient1-step{step}-tokens4B"
        write_file(folder / "model.safetensors", {"w": tensor([1.0])})
    text = invoke("where", tmp_path / "run", env={"COLUMNS": "90"}).stdout
    first, empty, header, *rows = text.splitlines()
    assert (first, empty) == (f"in {tmp_path / 'run'}", "")
    assert header.startswith("checkpoint")
    assert [row.split()[0] for row in rows] == [
        f"stage2-ingredient1-step{step}-tokens4B" for step in (1000, 2000)
    ]
    assert "4.00 B" in rows[0]
