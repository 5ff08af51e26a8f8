"""Tensors on a device, modules, files streamed to one, and what is said where there is none.

A CPU tensor whose address is kept from the core stands for one on a device: the way from there is
the same. Tests of a real one are marked ``gpu``.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ckptdiff
import pytest
import torch
from ckptdiff import _core
from ckptdiff.backends.torch import run
from ckptdiff.backends.torch.boxes import Box, elements_of
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cli import invoke
from tests.compare import same_but_for_sums
from tests.no_float64 import without_float64

#: What may be taken on a device beside the tensors themselves.
DEVICE_BYTES = 256_000_000

State = Mapping[str, torch.Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def on_a_device(state: State) -> ckptdiff.Checkpoint:
    """The tensors as if only torch could reach them."""
    names = {f"torch.{encoding.torch_name}": name for name, encoding in run.ENCODINGS.items()}
    described = [
        (name, names[str(value.dtype)], tuple(value.shape), (0,) * value.dim(), None)
        for name, value in state.items()
    ]
    return ckptdiff.Checkpoint(
        _core.Manifest.from_memory(described, state),
        path=None,
        format="memory",
        device_tensors=state,
    )


def assert_same_rows(
    report: ckptdiff.DiffReport | ckptdiff.StatsReport,
    engine: ckptdiff.DiffReport | ckptdiff.StatsReport,
) -> None:
    for row, expected in zip(report.tensor_rows, engine.tensor_rows, strict=True):
        assert same_but_for_sums(row, expected), (dict(row), dict(expected))


def views(seed: int) -> dict[str, torch.Tensor]:
    """Tensors that lie in memory in every way that torch has."""
    torch.manual_seed(seed)
    base = torch.randn(37, 64, 5)
    return {
        "contiguous": base,
        "transposed": base.transpose(0, 2),
        "permuted": base.permute(1, 2, 0),
        "every_other": base[::2, 1::3],
        "offset": base[3:, :, 1:],
        "expanded": base[:, :1, :1].expand(37, 9, 11),
        "scalar": base[0, 0, 0],
        "empty": base[:, :0],
        "bf16": base.bfloat16().transpose(0, 1),
        "integers": (base * 1e6).long().t() if base.dim() == 2 else (base * 1e6).long(),
        "conjugate": torch.randn(30, 3, dtype=torch.complex64).conj().t(),
        "conjugate_in_order": torch.randn(30, 3, dtype=torch.complex64).conj(),
        "negative": torch.randn(30, 3, dtype=torch.complex64).conj().imag,
        "large": torch.randn(3, 70_000).t(),
        "bool": base > 0,
    }


def test_every_way_to_lie_in_memory() -> None:
    a, b = views(1), views(2)
    report = ckptdiff.diff(on_a_device(a), on_a_device(b), atol=1.0, thresholds=[0.5])
    assert_same_rows(report, ckptdiff.diff(a, b, atol=1.0, thresholds=[0.5]))
    assert_same_rows(ckptdiff.stats(on_a_device(a)), ckptdiff.stats(a))


def test_mixed_sides(tmp_path: Path) -> None:
    a = {name: value.contiguous().clone() for name, value in views(1).items()}
    del a["conjugate"], a["conjugate_in_order"], a["negative"]
    b = {name: value for name, value in views(2).items() if name in a}
    path = tmp_path / "a.safetensors"
    save_file(a, path)
    engine = ckptdiff.diff(path, b)
    assert_same_rows(ckptdiff.diff(path, on_a_device(b)), engine)
    assert_same_rows(ckptdiff.diff(a, on_a_device(b)), engine)
    assert_same_rows(ckptdiff.diff(path, b, device="torch:cpu"), engine)


def test_a_mapping_can_have_tensors_on_the_host_and_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pairs that are on the host are left to the core."""
    a, b = views(1), views(2)
    part = on_a_device({name: a[name] for name in ("bf16", "large")})
    described = [("bf16", "BF16", (64, 37, 5), (0, 0, 0), None)]
    host = a["contiguous"]
    described.append(("contiguous", "F32", (37, 64, 5), (1280, 20, 4), host.data_ptr()))
    mixed = ckptdiff.Checkpoint(
        _core.Manifest.from_memory(described, (host,)), path=None, format="memory",
        device_tensors={"bf16": part.device_tensors["bf16"]},
    )  # fmt: skip
    names = ("bf16", "contiguous")
    other = {name: b[name] for name in names}
    engine = ckptdiff.diff({name: a[name] for name in names}, other)
    reduced: list[str] = []
    reduce = run.DiffKernel.reduce

    def watched(self: run.DiffKernel, codes: Any, dtypes: Any) -> Any:
        reduced.append(dtypes[0])
        return reduce(self, codes, dtypes)

    monkeypatch.setattr(run.DiffKernel, "reduce", watched)
    for device in (None, "cpu"):
        assert_same_rows(ckptdiff.diff(mixed, other, device=device), engine)
    assert reduced == ["BF16", "BF16"]
    assert_same_rows(ckptdiff.stats(mixed, device="cpu"), ckptdiff.stats({n: a[n] for n in names}))


