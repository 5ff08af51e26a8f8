"""What a watcher says of training, against float64 numpy; and in transformers' own Trainer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ckptdiff
import numpy as np
import pytest
import torch
from ckptdiff.callbacks import Watcher
from ckptdiff.callbacks.sums import _CHUNK_CPU
from safetensors.torch import save_file
from torch import nn

from tests import distributed_watchers
from tests.distributed_watchers import Layer, Model, disturb
from tests.distributed_writers import RANKS, run_in_processes
from tests.spectra import Array

MEASURES = ("relative_update", "cosine", "changed_bf16", "nan", "inf")


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


def weights(model: nn.Module) -> dict[str, Array]:
    return {
        name: parameter.detach().to(torch.float64).numpy().copy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def in_bfloat16(values: Array) -> Array:
    return torch.from_numpy(values).to(torch.bfloat16).to(torch.float64).numpy()


def oracle(now: Array, before: Array, earlier: Array | None = None) -> dict[str, float]:
    """The measures of one group whose elements are these, finite in ``before``."""
    finite = np.isfinite(now) & np.isfinite(before)
    d = np.where(finite, now - before, 0)
    norm = np.linalg.norm(np.where(finite, before, 0))
    expected = {
        "relative_update": np.linalg.norm(d) / norm,
        "changed_bf16": np.mean(in_bfloat16(now) != in_bfloat16(before)),
        "nan": np.isnan(now).sum(),
        "inf": np.isinf(now).sum(),
    }
    if earlier is not None:
        last = before - earlier
        expected["cosine"] = d @ last / np.linalg.norm(d) / np.linalg.norm(last)
    return expected


def flat(weights: dict[str, Array], *names: str) -> Array:
    return np.concatenate([weights[name].ravel() for name in names or weights])


def assert_measures(logs: dict[str, float], group: str, expected: dict[str, float]) -> None:
    suffix = f"/{group}" if group else ""
    for name in MEASURES:
        key = f"ckptdiff/{name}{suffix}"
        assert (key in logs) == (name in expected), (key, sorted(logs))
        # the last update is kept in bfloat16
        tolerance = 5e-3 if name == "cosine" else 1e-9
        if name in expected:
            assert logs[key] == pytest.approx(expected[name], rel=tolerance, abs=1e-3 * tolerance)


GROUPS = {
    "tensor": {"layers.0.up.weight": ["layers.0.up.weight"]},
    "layer": {
        "layers.1": [f"layers.1.{n}.{p}" for n in ("up", "down") for p in ("weight", "bias")]
    },
    "module": {
        "layers.*.down": [f"layers.{i}.down.{p}" for i in (0, 1) for p in ("weight", "bias")]
    },
    "total": {},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("by", GROUPS)
def test_measures_are_those_of_float64(model: Model, by: Any, dtype: torch.dtype) -> None:
    model.to(dtype)
    watcher = Watcher(model, every=2, by=by)
    seen = [weights(model)]
    logs = {}
    for step in range(1, 5):
        disturb(model, step, 1e-2)
        found = watcher.step()
        assert bool(found) == (step % 2 == 0)
        if found:
            seen.append(weights(model))
            logs = found
            if len(seen) == 2:
                assert_measures(logs, "", oracle(flat(seen[1]), flat(seen[0])))
    assert_measures(logs, "", oracle(flat(seen[2]), flat(seen[1]), flat(seen[0])))
    for group, names in GROUPS[by].items():
        parts = (flat(each, *names) for each in reversed(seen))
        assert_measures(logs, group, oracle(*parts))
    assert not any("embed" in key for key in logs), "it is frozen"


def test_a_parameter_of_many_chunks() -> None:
    torch.manual_seed(1)
    big = nn.Linear(_CHUNK_CPU // 64, 130)
    watcher = Watcher(big, every=1)
    from_start = Watcher(big, every=1, baseline=big.state_dict())
    seen = [weights(big)]
    for step in (1, 2):
        disturb(big, step)
        logs, since_start = watcher.step(), from_start.step()
        seen.append(weights(big))
    assert_measures(logs, "", oracle(*(flat(each) for each in reversed(seen))))
    assert_measures(since_start, "", oracle(flat(seen[2]), flat(seen[0])))


def test_a_transposed_parameter_is_read_in_its_own_order() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
    watcher = Watcher(model, every=1)
    with torch.no_grad():
        model.weight[0, 1] += 2
    assert watcher.step()["ckptdiff/relative_update"] == pytest.approx(2 / math.sqrt(55))


def test_nan_and_infinities_are_counted_and_left_out(model: Model) -> None:
    watcher = Watcher(model, every=1, by="tensor")
    before = flat(weights(model))
    disturb(model, 1)
    with torch.no_grad():
        model.layers[0].up.weight[3, 4] = math.nan
        model.layers[0].up.weight[0, 0] = -math.inf
        model.layers[1].down.bias[2] = math.inf
    logs = watcher.step()
    assert_measures(logs, "", oracle(flat(weights(model)), before))
    assert logs["ckptdiff/nan/layers.0.up.weight"] == 1
    assert logs["ckptdiff/inf/layers.0.up.weight"] == 1
    assert logs["ckptdiff/inf/layers.1.down.bias"] == 1
    assert logs["ckptdiff/inf/layers.1.down.weight"] == 0
    # nothing changes: what is not finite is equal to itself
    logs = watcher.step()
    assert (logs["ckptdiff/relative_update"], logs["ckptdiff/changed_bf16"]) == (0, 0)
    assert (logs["ckptdiff/nan"], logs["ckptdiff/inf"]) == (1, 2)
    assert "ckptdiff/cosine" not in logs, "an update of zero has no direction"


def test_zero_weights_have_no_relative_size() -> None:
    model = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(model.weight)
    watcher = Watcher(model, every=1)
    assert watcher.step()["ckptdiff/relative_update"] == 0
    nn.init.ones_(model.weight)
    assert watcher.step()["ckptdiff/relative_update"] == math.inf


def test_a_bfloat16_snapshot_sees_what_a_bfloat16_copy_sees(model: Model) -> None:
    watcher = Watcher(model, every=1, snapshot_dtype=torch.bfloat16)
    before = flat(weights(model))
    disturb(model, 1, 1e-4)
    logs = watcher.step()
    now = flat(weights(model))
    rounded = oracle(in_bfloat16(now), in_bfloat16(before))
    assert_measures(logs, "", rounded)
    # and that is more than there was, by what the module's words say
    assert rounded["relative_update"] > 1.5 * oracle(now, before)["relative_update"]


def test_memory_is_as_stated(model: Model) -> None:
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert Watcher(model).bytes_kept == 6 * count
    assert Watcher(model, snapshot_dtype=torch.bfloat16).bytes_kept == 4 * count
    assert Watcher(model, update_dtype=None).bytes_kept == 4 * count
    assert Watcher(model.to(torch.bfloat16)).bytes_kept == 4 * count
    assert Watcher(model, baseline=model.state_dict()).bytes_kept == 0


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_against_a_checkpoint(model: Model, stored: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: value.to(stored) for name, value in model.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    before = weights(model.to(stored).to(torch.float32))
    watcher = Watcher(model, every=1, baseline=tmp_path)
    for step in (1, 2, 3):
        disturb(model, step)
        logs = watcher.step()
        # always from the baseline, and without a cosine
        assert_measures(logs, "", oracle(flat(weights(model)), flat(before)))


@pytest.mark.parametrize("way", ["module", "opened", "numpy", "torch"])
def test_a_baseline_in_memory_stays_what_it_was(way: str, model: Model) -> None:
    baseline: Any = {
        "module": model,
        "opened": ckptdiff.open(model),
        "numpy": {name: value.detach().numpy() for name, value in model.named_parameters()
                  if value.dtype == torch.float32},
        "torch": model.state_dict(),
    }[way]  # fmt: skip
    include = list(baseline) if way == "numpy" else ()
    watcher = Watcher(model, every=1, baseline=baseline, include=include, by="total")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert watcher.step()["ckptdiff/relative_update"] == pytest.approx(1)


def test_a_complex_baseline_is_refused_by_name() -> None:
    layer = nn.Linear(3, 2, bias=False)
    complex_weights = {"weight": torch.ones(2, 3, dtype=torch.complex64)}
    for baseline in (complex_weights, ckptdiff.open(complex_weights)):
        with pytest.raises(ValueError, match=r"'weight' is C64, the model's parameter is real"):
            Watcher(layer, baseline=baseline)


def test_a_parameter_that_was_replaced_is_measured() -> None:
    layer = nn.Linear(3, 2, bias=False)
    watcher = Watcher(layer, every=1, by="total")
    layer.weight = nn.Parameter(3 * layer.weight.detach())
    assert watcher.step()["ckptdiff/relative_update"] == pytest.approx(2)
    layer.weight = nn.Parameter(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"'weight' is \[2, 4\] now; it was \[2, 3\]"):
        watcher.step()
    del layer.weight
    with pytest.raises(ValueError, match=r"'weight' is gone; it was \[2, 3\]"):
        watcher.step()


def test_without_float64_sums_are_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptdiff.callbacks import sums

    monkeypatch.setattr(sums, "has_float64", lambda device: False)
    assert sums.wide_dtype(torch.device("xpu")) == torch.float32
    layer = nn.Linear(30, 20, bias=False)
    watcher = Watcher(layer, every=1, by="total", baseline={"weight": layer.weight.double()})
    with torch.no_grad():
        layer.weight.mul_(2)
    assert watcher.step()["ckptdiff/relative_update"] == pytest.approx(1)


def test_a_mapping_as_baseline_is_not_the_live_weights(model: Model) -> None:
    before = weights(model)
    watcher = Watcher(model, every=1, baseline=model.state_dict())
    disturb(model, 1)
    assert_measures(watcher.step(), "", oracle(flat(weights(model)), flat(before)))


def test_globs_choose_parameters(model: Model) -> None:
    watcher = Watcher(model, every=1, include="layers.0.*", exclude=["*.bias"], by="tensor")
    groups = {key.split("/")[2] for key in watcher.step() if key.count("/") == 2}
    assert groups == {"layers.0.up.weight", "layers.0.down.weight"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"every": 0}, "every must be 1 or more"),
        ({"by": "modul"}, "module"),
        ({"include": "nothing"}, "no trainable parameter"),
        ({"baseline": {"layers.0.up.weight": np.zeros((24, 12))}}, r"no tensor 'layers.0.up.bias'"),
        ({"baseline": {"layers.0.up.weight": np.zeros((4, 4))}}, r"\[4, 4\].*\[24, 12\]"),
        ({"baseline": "no-such-folder"}, "no-such-folder"),
    ],
)
def test_trouble_is_one_line(model: Model, options: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=says) as error:
        Watcher(model, **options)
    assert "\n" not in str(error.value)


def test_sharded_parameters_are_refused(model: Model) -> None:
    model.layers[0].up.weight.ds_id = 1  # as DeepSpeed marks them
    with pytest.raises(ValueError, match=r"'layers.0.up.weight' is sharded by DeepSpeed"):
        Watcher(model)


def test_flat_parameters_are_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer as FSDP's first version wraps it, of which a process has a flat part."""
    from torch.distributed import fsdp

    monkeypatch.setattr(fsdp, "FullyShardedDataParallel", Layer)
    with pytest.raises(ValueError, match=r"^the model is sharded by FullyShardedDataParallel"):
        Watcher(model)


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watchers")
    torch.manual_seed(0)
    save_file(Model(distributed_watchers.WIDTH).state_dict(), folder / "model.safetensors")
    run_in_processes("tests.distributed_watchers", folder, ",".join(distributed_watchers.CASES))
    return folder


