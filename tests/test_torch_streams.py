"""Files on their way to a GPU, whose streams and buffers are played by the CPU; and what a caller
may have told torch: nothing of that may change a number.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ckptdiff
import numpy as np
import pytest
import torch
from ckptdiff.backends.torch import reading, run
from ckptdiff.callbacks import Watcher
from ckptdiff.spectra.arithmetic import TorchMatrix
from torch.utils._python_dispatch import TorchDispatchMode

from tests import fake_cuda
from tests.distributed_watchers import Model, disturb
from tests.no_float64 import without_float64
from tests.test_torch_devices import assert_same_rows, on_a_device, views

#: As many as one chunk of a pair has.
SIDES = 2


@dataclasses.dataclass
class Pattern:
    """A request whose bytes are its number."""

    number: int
    bytes: int

    def fill(self, view: memoryview) -> None:
        np.frombuffer(view, np.uint8)[:] = self.number  # type: ignore[call-overload]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> fake_cuda.Cuda:
    cuda = fake_cuda.Cuda()
    monkeypatch.setattr(reading, "torch", fake_cuda.Torch(cuda))
    return cuda


@pytest.mark.parametrize("late", [True, False])
def test_every_chunk_is_reduced_as_it_was_read(late: bool, cuda: fake_cuda.Cuda) -> None:
    """With the device far behind, and with one that has always finished."""
    requests = [Pattern(number, 50 + number) for number in range(200)]
    seen: list[tuple[int, ...]] = []
    most = 0
    with reading.ReadAhead(iter(requests), 300, cuda.device) as files:  # type: ignore[arg-type]
        for _ in range(len(requests) // SIDES):
            for moved in [files.take() for _ in range(SIDES)]:
                data = moved.data
                cuda.default.put(lambda data=data: seen.append(tuple(data)))
            del moved, data
            files.release()
            if not late:
                cuda.default.synchronize()
            most = max(most, cuda.blocks)
        cuda.default.synchronize()
    assert seen == [(request.number,) * request.bytes for request in requests]
    # four chunks that wait for the device, and the one that is being queued
    assert most <= SIDES * (4 + 1)


def test_a_read_that_fails_is_told_in_its_turn(cuda: fake_cuda.Cuda) -> None:
    class Broken(Pattern):
        def fill(self, view: memoryview) -> None:
            raise OSError("it is gone")

    requests: list[Pattern] = [Pattern(1, 10), Pattern(2, 10), Broken(3, 10), Pattern(4, 10)]
    with reading.ReadAhead(iter(requests), 10, cuda.device) as files:  # type: ignore[arg-type]
        taken = [files.take(), files.take()]
        with pytest.raises(OSError, match="it is gone"):
            files.take()
    cuda.default.synchronize()
    assert [set(moved.data) for moved in taken] == [{1}, {2}]
    assert not [thread for thread in threading.enumerate() if "ckptdiff" in thread.name]


def test_the_host_does_not_run_ahead_of_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = 0

    def synchronize() -> None:
        nonlocal waits
        waits += 1

    monkeypatch.setattr(torch.mps, "synchronize", synchronize)
    with reading.ReadAhead(iter(()), 0, torch.device("mps")) as files:
        for _ in range(20):
            files.release()
    assert waits == 5


def test_a_full_gpu_still_has_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "zeros", full)
    run.has_float64.cache_clear()
    assert run.has_float64(torch.device("cuda", 0))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run.has_float64(torch.device("xpu", 0))
    run.has_float64.cache_clear()


# -- what a caller has told torch ------------------------------------------------------------------


@contextmanager
def default_device() -> Iterator[None]:
    """``meta``, on which whatever is made has no elements."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def coarse_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


MODES: dict[str, Callable[[], Any]] = {
    "default device": default_device,
    "default bfloat16": lambda: default_dtype(torch.bfloat16),
    "default float64": lambda: default_dtype(torch.float64),
    "inference": torch.inference_mode,
    "gradients": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "deterministic": deterministic,
    "coarse products": coarse_products,
}
every_mode = pytest.mark.parametrize("mode", MODES)