def test_a_module_is_taken_as_its_state_dict(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7))
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    assert ckptdiff.diff(path, model).identical
    with torch.no_grad():
        model[0].weight.mul_(2.0)
    report = ckptdiff.diff(model, path)
    assert report["0.weight"]["rel_l2"] == pytest.approx(0.5)
    assert report.verdicts["different"] == 1
    assert set(ckptdiff.open(model)) == set(model.state_dict())


def test_rollups_and_json_are_those_of_any_report() -> None:
    a, b = views(1), views(2)
    report, engine = ckptdiff.diff(on_a_device(a), on_a_device(b)), ckptdiff.diff(a, b)
    assert report.total["max_abs_tensor"] == engine.total["max_abs_tensor"]
    assert report.total["changed"] == engine.total["changed"]
    ours, theirs = json.loads(report.to_json()), json.loads(engine.to_json())
    assert ours.keys() == theirs.keys()
    assert ours["summary"]["coverage"] == theirs["summary"]["coverage"]
    assert len(report.by("layer")) == len(engine.by("layer"))


def test_what_no_device_reduces_is_refused_by_name() -> None:
    a, b = {"w": torch.ones(3, dtype=torch.int64)}, {"w": torch.ones(3)}
    with pytest.raises(ValueError, match=r"^tensor 'w': I64 against F32 is not reduced on a devi"):
        ckptdiff.diff(on_a_device(a), b)
    c = {"w": torch.ones(3, dtype=torch.complex64)}
    with pytest.raises(ValueError, match=r"^tensor 'w': C64 against C64 cast to F32 is not reduce"):
        ckptdiff.diff(on_a_device(c), on_a_device(c), cast="F32")
    with pytest.raises(ValueError, match="a content hash is taken on the host only"):
        ckptdiff.stats(on_a_device(b), content_hash=True)


def test_the_core_does_not_read_what_lies_elsewhere() -> None:
    manifest = on_a_device({"w": torch.ones(3)}).manifest
    with pytest.raises(
        ckptdiff.InvalidCheckpointError, match=r"\"w\": lies on a device or in other"
    ):
        _core.stats(manifest)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (
            "gpu",
            "unknown device 'gpu'; one is cpu, cuda, cuda:N, mps, xpu, xpu:N, auto or torch:cpu",
        ),
        ("cuda:x", "unknown device 'cuda:x'"),
        ("cuda:", "unknown device 'cuda:'"),
        ("cuda:00", "unknown device 'cuda:00'"),
        ("cuda:٣", "unknown device 'cuda:٣'"),
        ("cpu:1", "unknown device 'cpu:1'"),
        ("cuda:99", "no device 'cuda:99': torch sees"),
        ("xpu:7", "no device 'xpu:7': torch sees none of that kind"),
    ],
)
def test_a_device_that_is_not_there_is_a_line(device: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="device") as error:
        ckptdiff.diff(path, path, device=device)
    assert str(error.value).startswith(message)
    for command in (["diff", path, path], ["stats", path], ["spectrum", path]):
        result = invoke(*command, "--device", device)
        assert (result.status, result.stdout) == (2, "")
        assert result.stderr.startswith(f"ckptdiff: error: {message}")
        assert result.stderr.count("\n") == 1


def test_without_torch_a_device_is_refused_and_auto_is_the_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ckptdiff.backends import devices

    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"^device 'cuda' needs torch, which is not installed \(pip"
    ):
        devices.resolved("cuda")
    assert devices.resolved("auto") == devices.CORE
    assert devices.resolved("cpu") == devices.CORE