@pytest.mark.parametrize("case", distributed_watchers.CASES)
@pytest.mark.parametrize("way", distributed_watchers.WAYS)
def test_what_two_processes_hold_is_measured_as_the_whole(
    case: str, way: str, in_two_processes: Path
) -> None:
    expected = distributed_watchers.measured(
        Model(distributed_watchers.WIDTH), in_two_processes, way
    )
    found = [
        json.loads((in_two_processes / f"{case}.{rank}.json").read_text())[way]
        for rank in range(RANKS)
    ]
    assert found[0]["logs"] == found[1]["logs"], "the same in all processes, to the last bit"
    for logs, whole in zip(found[0]["logs"], expected["logs"], strict=True):
        assert logs.keys() == whole.keys()
        for key, value in whole.items():
            exact = key.split("/")[1] in ("nan", "inf", "changed_bf16")
            assert logs[key] == (value if exact else pytest.approx(value, rel=1e-12)), key
    # each keeps what it measures, and nothing twice
    assert sum(result["bytes"] for result in found) == expected["bytes"]
    if way != "baseline" and case != "replicated":
        assert all(result["bytes"] < expected["bytes"] for result in found)


def test_where_one_process_fails_the_other_is_told(in_two_processes: Path) -> None:
    first, second = (
        json.loads((in_two_processes / f"failure.{rank}.json").read_text()) for rank in range(RANKS)
    )
    assert second["error"].startswith("CheckpointReadError: ")
    assert first["error"] == f"ValueError: another process failed with {second['error']}"


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu(model: Model) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    logs = []
    for device, place in (("cpu", None), ("cuda", None), ("cuda", "cpu")):
        torch.manual_seed(0)
        here = Model().to(device)
        watcher = Watcher(here, every=1, device=place)
        for step in (1, 2):
            generator = torch.Generator().manual_seed(step)
            with torch.no_grad():
                for parameter in here.parameters():
                    noise = 1e-3 * torch.randn(parameter.shape, generator=generator)
                    parameter.add_(noise.to(device))
            found = watcher.step()
        logs.append(found)
    for found in logs[1:]:
        assert found == pytest.approx(logs[0], rel=1e-6)


