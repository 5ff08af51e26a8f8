"""Tensors on a device that a map puts together from others, against the core's view of the same."""

from __future__ import annotations

from typing import Any

import ckptdiff
import pytest
import torch
from ckptdiff.backends.torch import run
from ckptdiff.backends.torch.arranged import Arranged, BoxOfArranged, HeldPiece
from ckptdiff.backends.torch.boxes import Box
from ckptdiff.backends.torch.codes import ENCODINGS
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layouts import NORMS_AFTER, experts_one_by_one, hugging_face_model, olmo, state_of
from tests.test_torch_devices import assert_same_rows, on_a_device

Parts = list[tuple[int, int, tuple[int, ...], tuple[int, ...] | None]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def laid(kind: str, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """24 × 10 × 4 values that lie in memory in one way or another."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(24, 10, 4, generator=generator).to(dtype)
    if kind == "transposed":
        return values.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    if kind == "turned rows":
        return values.transpose(1, 2).contiguous().transpose(1, 2)
    if kind == "lazy":  # torch has yet to turn the sign, of all or of the imaginary part
        if dtype.is_complex:
            return values.conj()
        return values if dtype != torch.float32 else torch.complex(values, values).conj().imag
    if kind == "every other":
        return torch.stack([values, values + 1], dim=2).reshape(24, 20, 4)[:, ::2]
    return values


@st.composite
def pieces(draw: st.DrawFn) -> tuple[tuple[str, ...], tuple[int, ...], Parts]:
    """How three tensors lie, the shape of one made of pieces of them, and those."""
    kinds = st.sampled_from(["plain", "transposed", "turned rows", "every other", "lazy"])
    parts: Parts = []
    for _ in range(draw(st.integers(1, 5))):
        size = draw(st.sampled_from([(4, 10), (40,), (10, 4), (2, 5, 4), (8, 5), (1, 40)]))
        first = draw(st.sampled_from([0, 40, 80, 60, 7, 920]))
        axes = draw(st.one_of(st.none(), st.permutations(range(len(size)))))
        parts.append((draw(st.integers(0, 2)), first, size, None if axes is None else tuple(axes)))
    return draw(st.tuples(kinds, kinds, kinds)), (len(parts), 40), parts


@settings(max_examples=80, deadline=None)
@given(
    made=pieces(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.complex64, torch.int64]),
    on_host=st.sets(st.integers(0, 2), max_size=2),
    chunk=st.sampled_from([16, 64, 1 << 16]),
)
def test_pieces_are_those_of_the_core(
    made: tuple[tuple[str, ...], tuple[int, ...], Parts],
    dtype: torch.dtype,
    on_host: set[int],
    chunk: int,
) -> None:
    kinds, shape, parts = made
    used = [part[0] for part in parts]
    items: list[Any] = [("made", shape, parts)]
    sides = []
    for seed in (0, 10):
        state = {f"w{n}": laid(kind, n + seed, dtype) for n, kind in enumerate(kinds)}
        whole = ckptdiff.open(state)
        held = {name: value for name, value in state.items() if int(name[1]) not in on_host}
        device = on_a_device(held) if not set(used) & on_host else mixed(state, held)
        items_here = items
        if not set(used) & on_host:
            names = sorted(held)
            items_here = [("made", shape, [(names.index(f"w{p[0]}"), *p[1:]) for p in parts])]
        sides.append((device.deriving(items_here, {}), whole.deriving(items, {})))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "CPU_CHUNK_FLOATS", chunk)
        for device_side, host_side in sides:
            assert ckptdiff.diff(device_side, host_side).verdicts["bit_identical"] == 1
        (device_a, host_a), (device_b, host_b) = sides
        report = ckptdiff.diff(device_a, device_b, atol=0.5, device="torch:cpu")
        assert_same_rows(report, ckptdiff.diff(host_a, host_b, atol=0.5))
        stats = ckptdiff.stats(device_a, device="torch:cpu")
        assert_same_rows(stats, ckptdiff.stats(host_a))


def mixed(state: dict[str, torch.Tensor], held: dict[str, torch.Tensor]) -> ckptdiff.Checkpoint:
    """All of the tensors, of which some can be reached by torch alone."""
    whole = ckptdiff.open(state)
    return ckptdiff.Checkpoint(whole.manifest, path=None, format="memory", device_tensors=held)


def test_a_box_of_one_has_its_elements() -> None:
    a, b = torch.randn(12, 9), torch.randn(9, 20)
    arranged = Arranged([HeldPiece(a, 18, (6, 9), None), HeldPiece(b, 0, (9, 20), (1, 0))], (26, 9))
    whole = torch.cat([a[2:8], b.t()])
    for box in (
        Box((0, 0), (26, 9)),
        Box((4, 0), (7, 9)),
        Box((5, 2), (9, 6)),
        Box((0, 8), (26, 1)),
    ):
        expected = whole
        for dimension, (offset, size) in enumerate(zip(box.offsets, box.sizes, strict=True)):
            expected = expected.narrow(dimension, offset, size)
        held = BoxOfArranged(arranged, box)
        for start in range(0, box.numel, 11):
            stop = min(box.numel, start + 17)
            codes = held.codes(start, stop, ENCODINGS["F32"], torch.device("cpu"))
            assert codes.view(torch.float32).equal(expected.reshape(-1)[start:stop])


def test_nothing_is_made_whole() -> None:
    """Of an expanded tensor of 8 GB, which no copy of would fit."""
    wide = torch.randn(1, 40_000).expand(50_000, 40_000)
    piece = HeldPiece(wide, 40_000, (40_000, 40_000), (1, 0))
    arranged = BoxOfArranged(
        Arranged([piece, piece], (80_000, 40_000)), Box((0, 0), (80_000, 40_000))
    )
    codes = arranged.codes(39_990, 40_010, ENCODINGS["F32"], torch.device("cpu"))
    assert codes.view(torch.float32).equal(wide[0, :2].repeat_interleave(torch.tensor([10, 10])))


@pytest.mark.parametrize("family", ["Olmo2", "Olmoe"])
@pytest.mark.parametrize("forward", [True, False])
def test_a_layout_of_several_in_one(
    family: str, forward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """q, k and v, up and gate, and experts: from one into several, and back, on a device."""
    monkeypatch.setattr(run, "CPU_CHUNK_FLOATS", 1000)
    stored = state_of(hugging_face_model(family))
    other = olmo(stored, NORMS_AFTER) if family == "Olmo2" else experts_one_by_one(stored)
    a, b = (stored, other) if forward else (other, stored)
    live = on_a_device({name: torch.tensor(value) for name, value in a.items()})
    report = ckptdiff.diff(live, b)
    assert report.identical
    assert report.coverage["a"].complete
    assert report.coverage["b"].complete
    changed = {name: value + (value > 1) for name, value in b.items()}
    assert_same_rows(ckptdiff.diff(live, changed), ckptdiff.diff(a, changed))


def test_parts_of_what_is_spread_over_processes_are_refused() -> None:
    class Spread:
        placements = ()

    from ckptdiff.backends.derived import derived_tensors

    manifest = ckptdiff.open({"w": torch.ones(4, 2)}).manifest
    items: list[Any] = [("made", (2, 2), [(0, 0, (2, 2), None)])]
    with pytest.raises(
        ValueError, match=r"^tensor 'made' is made of parts of 'w', which is spread"
    ):
        derived_tensors({"w": Spread()}, manifest, items)