@pytest.mark.parametrize("device", ["cpu", "torch:cpu"])
def test_spectra_are_taken_of_tensors_on_a_device(device: str) -> None:
    torch.manual_seed(2)
    a = {"w": torch.randn(40, 30).bfloat16(), "kernel": torch.randn(6, 30, 5).transpose(0, 1),
         "counts": torch.arange(20).reshape(4, 5), "bias": torch.randn(7)}  # fmt: skip
    b = {name: value + 1 for name, value in a.items()}
    for other in (None, b):
        here = ckptdiff.spectrum(a, other, device=device)
        there = ckptdiff.spectrum(
            on_a_device(a), None if other is None else on_a_device(other), device=device
        )
        assert [row.as_dict() for row in there] == [row.as_dict() for row in here]
        assert len(list(here)) == 3


def test_small_tensors_reduced_at_once_are_reduced_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same report, byte for byte, as one at a time, with far fewer operations."""
    torch.manual_seed(5)
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.complex64)
    a = {
        f"{number}": torch.randn(length).mul(100).to(dtype)
        for number, (dtype, length) in enumerate(
            (dtype, length) for dtype in dtypes for length in [64] * 40 + [63, 1, 0, 9000]
        )
    }
    b = {name: value + (torch.arange(value.numel()) % 7 == 0) for name, value in a.items()}
    b["3"][5], b["90"][6] = float("nan"), float("inf")

    def reports() -> list[str]:
        options: dict[str, Any] = {"device": "torch:cpu", "thresholds": [0.5], "rtol": 1e-3}
        return [
            ckptdiff.diff(a, b, **options).to_json(),
            ckptdiff.diff(a, b, histogram=True, **options).to_json(),
            ckptdiff.diff(a, on_a_device(b), **options).to_json(),
            ckptdiff.stats(b, device="torch:cpu").to_json(),
        ]

    def operations() -> int:
        with Counted() as counted:
            ckptdiff.diff(a, b, device="torch:cpu")
        return counted.operations

    at_once, few = reports(), operations()
    monkeypatch.setattr(run, "_SMALL_FLOATS", 0)
    assert reports() == at_once
    assert operations() > 4 * few


class Counted(TorchDispatchMode):
    """Counts torch's operations."""

    operations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        self.operations += 1
        return function(*arguments, **(options or {}))


class WithMore(torch.nn.Linear):
    """As Transformer Engine's modules are."""

    def get_extra_state(self) -> dict[str, int]:
        return {"amax": 3}

    def set_extra_state(self, state: object) -> None:
        pass


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_what_is_no_tensor_in_a_modules_state_is_left_out() -> None:
    model = WithMore(3, 2)
    model.register_buffer("packed", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
    notes = (
        "'_extra_state' of the module is left out: a dict, no tensor",
        "'packed' of the module is left out: it is quantised",
    )
    weights = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    report = ckptdiff.diff(weights, model)
    assert [row["name"] for row in report.tensor_rows] == ["bias", "weight"]
    assert set(report.notes) == set(notes)
    assert set(ckptdiff.stats(model).notes) == set(notes)
    # in a mapping a caller has put it there
    with pytest.raises(TypeError, match="'packed' is quantised"):
        ckptdiff.diff(weights, dict(model.state_dict()))


def test_what_reads_the_host_only_names_a_tensor_on_a_device() -> None:
    state = {"w": torch.ones(3, 2)}
    elsewhere = on_a_device(state)
    message = r"^tensor 'w' lies on a device or is spread over processes, and {} reads the host's"
    with pytest.raises(ValueError, match=message.format("mix")):
        ckptdiff.mix(elsewhere, [state])
    with pytest.raises(ValueError, match=message.format("mix")):
        ckptdiff.mix(state, [state, elsewhere])
    with pytest.raises(ValueError, match=message[1:].format("a series")):
        ckptdiff.series({"step1": state, "step2": elsewhere})


@pytest.mark.parametrize("there", ["cuda", "xpu", "mps"])
def test_auto_takes_what_is_there(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptdiff.backends import devices

    monkeypatch.setattr(devices, "_count", lambda kind: int(kind == there))
    assert devices.resolved("auto") == there
    assert devices.resolved(there) == there


@pytest.mark.parametrize("device", ["cpu", "cpu:0", "torch:cpu", "cpu-torch", "auto"])
def test_every_command_takes_the_same_names(device: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.randn(30, 20)}, path)
    for command in (["diff", path, path], ["stats", path], ["spectrum", path]):
        outcome = invoke(*command, "--device", device)
        assert (outcome.status, outcome.stderr.count("error")) == (0, 0)


def test_the_command_line_takes_a_device(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.randn(1000, 5)}, path)
    other = tmp_path / "b.safetensors"
    save_file({"w": torch.randn(1000, 5)}, other)
    outcomes = [
        invoke("diff", path, other, "--format", "json", *device)
        for device in ([], ["--device", "torch:cpu"], ["--device", "cpu"])
    ]
    assert [outcome.status for outcome in outcomes] == [1, 1, 1]
    assert outcomes[0].stdout == outcomes[2].stdout
    rows = [json.loads(outcome.stdout)["tensors"][0]["max_abs"] for outcome in outcomes]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("command", ["pass", "import ckptdiff.api", "import ckptdiff.cli.group"])
