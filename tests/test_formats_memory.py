"""In-memory mappings of numpy arrays and torch tensors: read where they lie, views included."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import ckptdiff
import ml_dtypes
import numpy as np
import pytest
import torch

from tests.compare import assert_rows
from tests.dtypes import DTYPES, Dtype, codes
from tests.engine import diff_rows, expected_diff, expected_stats, stats_rows
from tests.samples import CHUNK, perturbed, tame, wild
from tests.test_real_writers import TORCH_DTYPES
from tests.writers import Tensor, tensor, write_file

#: The dtypes that numpy (with ml_dtypes) keeps as a checkpoint does.
NUMPY_DTYPES = {name: dtype for name, dtype in DTYPES.items() if dtype.bits >= 8}


def numpy_array(t: Tensor) -> np.ndarray:
    dtype = DTYPES[t.dtype]
    scalar = np.dtype(np.complex64) if dtype.is_complex else dtype.scalar
    return np.frombuffer(bytearray(t.data), scalar).reshape(t.shape)


def torch_array(t: Tensor) -> torch.Tensor:
    return torch.frombuffer(bytearray(t.data), dtype=TORCH_DTYPES[t.dtype]).reshape(t.shape)


def test_every_dtype_of_numpy_and_of_torch(tmp_path: Path) -> None:
    a = {name: wild(dtype, (6, 7), 1) for name, dtype in NUMPY_DTYPES.items()}
    b = {name: perturbed(t, 2) for name, t in a.items()}
    path_b = write_file(tmp_path / "b.safetensors", b)
    expected = expected_diff(a, b)
    for make in (numpy_array, torch_array):
        in_memory = {name: make(t) for name, t in a.items()}
        assert_rows(diff_rows(in_memory, path_b), expected)
        assert_rows(stats_rows(in_memory), expected_stats(a))
        assert_rows(diff_rows(in_memory, {n: make(t) for n, t in b.items()}), expected)


def test_memory_and_file_give_the_same_report(tmp_path: Path) -> None:
    """All columns to the last bit, of tensors of more than a chunk."""
    shape = (3, CHUNK // 2 + 11)
    a = {name: tame(DTYPES[name], shape, 1) for name in ("BF16", "F32", "F64", "I64", "F8_E4M3")}
    b = {name: perturbed(t, 2) for name, t in a.items()}
    path_a = write_file(tmp_path / "a.safetensors", a)
    path_b = write_file(tmp_path / "b.safetensors", b)
    from_files = diff_rows(path_a, path_b)
    from_memory = diff_rows(
        {n: numpy_array(t) for n, t in a.items()}, {n: torch_array(t) for n, t in b.items()}
    )
    assert repr(from_files) == repr(from_memory)
    stats = ckptdiff.stats(path_a, content_hash=True)
    again = ckptdiff.stats({n: torch_array(t) for n, t in a.items()}, content_hash=True)
    assert repr(list(stats)) == repr(list(again))


def unaligned(base: np.ndarray) -> np.ndarray:
    """A copy that begins at an odd address."""
    buffer = bytearray(base.nbytes + 1)
    buffer[1:] = base.tobytes()
    return np.ndarray(base.shape, base.dtype, buffer, offset=1)


def views(base: np.ndarray) -> dict[str, np.ndarray]:
    """Every way a view can lie in memory."""
    return {
        "transposed": base.T,
        "permuted": base.transpose(2, 0, 1),
        "rows": base[1:],
        "every_second": base[:, ::2],
        "inner": base[:, :, 3:9],
        "reversed": base[::-1, :, ::-1],
        "broadcast": np.broadcast_to(base[0, 0], base.shape),
        "column": base[:, 2, 5],
        "scalar": base[1, 2, 3, ...],
        "none": base[:0],
        "none_inside": base[:, 3:3],
        "fortran": np.asfortranarray(base),
        "added": base[:, None, :, :, None],
        "unaligned": unaligned(base),
    }


@pytest.mark.parametrize(
    "dtype", [d for d in NUMPY_DTYPES.values() if d.kind != "bool"], ids=lambda d: d.name
)
def test_views_are_read_as_they_look(dtype: Dtype) -> None:
    shape = (4, 6, 11)
    in_view = views(numpy_array(wild(dtype, shape, 3)))
    contiguous = {
        name: Tensor(dtype.name, v.shape, np.ascontiguousarray(v).tobytes())
        for name, v in in_view.items()
    }
    assert_rows(stats_rows(in_view), expected_stats(contiguous))
    moved = {name: perturbed(t, 5) for name, t in contiguous.items()}
    in_file = {name: numpy_array(t) for name, t in moved.items()}
    assert_rows(diff_rows(in_view, in_file), expected_diff(contiguous, moved))
    assert_rows(diff_rows(in_file, in_view), expected_diff(moved, contiguous))


@pytest.mark.parametrize("name", ["BF16", "F8_E4M3", "F32", "C64", "I64"])
def test_views_of_torch_are_read_as_they_look(name: str) -> None:
    dtype = DTYPES[name]
    base = torch_array(wild(dtype, (4, 6, 11), 3))
    in_view = {
        "transposed": base.transpose(0, 2),
        "sliced": base[1:, ::2, 3:9],
        "expanded": base[:1, :, :].expand(5, 6, 11),
        "narrow": base.narrow(1, 2, 3),
        "scalar": base[0, 0, 0],
        "diagonal": base[:, :, :4].diagonal(dim1=0, dim2=2),
        "parameter": torch.nn.Parameter(base, requires_grad=dtype.kind in ("float", "complex")),
    }
    contiguous = {}
    for key, view in in_view.items():
        data = view.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        contiguous[key] = Tensor(name, tuple(view.shape), data)
    assert_rows(stats_rows(in_view), expected_stats(contiguous))


def test_a_large_transposed_view(tmp_path: Path) -> None:
    """More than a chunk, whose runs in memory are one element long."""
    base = numpy_array(tame(DTYPES["F32"], (1100, 1200), 1))
    moved = base.copy()
    moved[1099, 7] += 1
    rows = diff_rows({"w": base.T}, {"w": np.ascontiguousarray(moved.T)})
    assert rows["w"]["changed"] == 1
    assert rows["w"]["max_abs_index"] == (7, 1099)


def test_conjugate_and_negative_views_of_torch() -> None:
    """torch keeps these as a bit beside the same memory: reading the memory alone is wrong."""
    z = torch.tensor([1 + 2j, 3 - 4j])
    assert z.conj().is_conj()
    assert ckptdiff.diff({"w": z.conj()}, {"w": torch.tensor([1 - 2j, 3 + 4j])}).total.changed == 0
    imaginary = z.conj().imag
    assert imaginary.is_neg()
    assert ckptdiff.stats({"w": imaginary})["w"].min == -2.0


def test_nothing_is_copied(tmp_path: Path) -> None:
    """What is written after opening shows, which it would not in a copy."""
    array = np.zeros((100, 100), np.float32)
    state = torch.zeros(100, dtype=torch.bfloat16)
    checkpoint = ckptdiff.open({"array": array.T, "state": state})
    array[3, 4] = 5
    state[7] = 6
    report = ckptdiff.stats(checkpoint)
    assert (report["array"].max, report["array"].abs_max_index) == (5.0, (4, 3))
    assert report["state"].max == 6.0


def test_the_memory_stays_alive_as_long_as_the_checkpoint() -> None:
    import gc

    checkpoint = ckptdiff.open({"w": np.full(1_000_000, 7.0), "t": torch.full((1_000_000,), 7.0)})
    gc.collect()
    noise = [np.full(1_000_000, 9.0) for _ in range(4)]
    report = ckptdiff.stats(checkpoint)
    assert (report.total.min, report.total.max) == (7.0, 7.0)
    assert len(noise) == 4


def test_other_mappings_scalars_and_a_file_on_the_other_side(tmp_path: Path) -> None:
    path = write_file(tmp_path / "b.safetensors", {"w": tensor([1.0, 2.0]), "s": tensor(3.0)})
    a = MappingProxyType({"w": np.array([1, 2], np.float32), "s": np.float32(3)})
    assert ckptdiff.diff(a, path).total.verdict == "bit_identical"
    assert ckptdiff.diff(path, a).total.verdict == "bit_identical"
    assert ckptdiff.stats({}).total.numel == 0


def test_complex128_is_reduced_in_two_floats() -> None:
    values = np.array([3 + 4j, 1e-17 - 1j])
    row = ckptdiff.diff({"w": values}, {"w": values + 1j})["w"]
    assert (row.dtype_a, row.numel, row.changed, row.max_abs_index) == ("C128", 2, 2, (0, 1))
    assert row.l2 == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    "values",
    [
        {"w": [1, 2, 3]},
        {"w": "text"},
        {"w": {"nested": np.zeros(2)}},
        {"w": np.array(["a", "b"])},
        {"w": np.array([1, None], object)},
        {"w": np.zeros(3, ">f4")},
        {"w": np.zeros(3, [("x", "f4"), ("y", "i4")])},
        {"w": np.zeros(4, ml_dtypes.float4_e2m1fn)},
        {"w": np.array(["2020-01-01"], "M8[D]")},
        {"w": np.ma.masked_array([1.0, 2.0], [True, False])},
        {"w": torch.zeros(3, device="meta")},
        {"w": torch.zeros(3, 3).to_sparse()},
        {"w": np.zeros(3, np.longdouble)},
        {"w": None},
        {1: np.zeros(3)},
    ],
    ids=str,
)
def test_what_cannot_be_read_in_place_is_refused_by_name(values: dict[object, object]) -> None:
    with pytest.raises(TypeError, match=r"'w'|strings") as caught:
        ckptdiff.open(values)
    assert "\n" not in str(caught.value)


def test_codes_agree_with_the_arrays() -> None:
    """The helper of this file is right: what it makes has the bits it was given."""
    for name, dtype in NUMPY_DTYPES.items():
        if name == "BOOL":
            continue
        t = wild(dtype, (5, 3), 1)
        assert numpy_array(t).tobytes() == t.data
        assert torch_array(t).contiguous().view(torch.uint8).numpy().tobytes() == t.data
        assert codes(t.data, dtype).size == 15 * dtype.components