# -- transformers ----------------------------------------------------------------------------------


class Examples(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = (torch.arange(8) * (index + 1)) % 50
        return {"input_ids": ids, "labels": ids}


@pytest.fixture
def trainer(tmp_path: Path) -> Any:
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=10,
        per_device_train_batch_size=4,
        logging_steps=5,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    return Trainer(model=model, args=arguments, train_dataset=Examples())


@pytest.mark.filterwarnings("ignore")  # of transformers and accelerate
def test_in_ten_steps_of_the_trainer(trainer: Any) -> None:
    from ckptdiff.callbacks import CkptdiffCallback
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):  # type: ignore[misc]
        """Another integration, and the weights as they were at every step."""

        def __init__(self) -> None:
            self.logged: list[tuple[int, dict[str, float]]] = []
            self.weights: dict[int, dict[str, Array]] = {}

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.weights[0] = weights(kwargs["model"])

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.weights[state.global_step] = weights(kwargs["model"])

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.logged.append((state.global_step, dict(logs)))

    recorder = Recorder()
    trainer.add_callback(recorder)
    trainer.add_callback(CkptdiffCallback(trainer, every=2))
    trainer.train()
    ours = [entry for entry in trainer.state.log_history if "ckptdiff/nan" in entry]
    assert [entry["step"] for entry in ours] == [2, 4, 6, 8, 10]
    for entry in ours:
        step = entry["step"]
        now, before = (flat(recorder.weights[at]) for at in (step, step - 2))
        earlier = flat(recorder.weights[step - 4]) if step > 2 else None
        assert_measures(entry, "", oracle(now, before, earlier))
    module = "model.layers.*.mlp.up_proj"
    assert f"ckptdiff/relative_update/{module}" in ours[0]
    # the trainer logs its loss as if we were not there, also at step 10, which is ours, too
    losses = [entry["step"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == [5, 10]
    # and other integrations are told
    steps = [step for step, logs in recorder.logged if "ckptdiff/relative_update" in logs]
    assert steps == [2, 4, 6, 8, 10]


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_against_the_initial_checkpoint(trainer: Any, tmp_path: Path) -> None:
    from ckptdiff.callbacks import CkptdiffCallback

    trainer.model.save_pretrained(tmp_path / "initial")
    before = flat(weights(trainer.model))
    trainer.add_callback(
        CkptdiffCallback(trainer, every=10, baseline=tmp_path / "initial", by="total")
    )
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "ckptdiff/nan" in entry]
    assert_measures(entry, "", oracle(flat(weights(trainer.model)), before))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_logs(
    sharded: bool, rank: int, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others measure only where the first needs their parts."""
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    from ckptdiff.callbacks import CkptdiffCallback
    from ckptdiff.callbacks import trainer as module

    logged: list[dict[str, float]] = []
    measured = 0
    measure = Watcher.measure

    def counted(self: Watcher) -> dict[str, float]:
        nonlocal measured
        measured += 1
        return measure(self)

    monkeypatch.setattr(Watcher, "measure", counted)
    monkeypatch.setattr(module, "is_sharded", lambda parameter: sharded)
    callback = CkptdiffCallback(SimpleNamespace(log=logged.append), every=2)  # type: ignore[arg-type]
    state = SimpleNamespace(is_world_process_zero=rank == 0, global_step=0)
    control = SimpleNamespace(should_log=False)
    callback.on_train_begin(None, state, control, model=model)
    for step in (1, 2, 3, 4):
        state.global_step = step
        callback.on_step_end(None, state, control)
    assert measured == (2 if sharded or rank == 0 else 0)
    assert len(logged) == (2 if rank == 0 else 0)
