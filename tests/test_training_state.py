"""How far training was: OLMo-core's ``train/rank0.pt`` and ``train.pt`` of OLMo's first generation.

The state is made by the trainer's own ``state_dict`` and written by its checkpointer.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import random
from pathlib import Path
from types import SimpleNamespace

import ckptdiff
import numpy as np
import pytest
import torch
from ckptdiff.formats.olmo_core import step_directory, train_state

pytestmark = pytest.mark.filterwarnings("ignore")

needs_olmo_core = pytest.mark.skipif(
    importlib.util.find_spec("olmo_core") is None, reason="ai2-olmo-core is not installed"
)


def trainer_state() -> dict[str, object]:
    """What OLMo-core's trainer saves: ``Trainer.state_dict`` of a trainer at step 7."""
    from olmo_core.train import Trainer

    return Trainer.state_dict(
        SimpleNamespace(
            global_step=7,
            global_train_tokens_seen=57_344,
            global_train_petaflops=1.5,
            max_steps=100,
            data_loader=SimpleNamespace(
                state_dict=lambda: {"dataset_type": "fsl", "tokens_processed": 57_344, "epoch": 1}
            ),
            epoch=1,
            callbacks={"stability": SimpleNamespace(state_dict=lambda: {"loss_history": [1.0]})},
        )
    )


@pytest.fixture
def step(tmp_path: Path) -> Path:
    from olmo_core.train.checkpoint import Checkpointer

    directory = tmp_path / "step7"
    weights = {"model": {"layer.weight": torch.arange(6.0).reshape(2, 3)}}
    Checkpointer(work_dir=tmp_path / "work").save(
        directory, SimpleNamespace(state_dict_to_save=lambda: weights), trainer_state()
    )
    return directory


@needs_olmo_core
def test_state_of_olmo_core(step: Path) -> None:
    for path in (step, step / "model_and_optim", step / "model_and_optim" / ".metadata"):
        state = train_state(str(path))
        assert state["global_step"] == 7
        assert state["global_train_tokens_seen"] == 57_344
        assert state["max_steps"] == 100
        assert state["data_loader.tokens_processed"] == 57_344
        assert state["data_loader.dataset_type"] == "fsl"
        assert all(isinstance(value, (int, float, str)) for value in state.values())


def test_state_of_the_first_generation(tmp_path: Path) -> None:
    """The dictionary of ``Trainer.trainer_state_dict`` of allenai/OLMo, an unsharded checkpoint."""
    state = {
        "epoch": 0,
        "global_step": 1000,
        "global_train_examples_seen_this_epoch": 2_160_000,
        "global_train_tokens_seen": 4_423_680_000,
        "world_size": 216,
        "checkpoints": [Path("/run/step1000")],
        "unsharded_checkpoints": [],
        "ephemeral_checkpoints": [],
        "rng": {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.random.get_rng_state(),
        },
    }
    torch.save(state, tmp_path / "train.pt")
    assert train_state(str(tmp_path)) == {
        "epoch": 0,
        "global_step": 1000,
        "global_train_examples_seen_this_epoch": 2_160_000,
        "global_train_tokens_seen": 4_423_680_000,
        "world_size": 216,
    }


def test_no_state(tmp_path: Path) -> None:
    assert train_state(str(tmp_path)) == {}


def test_the_step_of_a_path() -> None:
    assert step_directory("run/step7/") == "run/step7"
    assert step_directory("run/step7/model_and_optim/") == "run/step7"
    assert step_directory("run/step7/model_and_optim/.metadata") == "run/step7"
    assert step_directory("model_and_optim") == "."
    assert step_directory(".metadata") == "."


class _Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("it-ran",))


def test_a_state_that_runs_something_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"global_step": _Runs()}, tmp_path / "train.pt")
    with pytest.raises(ckptdiff.InvalidCheckpointError, match=r"train\.pt.*posix\.mkdir"):
        train_state(str(tmp_path))
    (tmp_path / "train.pt").write_bytes(pickle.dumps({"global_step": 1}))
    with pytest.raises(ckptdiff.InvalidCheckpointError, match=r"train\.pt"):
        train_state(str(tmp_path))
    torch.save([1, 2], tmp_path / "train.pt")
    with pytest.raises(ckptdiff.InvalidCheckpointError, match="expected a dictionary"):
        train_state(str(tmp_path))
    assert not (tmp_path / "it-ran").exists()