def test_torch_is_not_imported_unless_it_is_wanted(command: str) -> None:
    program = f"import ckptdiff, sys; ckptdiff.diff; {command}; print('torch' in sys.modules)"
    completed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert completed.stdout.strip() == "False"
    assert importlib.util.find_spec("torch") is not None


def test_a_device_without_float64_reduces_what_it_can(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As MPS is; what it cannot is brought chunk by chunk."""
    brought: list[str] = []
    reduce = run.DiffKernel.reduce

    def watched(self: run.DiffKernel, codes: Any, dtypes: Any) -> Any:
        brought.append(dtypes[0])
        return reduce(self, codes, dtypes)

    monkeypatch.setattr(run.DiffKernel, "reduce", watched)
    a, b = views(1), views(2)
    a["bf16"], b["bf16"] = a["bf16"] * 1e30, b["bf16"] * 1e38
    engine = ckptdiff.diff(a, b, atol=1.0, thresholds=[0.5])
    with without_float64() as chunks:
        report = ckptdiff.diff(on_a_device(a), on_a_device(b), atol=1.0, thresholds=[0.5])
        stats = ckptdiff.stats(on_a_device(a))
    assert_same_rows(report, engine)
    assert_same_rows(stats, ckptdiff.stats(a))
    assert chunks["reduced"] == 2 * (len(a) - 1 + 3)  # one is empty, one has four chunks
    assert set(brought) == {"BF16"}
    brought.clear()
    path = tmp_path / "b.safetensors"
    save_file({name: value.contiguous().clone() for name, value in b.items()}, path)
    with without_float64() as chunks:
        mixed = ckptdiff.diff(on_a_device(a), path, atol=1.0, thresholds=[0.5])
    assert_same_rows(mixed, engine)
    assert chunks["at risk"] == len(brought) > 0
    assert set(brought) == {"BF16"}


def test_files_that_need_float64_are_left_to_the_core(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``meta`` stands for a device that is not the CPU and has no float64."""
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.randn(100, dtype=torch.float64)}, path)
    monkeypatch.setattr(run, "_torch_device", lambda device: torch.device("meta"))
    monkeypatch.setattr(run, "has_float64", lambda device: False)
    for report in (ckptdiff.diff(path, path, device="torch:cpu"),
                   ckptdiff.stats(path, device="torch:cpu")):  # fmt: skip
        assert report["w"]["numel"] == 100


# -- files on their way ---------------------------------------------------------------------------


def test_a_run_of_elements_is_read_into_a_buffer(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    value = torch.arange(100, dtype=torch.int16).view(10, 10)
    save_file({"w": value}, path)
    manifest = ckptdiff.open(path).manifest
    buffer = bytearray(14)
    manifest.read_into(0, 33, 40, buffer)
    assert torch.frombuffer(buffer, dtype=torch.int16).tolist() == list(range(33, 40))
    with pytest.raises(ValueError, match="elements 95 to 101 are not in its 100"):
        manifest.read_into(0, 95, 101, bytearray(12))
    with pytest.raises(ValueError, match="expected a buffer of 14 bytes, found 15"):
        manifest.read_into(0, 33, 40, bytearray(15))
    with pytest.raises(ValueError, match="expected a writable, contiguous buffer"):
        manifest.read_into(0, 33, 40, bytes(14))  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="no tensor of that index"):
        manifest.read_into(1, 0, 1, bytearray(2))


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.randn(400_000)}, path)
    opened = ckptdiff.open(path)
    with path.open("r+b") as file:
        file.truncate(1_000_000)
    with pytest.raises(ckptdiff.CheckpointReadError, match=r"a\.safetensors: tensor \"w\""):
        ckptdiff.stats(opened, device="torch:cpu")


