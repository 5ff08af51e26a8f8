"""What a device has to hold beside the tensors, counted over whole runs: one tensor that no copy of
would fit, in every way to lie, and many small ones. With a GPU's chunks and every option at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ckptdiff
import pytest
import torch
from ckptdiff.backends.torch import run

from tests.no_float64 import without_float64
from tests.test_torch_devices import DEVICE_BYTES, LiveBytes, on_a_device
from tests.writers import write_sparse

OPTIONS: dict[str, Any] = {"atol": 1.0, "thresholds": (0.5, 1.0), "histogram": True}

#: Of the sides of a huge matrix: 68 thousand million elements.
SIDE = 1 << 18


@pytest.fixture(autouse=True)
def chunks_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(run, "CPU_CHUNK_FLOATS", run.CHUNK_FLOATS)


class EnoughError(Exception):
    """What is to be seen has been."""


def peak_of(work: Callable[..., object], inputs: Mapping[str, torch.Tensor]) -> int:
    """The most bytes that live at once beside the inputs, in the first three chunks of some work.

    A copy of more than a chunk would be made with the first.
    """
    told = 0

    def three_chunks(done: int, total: int) -> None:
        nonlocal told
        told += 1
        if told == 3:
            raise EnoughError

    with LiveBytes() as memory:
        for value in inputs.values():
            memory.ignore(value)
        with suppress(EnoughError):
            work(on_progress=three_chunks)
    assert told == 3
    print(f"{memory.peak / 1e6:.0f} MB")  # noqa: T201
    return memory.peak


def expanded(dtype: torch.dtype) -> torch.Tensor:
    torch.manual_seed(0)
    return (torch.randn(1, SIDE) * 100).to(dtype).expand(SIDE, SIDE)


WAYS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rows": lambda value: value,
    "columns": lambda value: value.t(),
    "every other": lambda value: value[1::2, 1::2],
    "conjugate": lambda value: value.conj().t(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex64])
def test_a_tensor_that_no_copy_of_would_fit(way: str, dtype: torch.dtype) -> None:
    value = WAYS[way](expanded(dtype))
    side = on_a_device({"w": value})
    for peak in (
        peak_of(lambda **o: ckptdiff.diff(side, side, **OPTIONS, **o), {"w": value}),
        peak_of(lambda **o: ckptdiff.stats(side, histogram=True, **o), {"w": value}),
    ):
        assert 20_000_000 < peak < DEVICE_BYTES


def test_the_same_without_float64() -> None:
    side = on_a_device({"w": expanded(torch.float32).t()})
    tensors: Any = side.device_tensors
    with without_float64():
        peak = peak_of(lambda **o: ckptdiff.diff(side, side, **OPTIONS, **o), tensors)
        assert 20_000_000 < peak < DEVICE_BYTES


@pytest.mark.parametrize("dtype", ["F64", "BF16", "F8_E4M3"])
def test_a_file_that_no_memory_holds(dtype: str, tmp_path: Path) -> None:
    """Buffers of the host are counted, too, as they are on the CPU."""
    path = write_sparse(tmp_path / "a.safetensors", {"w": (SIDE, SIDE // 16)}, dtype)
    peak = peak_of(lambda **o: ckptdiff.diff(path, path, device="torch:cpu", **OPTIONS, **o), {})
    assert 20_000_000 < peak < DEVICE_BYTES


@pytest.mark.parametrize("axes", [None, (1, 0)])
def test_one_that_is_put_together(axes: tuple[int, ...] | None) -> None:
    state = {"a": expanded(torch.float32), "b": expanded(torch.float32)[:, ::2]}
    half = (SIDE // 4, SIDE // 2)
    parts = [(0, SIDE, half, axes), (1, SIDE // 2 + 5, half, axes)]
    items: list[Any] = [("w", (2, SIDE // 4 * SIDE // 2), parts)]
    side = on_a_device(state).deriving(items, {})
    peak = peak_of(lambda **o: ckptdiff.diff(side, side, **OPTIONS, **o), state)
    assert 20_000_000 < peak < DEVICE_BYTES


@pytest.mark.parametrize("without", [False, True])
def test_many_tensors_take_no_more_than_one(without: bool) -> None:
    state = {f"w{number}": torch.randn(100) for number in range(140)}
    side = on_a_device(state)
    peaks = []
    for count in (70, 140):
        some = {name: state[name] for name in list(state)[:count]}
        side = on_a_device(some)
        with LiveBytes() as memory:
            for value in some.values():
                memory.ignore(value)
            if without:
                with without_float64():
                    ckptdiff.diff(side, side, **OPTIONS)
            else:
                ckptdiff.diff(side, side, **OPTIONS)
        peaks.append(memory.peak)
    print(peaks)  # noqa: T201
    # the histograms of 64 chunks, twice when they are fetched
    assert peaks[0] == peaks[1] < 3_000_000
