"""``Manifest.derived``: other tensors in the same bytes, whatever those bytes lie in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import ckptdiff
import numpy as np
import pytest
import safetensors.numpy
import torch
from ckptdiff import _core
from ckptdiff._core import Manifest
from ckptdiff.checkpoint import Checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.writers import Tensor, write_file

ROWS, COLUMNS = 24, 10


def matrix() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(ROWS, COLUMNS)).astype(np.float32)


def in_one_file(folder: Path) -> Manifest:
    safetensors.numpy.save_file({"x": matrix(), "y": matrix() + 1}, folder / "x.safetensors")
    return ckptdiff.open(folder / "x.safetensors").manifest


def in_two_pieces(folder: Path) -> Manifest:
    """Cut within a row, as a shard of a flattened parameter is."""
    data = matrix().tobytes()
    (folder / "one").write_bytes(b"-" * 3 + data[:100])
    (folder / "two").write_bytes(b"-" * 5 + data[100:])
    files = [str(folder / "one"), str(folder / "two")]
    shape = (ROWS, COLUMNS)
    spans = [(0, 3, 100), (1, 5, len(data) - 100)]
    return Manifest.from_spans(files, [("x", "F32", shape, spans)])


def transposed(folder: Path) -> Manifest:
    """A view whose elements lie apart."""
    torch.save({"x": torch.from_numpy(matrix().T.copy()).T}, folder / "x.pt")
    return ckptdiff.open(folder / "x.pt").manifest


def deflated(folder: Path) -> Manifest:
    np.savez_compressed(folder / "x.npz", x=matrix())
    return ckptdiff.open(folder / "x.npz").manifest


def in_boxes(folder: Path) -> Manifest:
    """Sharded along both dimensions."""
    values = matrix()
    data, parts = b"", []
    for row, rows in ((0, 7), (7, ROWS - 7)):
        for column, columns in ((0, 4), (4, COLUMNS - 4)):
            parts.append((0, len(data), (row, column), (rows, columns), None))
            data += values[row : row + rows, column : column + columns].tobytes()
    (folder / "x").write_bytes(data)
    boxed = ("x", "F32", (ROWS, COLUMNS), parts)
    return Manifest.from_spans([str(folder / "x")], [], parted=[boxed])


def interleaved(folder: Path) -> Manifest:
    """Two groups of rows, in each those of its halves by turns."""
    groups = matrix().reshape(2, 2, ROWS // 4, COLUMNS)
    (folder / "x").write_bytes(groups.swapaxes(1, 2).tobytes())
    rows = ("x", "F32", (ROWS, COLUMNS), 0, 0, 2)
    return Manifest.from_spans([str(folder / "x")], [], interleaved=[rows])


def in_memory(folder: Path) -> Manifest:
    return ckptdiff.open({"x": matrix()}).manifest


def apart_in_memory(folder: Path) -> Manifest:
    return ckptdiff.open({"x": np.repeat(matrix(), 2, axis=1)[:, ::2]}).manifest


def derived_once(folder: Path) -> Manifest:
    """Of a manifest that is derived itself."""
    turned = ckptdiff.open({"x": matrix().T.copy()}).manifest
    part = (0, 0, (COLUMNS, ROWS), (1, 0))
    return turned.derived([("x", (ROWS, COLUMNS), [part])])


SOURCES: list[Callable[[Path], Manifest]] = [
    in_one_file,
    in_two_pieces,
    transposed,
    deflated,
    in_boxes,
    interleaved,
    in_memory,
    apart_in_memory,
    derived_once,
]


@pytest.mark.parametrize("io", _core.io_names())
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_every_kind_of_source(source: Callable[[Path], Manifest], io: str, tmp_path: Path) -> None:
    manifest = source(tmp_path)
    index = manifest.find("x")
    assert index is not None
    x = matrix()
    cut = 5 * COLUMNS
    derived = manifest.derived(
        [
            ("whole", index),
            ("rows", (3, COLUMNS), [(index, cut, (3, COLUMNS), None)]),
            ("flat", (7,), [(index, 13, (7,), None)]),
            ("turned", (COLUMNS, ROWS), [(index, 0, (ROWS, COLUMNS), (1, 0))]),
            (
                "joined",
                (2 * COLUMNS, 5),
                [
                    (index, cut, (5, COLUMNS), (1, 0)),
                    (index, 0, (5, COLUMNS), (1, 0)),
                ],
            ),
            ("cube", (5, 4, 6), [(index, 0, (4, 6, 5), (2, 0, 1))]),
            ("mixed", (4, COLUMNS), [(index, 0, (3, COLUMNS), None), (index, cut, (10,), None)]),
            ("none", (0, COLUMNS), [(index, cut, (0, COLUMNS), None)]),
        ]
    )
    expected = {
        "whole": x,
        "rows": x[5:8],
        "flat": x.reshape(-1)[13:20],
        "turned": x.T,
        "joined": np.concatenate([x[5:10].T, x[:5].T]),
        "cube": x.reshape(-1)[:120].reshape(4, 6, 5).transpose(2, 0, 1),
        "mixed": np.concatenate([x[:3], x[5:6]]),
        "none": x[:0],
    }
    report = ckptdiff.diff(
        Checkpoint(derived, path=None, format="memory"), expected, io=io, map="none"
    )
    assert len(report) == len(expected)
    assert report.identical, report
    assert derived.metadata == manifest.metadata
    assert derived.files == manifest.files


def test_what_lies_in_one_piece_is_one_span(tmp_path: Path) -> None:
    manifest = in_one_file(tmp_path)
    halves = [(0, 0, (12, COLUMNS), None), (0, 12 * COLUMNS, (12, COLUMNS), None)]
    again = manifest.derived([("x", (ROWS, COLUMNS), halves), ("z", 1)])
    assert again.tensor(0)[4] == manifest.tensor(0)[4]
    assert again.tensor(1)[4] == manifest.tensor(1)[4]
    turned = manifest.derived([("x", (COLUMNS, ROWS), [(0, 0, (ROWS, COLUMNS), (1, 0))])])
    assert turned.tensor(0)[4] == []


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64", "C64", "U8", "F8_E4M3"])
def test_large_matrices_in_many_blocks(dtype: str, tmp_path: Path) -> None:
    """A transposed matrix is gathered in blocks, which threads ask for in any order."""
    shape = (700, 513)
    width = {"F32": 4, "BF16": 2, "F64": 8, "C64": 8, "U8": 1, "F8_E4M3": 1}[dtype]
    count = math.prod(shape)
    data = np.random.default_rng(2).integers(0, 100, count * width, np.uint8).reshape(*shape, width)
    file = write_file(tmp_path / "x.safetensors", {"x": Tensor(dtype, shape, data.tobytes())})
    turned = Tensor(dtype, shape[::-1], np.ascontiguousarray(data.swapaxes(0, 1)).tobytes())
    expected = write_file(tmp_path / "y.safetensors", {"x": turned})
    manifest = ckptdiff.open(file).manifest.derived([("x", shape[::-1], [(0, 0, shape, (1, 0))])])
    checkpoint = Checkpoint(manifest, path=None, format="memory")
    for threads in (1, 3):
        assert ckptdiff.diff(checkpoint, expected, threads=threads).identical


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 6), max_size=3),
    order=st.randoms(use_true_random=False),
)
def test_any_cut_put_together_in_any_order(
    shape: list[int], cuts: list[int], order: object
) -> None:
    values = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    edges = sorted({0, shape[0], *(min(cut, shape[0]) for cut in cuts)})
    pieces = list(itertools.pairwise(edges))
    order.shuffle(pieces)  # type: ignore[attr-defined]
    row = values[0].size
    axes = [0, *reversed(range(1, len(shape)))]
    parts = [(0, first * row, (last - first, *shape[1:]), axes) for first, last in pieces]
    expected = np.concatenate([values[first:last].transpose(axes) for first, last in pieces])
    manifest = ckptdiff.open({"x": values}).manifest.derived([("x", expected.shape, parts)])
    checkpoint = Checkpoint(manifest, path=None, format="memory")
    assert ckptdiff.diff(checkpoint, {"x": expected}).identical


def test_packed_elements_are_whole_bytes(tmp_path: Path) -> None:
    packed = Tensor("F6_E2M3", (24,), bytes(range(18)))
    manifest = ckptdiff.open(write_file(tmp_path / "x.safetensors", {"x": packed})).manifest
    part = manifest.derived([("y", (8,), [(0, 4, (8,), None)])])
    assert part.bytes == 6
    expected = Tensor("F6_E2M3", (8,), packed.data[3:9])
    other = write_file(tmp_path / "y.safetensors", {"y": expected})
    assert ckptdiff.diff(Checkpoint(part, path=None, format="x"), other).identical


PACKED = ("packed", "F4", (6,), [(0, 0, 3)])
UNKNOWN = ("unknown", "F5", (3,), [(0, 0, 3)])
PLAIN = ("plain", "U8", (2, 3), [(0, 0, 6)])
OTHER = ("other", "I8", (6,), [(0, 0, 6)])

REFUSED = [
    ([("a", 4)], r'tensor "a": it is made of tensor 4 of 4'),
    ([("a", 1), ("a", 2)], r'there are two tensors "a"'),
    ([("a", (1,), [(9, 0, (1,), None)])], "made of tensor 9 of 4"),
    ([("a", (7,), [(2, 0, (7,), None)])], r'beyond the 6 elements of "plain"'),
    ([("a", (6,), [(2, 1, (6,), None)])], "from element 1 on reaches beyond"),
    ([("a", (6,), [(2, 2**64 - 1, (6,), None)])], "reaches beyond"),
    ([("a", (2**63, 4), [(2, 0, (2**63, 4), None)])], "reaches beyond"),
    ([("a", (5,), [(2, 0, (6,), None)])], r"its parts have 6 elements, its shape \[5\] takes 5"),
    ([("a", (2**63, 4), [(2, 0, (6,), None)])], "takes too many"),
    ([("a", (), [])], "its parts have 0 elements"),
    ([("a", (12,), [(2, 0, (6,), None), (0, 0, (6,), None)])], '"other" is I8, and the part bef'),
    ([("a", (3,), [(3, 0, (3,), None)])], '"unknown" of F5 can only be taken whole'),
    ([("a", (3,), [(1, 0, (3,), None)])], "of packed F4 cannot be cut at element 3"),
    ([("a", (3, 2), [(1, 0, (2, 3), (1, 0))])], "or transposed"),
    ([("a", (3, 2), [(2, 0, (2, 3), (1, 1))])], r"axes \[1, 1\] do not permute shape \[2, 3\]"),
    ([("a", (3, 2), [(2, 0, (2, 3), (0,))])], "do not permute"),
    ([("a", (3, 2), [(2, 0, (2, 3), (0, 2))])], "do not permute"),
]


@pytest.mark.parametrize(("items", "problem"), REFUSED, ids=[problem for _, problem in REFUSED])
def test_what_does_not_fit_is_refused(items: list[object], problem: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(6))
    manifest = Manifest.from_spans([str(tmp_path / "x")], [PACKED, UNKNOWN, PLAIN, OTHER])
    assert manifest.names() == ["other", "packed", "plain", "unknown"]
    with pytest.raises(ValueError, match=problem):
        manifest.derived(items)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "item", [(), ("a",), ("a", "b"), (1, 0), ("a", -1), ("a", (1,), [(0,)]), 7]
)
def test_an_item_of_another_form(item: object, tmp_path: Path) -> None:
    with pytest.raises((TypeError, OverflowError, ValueError)):
        in_one_file(tmp_path).derived([item])  # type: ignore[list-item]


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    manifest = in_one_file(tmp_path)
    part = (0, 0, (ROWS, COLUMNS), (1, 0))
    derived = manifest.derived([("turned", (COLUMNS, ROWS), [part])])
    file = tmp_path / "x.safetensors"
    file.write_bytes(file.read_bytes()[:-1200])
    checkpoint = Checkpoint(derived, path=None, format="x")
    with pytest.raises(ckptdiff.CheckpointReadError, match=r'x.safetensors: tensor "turned"'):
        ckptdiff.stats(checkpoint)