def test_progress_tells_all_bytes_and_can_stop_the_run(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.randn(400_000)}, path)
    told: list[tuple[int, int]] = []
    ckptdiff.diff(path, path, device="torch:cpu", on_progress=lambda *at: told.append(at))
    assert told[-1] == (3_200_000, 3_200_000)
    assert told == sorted(told)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ckptdiff.diff(path, path, device="torch:cpu", on_progress=stop)


def test_boxes_name_the_same_elements_as_slices() -> None:
    shape = (4, 5, 6)
    whole = torch.arange(120).view(shape)
    for box in (Box((0, 0, 0), shape), Box((1, 0, 0), (2, 5, 6)), Box((0, 1, 0), (4, 3, 6)),
                Box((1, 2, 3), (2, 2, 2)), Box((3, 4, 5), (1, 1, 1))):  # fmt: skip
        part = whole
        for dimension, (offset, size) in enumerate(zip(box.offsets, box.sizes, strict=True)):
            part = part.narrow(dimension, offset, size)
        held = part.reshape(-1)
        for start in range(0, box.numel, 7):
            stop = min(start + 9, box.numel)
            assert elements_of(part, start, stop).equal(held[start:stop])
            runs = [i for run in box.runs(shape, start, stop) for i in range(*run)]
            assert runs == held[start:stop].tolist()
            assert box.index_in(shape, start) == held[start]