@every_mode
def test_diff_and_stats_do_not_depend_on_it(mode: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    a, b = views(1), views(2)
    a["wide"], b["wide"] = a["large"] * 1e38, b["large"] * 1e38  # brought to the CPU
    a["float8"], b["float8"] = (side["bf16"].float() for side in (a, b))
    path = tmp_path / "a.safetensors"
    plain = {name: side.contiguous() for name, side in a.items() if "n" not in name}
    save_file({name: value.clone() for name, value in plain.items()}, path)
    options: dict[str, Any] = {"atol": 0.1, "thresholds": [0.5], "histogram": True}
    engine, of_stats = ckptdiff.diff(a, b, **options), ckptdiff.stats(a, histogram=True)
    for value in b.values():
        if value.dtype.is_floating_point and value.is_leaf:
            value.requires_grad_()
    for without in (False, True):
        with MODES[mode]():
            if not without:
                report = ckptdiff.diff(on_a_device(a), on_a_device(b), **options)
                stats = ckptdiff.stats(on_a_device(a), histogram=True)
                file = ckptdiff.stats(path, device="torch:cpu")
            else:
                with without_float64():
                    report = ckptdiff.diff(on_a_device(a), on_a_device(b), **options)
                    stats = ckptdiff.stats(on_a_device(a), histogram=True)
                    file = ckptdiff.stats(path, device="torch:cpu")
        assert_same_rows(report, engine)
        assert_same_rows(stats, of_stats)
        assert_same_rows(file, ckptdiff.stats(path))


@every_mode
def test_a_watcher_does_not_depend_on_it(mode: str, tmp_path: Path) -> None:
    """Made under it and not, measured under it and not."""
    from safetensors.torch import save_file

    expected: list[dict[str, float]] = []
    for made_under, measured_under in ((False, False), (True, True), (True, False), (False, True)):
        torch.manual_seed(0)
        model = Model()
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        with contextmanager_of(mode, made_under):
            watchers = [
                Watcher(model, every=1),
                Watcher(model, every=1, baseline=tmp_path / "model.safetensors"),
            ]
        found = []
        for step in range(2):
            disturb(model, step)
            with contextmanager_of(mode, measured_under):
                found += [watcher.step() for watcher in watchers]
        expected = expected or found
        assert found == expected


@contextmanager
def contextmanager_of(mode: str, under: bool) -> Iterator[None]:
    if not under:
        yield
        return
    with MODES[mode]():
        yield


class Products(TorchDispatchMode):
    """Notes of which dtypes matrices are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if any(name in str(function) for name in ("mm", "matmul")):
            self.dtypes |= {value.dtype for value in args if isinstance(value, torch.Tensor)}
        return function(*args, **(kwargs or {}))


@every_mode
@pytest.mark.parametrize("wide", [torch.float64, torch.float32])
def test_a_spectrum_does_not_depend_on_it(wide: torch.dtype, mode: str) -> None:
    """Of float64 no shorter product is made, so TF32 has no part in it; Metal has float32."""
    values = np.random.default_rng(0).standard_normal((70, 50)).astype(np.float32)
    thin = np.random.default_rng(1).standard_normal((50, 6))
    with MODES[mode](), Products() as products:
        matrix = TorchMatrix(70, 50, [values], "cpu")
        matrix._wide = wide
        found = [matrix.times(thin), matrix.transposed_times(matrix.times(thin))]
        eigenvalues = matrix.gram_eigenvalues()
    assert products.dtypes == {wide, torch.float64}
    exact = values.astype(np.float64)
    tolerance = 1e-12 if wide == torch.float64 else 1e-4
    np.testing.assert_allclose(found[0], exact @ thin, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found[1], exact.T @ (exact @ thin), rtol=0, atol=20 * tolerance)
    np.testing.assert_allclose(eigenvalues, np.linalg.eigvalsh(exact.T @ exact), atol=1e-11)