# -- memory ---------------------------------------------------------------------------------------


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations have made and that still live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def ignore(self, tensor: torch.Tensor) -> None:
        """Count no storage of a tensor that was there before."""
        self._seen.add(tensor.untyped_storage()._cdata)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._seen:
                    self._seen.add(storage._cdata)
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return result

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64", "complex128", "int64"])
def test_the_device_holds_little_beside_the_tensors(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a GPU's chunks, and all options at once, by the storages that torch makes."""
    monkeypatch.setattr(run, "CPU_CHUNK_FLOATS", run.CHUNK_FLOATS)
    torch.manual_seed(0)
    size = run.CHUNK_FLOATS * 5 // 4
    a = (torch.randn(size) * 100).to(getattr(torch, dtype))
    b = (torch.randn(size) * 100).to(getattr(torch, dtype)) + a
    options: dict[str, Any] = {"atol": 1.0, "thresholds": (0.5, 1.0), "histogram": True}
    for cast in (None, "BF16"):
        if cast and "complex" in dtype:
            continue
        kernel = run.DiffKernel(
            run.Tables(torch.device("cpu"), torch.float64), cast=cast, **options
        )
        name = {"bfloat16": "BF16", "float32": "F32", "float64": "F64", "complex128": "C128",
                "int64": "I64"}[dtype]  # fmt: skip
        encoding = run.ENCODINGS[name]
        step = run.CHUNK_FLOATS // encoding.components
        with LiveBytes() as memory, torch.no_grad():
            chunks = [run.codes_of(side[:step].clone(), encoding) for side in (a, b)]
            kernel.reduce(chunks, (name, name))
            stats = run.StatsKernel(run.Tables(torch.device("cpu"), torch.float64), True)
            stats.reduce(chunks[:1], (name,))
        print(f"{dtype}, cast to {cast}: {memory.peak / 1e6:.0f} MB")  # noqa: T201
        assert 30_000_000 < memory.peak < DEVICE_BYTES


@pytest.mark.parametrize("name", ["BF16", "F32", "C64", "I64", "F8_E4M3"])
def test_a_device_without_float64_holds_little_beside_the_tensors(name: str) -> None:
    encoding = run.ENCODINGS[name]
    torch.manual_seed(0)
    chunks = [torch.randint(0, 120, (run.CHUNK_FLOATS,)).to(encoding.code_dtype) for _ in range(2)]
    tables = run.Tables(torch.device("cpu"), torch.float32)
    kernel = run.SingleDiffKernel(tables, 1.0, 0.1, (0.5, 1.0), True)
    with LiveBytes() as memory, torch.no_grad():
        kernel.reduce([chunk.clone() for chunk in chunks], (name, name))
        of_diff = memory.peak
    with LiveBytes() as memory, torch.no_grad():
        run.SingleStatsKernel(tables, True).reduce([chunks[0].clone()], (name,))
    print(f"{name}: {of_diff / 1e6:.0f} MB, {memory.peak / 1e6:.0f} MB")  # noqa: T201
    assert 30_000_000 < max(of_diff, memory.peak) < DEVICE_BYTES


# -- a real device --------------------------------------------------------------------------------


@pytest.fixture
def moved() -> tuple[State, State]:
    a, b = ({name: value.cuda() for name, value in views(seed).items()} for seed in (1, 2))
    return a, b


@pytest.mark.gpu
def test_tensors_on_a_gpu_are_reduced_there(
    moved: tuple[State, State], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    largest = 0
    to_host = torch.Tensor.cpu

    def watched(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return to_host(tensor)

    a, b = views(1), views(2)
    engine = ckptdiff.diff(a, b)
    monkeypatch.setattr(torch.Tensor, "cpu", watched)
    with ToTheHost() as copies:
        assert_same_rows(ckptdiff.diff(*moved), engine)
    assert max(largest, copies.largest) < 10_000, "weights have come to the host"
    monkeypatch.undo()
    assert_same_rows(ckptdiff.stats(moved[0]), ckptdiff.stats(a))
    del a["conjugate"], a["conjugate_in_order"], a["negative"]
    path = tmp_path / "a.safetensors"
    save_file({name: value.contiguous().clone() for name, value in a.items()}, path)
    live = {name: value for name, value in moved[1].items() if name in a}
    host = {name: value for name, value in b.items() if name in a}
    assert_same_rows(ckptdiff.diff(path, live), ckptdiff.diff(path, host))


class ToTheHost(TorchDispatchMode):
    """The most elements that an operation has copied from a GPU to the host."""

    largest = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        result = function(*arguments, **(options or {}))
        tensors = [each for each in arguments if isinstance(each, torch.Tensor)]
        on_host = isinstance(result, torch.Tensor) and result.device.type == "cpu"
        if on_host and any(tensor.device.type == "cuda" for tensor in tensors):
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["default_device", "other_stream", "second_gpu"])
def test_a_gpu_is_used_as_the_caller_has_set_it(way: str, tmp_path: Path) -> None:
    if way == "second_gpu" and torch.cuda.device_count() < 2:
        pytest.skip("needs a second CUDA device, and torch sees one")
    torch.manual_seed(4)
    a = {"w": torch.randn(3_000_000), "v": torch.randn(50, 70).bfloat16()}
    b = {name: value * 1.5 for name, value in a.items()}
    path = tmp_path / "a.safetensors"
    save_file(a, path)
    engine = ckptdiff.diff(a, b)
    device = "cuda:1" if way == "second_gpu" else "cuda"
    with torch.device("cuda" if way == "default_device" else "cpu"):
        stream = torch.cuda.Stream(device) if way == "other_stream" else None
        with torch.cuda.stream(stream):
            # queued on that stream, and not waited for
            live = {name: value.to(device, non_blocking=True) * 1.5 for name, value in a.items()}
            assert_same_rows(ckptdiff.diff(path, live), engine)
            assert_same_rows(ckptdiff.diff(path, live, device=device), engine)
            assert_same_rows(ckptdiff.stats(path, device=device), ckptdiff.stats(a))


@pytest.mark.gpu
def test_a_gpu_holds_little_beside_the_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {"w": torch.randn(20_000_000), "v": torch.randn(20_000_000).bfloat16()}
    path = tmp_path / "a.safetensors"
    save_file(state, path)
    live = {name: value.cuda() for name, value in state.items()}
    options: dict[str, Any] = {"atol": 1.0, "thresholds": (0.5, 1.0), "histogram": True}
    for a, b in ((live, live), (path, live), (path, path)):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ckptdiff.diff(a, b, device="cuda", **options)
        assert torch.cuda.max_memory_allocated() - before < DEVICE_BYTES
