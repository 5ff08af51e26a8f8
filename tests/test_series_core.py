"""One read of many checkpoints, against float64 numpy: every entry of every Gram matrix."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ckptdiff import _core
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from tests.accuracy import CASES
from tests.dtypes import DTYPES
from tests.engine import ISA_LEVELS, manifest, rows_of
from tests.gguf_writers import dequantised, write_gguf
from tests.oracle import exact
from tests.samples import CHUNK, fitting, perturbed, tame, wild
from tests.writers import Tensor, Tensors, tensor, write_file, write_sparse

#: A trunk, two branches from its second checkpoint, and a root of its own.
TREE = (-1, 0, 1, 1, 3, -1)

Floats = NDArray[np.float64]


def manifests(folder: Path, checkpoints: Sequence[Tensors]) -> list[_core.Manifest]:
    return [
        manifest(write_file(folder / f"{index}.safetensors", tensors))
        for index, tensors in enumerate(checkpoints)
    ]


def series(
    checkpoints: Sequence[_core.Manifest], parents: Sequence[int], **options: Any
) -> _core.SeriesRun:
    return _core.series(checkpoints, [None] * len(checkpoints), parents, **options)


def chain(count: int) -> list[int]:
    return [index - 1 for index in range(count)]


def grams(run: _core.SeriesRun) -> Floats:
    count = len(run.stats)
    return np.frombuffer(run.gram, "<f8").reshape(len(run.names), count, count)


@np.errstate(all="ignore")
def values(
    tensors: Sequence[Tensor], parts: int = 0, integers: type[np.floating[Any]] = np.float64
) -> NDArray[np.longdouble]:
    """(N, elements, parts) of any dtypes; a real number beside complex ones has a part of 0.

    64-bit integers that float64 does not hold are the nearest one, unless told otherwise.
    """
    parts = parts or max(DTYPES[tensor.dtype].components for tensor in tensors)
    rows = []
    for each in tensors:
        own = DTYPES[each.dtype].components
        row = exact(each).astype(integers).astype(np.longdouble).reshape(-1, own)
        rows.append(np.pad(row, ((0, 0), (0, parts - own))))
    return np.array(rows)


@np.errstate(all="ignore")
def expected_gram(
    w: NDArray[np.longdouble], parents: Sequence[int]
) -> tuple[NDArray[np.longdouble], int]:
    """The Gram matrix of the updates, and the elements that it is of."""
    finite = np.isfinite(w).all(axis=(0, 2))
    w = w[:, finite].reshape(len(w), -1)
    u = np.array([x if p < 0 else x - w[p] for x, p in zip(w, parents, strict=True)])
    return np.array([[(x * y).sum() for y in u] for x in u]), int(finite.sum())


#: What an entry may be off by, relative to the norms that it is a product of.
SINGLE, DOUBLE = 2e-7, 1e-12


def precision_of(tensors: Sequence[Tensor]) -> float:
    """What is held against the entries where products may be float32."""
    few_bits = (
        DTYPES[tensor.dtype].bits <= 16 and tensor.dtype not in ("U16", "I16") for tensor in tensors
    )
    return SINGLE if all(few_bits) else DOUBLE


@np.errstate(all="ignore")
def assert_gram(
    found: Floats, expected: NDArray[np.longdouble], what: object, within: float = DOUBLE
) -> None:
    """Every entry; Inf where it is too large."""
    norms = np.sqrt(np.diag(expected))
    as_float64 = expected.astype(np.float64)
    error = np.abs(found - expected)
    close = error <= within * np.outer(norms, norms) + np.finfo(np.float64).smallest_subnormal
    assert np.all(close | (found == as_float64)), (what, found, as_float64)


@np.errstate(all="ignore")
def in_bf16(x: NDArray[np.longdouble]) -> NDArray[np.longdouble]:
    """The nearest multiple of the last of 8 bits, or of the smallest step; Inf from 2**128 on."""
    step = np.maximum(np.frexp(x)[1] - 8, -133)
    rounded = np.ldexp(np.rint(np.ldexp(x, -step)), step)
    rounded = np.where(np.abs(rounded) >= 2.0**128, np.copysign(np.inf, x), rounded)
    return np.where(np.isfinite(x), rounded, x)


def changed_in_bf16(parent: Tensor, child: Tensor) -> int:
    """Elements whose values differ once both are rounded to bf16."""
    parts = max(DTYPES[each.dtype].components for each in (parent, child))
    a, b = (in_bf16(values([each], parts, np.longdouble)[0]) for each in (parent, child))
    return int(((a != b) & ~(np.isnan(a) & np.isnan(b))).any(axis=1).sum())


def assert_is(
    run: _core.SeriesRun,
    checkpoints: Sequence[Tensors],
    parents: Sequence[int],
    within: float | None = None,
) -> None:
    """Every product, every count of finite and of changed elements, of every tensor."""
    assert len(run.names) > 0
    for name in run.names:
        assert_row_is(run, name, checkpoints, parents, within)


def assert_row_is(
    run: _core.SeriesRun,
    name: str,
    checkpoints: Sequence[Tensors],
    parents: Sequence[int],
    within: float | None = None,
) -> None:
    row = run.names.index(name)
    w = values([tensors[name] for tensors in checkpoints])
    expected, finite = expected_gram(w, parents)
    within = within or precision_of([tensors[name] for tensors in checkpoints])
    assert_gram(grams(run)[row], expected, name, within)
    assert (run.finite[row], run.numel[row]) == (finite, w.shape[1]), name
    for child, parent in enumerate(parents):
        changed = run.changed_bf16[child]
        assert (changed is None) == (parent < 0)
        if changed is not None:
            count = int(np.frombuffer(changed, "<u8")[row])
            assert count == changed_in_bf16(checkpoints[parent][name], checkpoints[child][name])


LENGTHS = (0, 1, 7, 8, 9, 511, 512, 513, 2047, 2048, 2049, 5000)


def drifting(first: Tensors, parents: Sequence[int], share: float) -> list[Tensors]:
    """Each checkpoint is its parent with a share of the elements changed, or something else."""
    checkpoints: list[Tensors] = []
    for index, parent in enumerate(parents):
        before = first if parent < 0 else checkpoints[parent]
        changes = {
            n: perturbed(t, 31 * index + k, share) for k, (n, t) in enumerate(before.items())
        }
        checkpoints.append(first if index == 0 else changes)
    return checkpoints


@pytest.mark.parametrize("name", list(DTYPES))
def test_every_dtype_and_length(name: str, tmp_path: Path) -> None:
    """Of ordinary values, and of any that the dtype has: NaN, Inf, subnormals, extremes."""
    dtype = DTYPES[name]
    first = {}
    for length in LENGTHS:
        shape = (fitting(length, dtype),)
        first[f"tame.{length}"] = tame(dtype, shape, length)
        first[f"wild.{length}"] = wild(dtype, shape, length)
    checkpoints = drifting(first, TREE, 0.02)
    sides = manifests(tmp_path, checkpoints)
    for isa in ISA_LEVELS:
        assert_is(series(sides, TREE, isa=isa), checkpoints, TREE)
    assert_is(series(sides, TREE, precision="double"), checkpoints, TREE, DOUBLE)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F8_E4M3"])
def test_products_in_float32_on_data_that_sums_go_wrong_on(dtype: str, tmp_path: Path) -> None:
    """The accuracy suite, and data that repeat: norms within 1e-7, as the contract has it."""
    rng = np.random.default_rng(8)
    sides = {case.name: case.make(rng, 9_000) for case in CASES if dtype in case.dtypes}
    # an update of which 16 squares, rounded one by one in float32, are 2.7e-7 too few
    sides["constant that rounds down"] = np.full(8192, -0.0146484375), np.full(8192, 1.3203125)
    for period in (1, 2, 3, 5, 6, 7, 8, 12, 100):
        for trial in range(20):
            a, b = rng.normal(0, 1, (2, period))
            sides[f"period {period} {trial}"] = np.resize(a, 8192), np.resize(b, 8192)
    unrelated = {name: rng.normal(0, 1, len(a)) for name, (a, _) in sides.items()}
    checkpoints: list[Tensors] = [
        {name: tensor(a, dtype) for name, (a, _) in sides.items()},
        {name: tensor(b, dtype) for name, (_, b) in sides.items()},
        {name: tensor(values, dtype) for name, values in unrelated.items()},
    ]
    parents = [-1, 0, 0]
    opened = manifests(tmp_path, checkpoints)
    run = series(opened, parents)
    assert_is(run, checkpoints, parents, SINGLE)
    assert_is(series(opened, parents, precision="double"), checkpoints, parents, DOUBLE)
    for row, name in enumerate(run.names):
        expected, _ = expected_gram(values([t[name] for t in checkpoints]), parents)
        norms = np.sqrt(np.diag(expected)).astype(np.float64)
        np.testing.assert_allclose(np.sqrt(np.diag(grams(run)[row])), norms, rtol=1e-7)


def test_sums_of_ordinary_updates_in_float32_are_better_than_the_contract(tmp_path: Path) -> None:
    """Updates of bf16 weights as training makes them."""
    rng = np.random.default_rng(9)
    w = rng.normal(0, 0.02, 40_000)
    checkpoints: list[Tensors] = []
    for _ in range(9):
        checkpoints.append({"w": tensor(w, "BF16")})
        w = w + rng.normal(0, 2e-4, w.size)
    run = series(manifests(tmp_path, checkpoints), chain(9))
    assert_is(run, checkpoints, chain(9), 3e-8)
    # products were indeed in float32
    with pytest.raises(AssertionError):
        assert_is(run, checkpoints, chain(9), DOUBLE)


def test_the_way_there_and_back_is_no_way(tmp_path: Path) -> None:
    """Roundings of a product and of its negative are the same, so that distances of 0 are."""
    rng = np.random.default_rng(10)
    a, b = rng.normal(0, 1, (2, 10_000))
    checkpoints: list[Tensors] = [{"w": tensor(w, "BF16")} for w in (b, a, b, a, b)]
    gram = grams(series(manifests(tmp_path, checkpoints), chain(5)))[0]
    assert gram[1:3, 1:3].sum() == gram[1:5, 1:5].sum() == gram[2:4, 2:4].sum() == 0
    assert gram[1, 1] > 0


def test_an_unknown_precision(tmp_path: Path) -> None:
    sides = manifests(tmp_path, [{"w": tensor([1.0])}])
    with pytest.raises(ValueError, match=r'"half", expected "single" or "double"'):
        series(sides, [-1], precision="half")


def test_a_dtype_for_each_checkpoint(tmp_path: Path) -> None:
    """As where a run is kept in float32 and published in bfloat16, and any others."""
    names = ("F32", "BF16", "F16", "F64", "F8_E4M3", "I8", "C64", "BF16", "U16", "F4", "F32")
    values = np.random.default_rng(1).normal(0, 2, 4096).clip(-4, 4)
    checkpoints = [{"w": tensor(np.round(values + 0.1 * i), name)} for i, name in enumerate(names)]
    parents = chain(len(names))
    for isa in ISA_LEVELS:
        run = series(manifests(tmp_path, checkpoints), parents, isa=isa)
        assert_is(run, checkpoints, parents)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_K", "Q6_K"])
def test_a_quantised_checkpoint_among_others(kind: str, tmp_path: Path) -> None:
    """Blocks of 32 or 256 elements that share a scale, beside complex numbers and bfloat16."""
    import gguf

    values = np.random.default_rng(2).normal(0, 1, (8, 256)).astype(np.float32)
    raw = gguf.quants.quantize(values, GGMLQuantizationType.Q8_0)
    decoded = dequantised("Q8_0", raw)
    if kind != "Q8_0":
        # The package has no quantisers for these; any bytes with sane scales are a tensor.
        raw = (
            np.random.default_rng(3)
            .integers(
                0, 60, (8, gguf.quant_shape_to_byte_shape((8, 256), GGMLQuantizationType[kind])[1])
            )
            .astype(np.uint8)
        )
        decoded = dequantised(kind, raw)
    as_floats = Tensor("F32", (8, 256), decoded.astype("<f4").tobytes())
    complex_numbers = tensor(values + 1j * values[::-1], "C64")
    narrow = tensor(values, "BF16")
    sides = [
        manifest(write_file(tmp_path / "0.safetensors", {"w": narrow})),
        manifest(write_gguf(tmp_path / "1.gguf", {"w": (kind, raw)})),
        manifest(write_file(tmp_path / "2.safetensors", {"w": complex_numbers})),
    ]
    for count in (2, 3):
        checkpoints = [{"w": t} for t in (narrow, as_floats, complex_numbers)][:count]
        # Q4_0 has few bits, though the oracle has its values in float32.
        within = SINGLE if kind == "Q4_0" and count == 2 else DOUBLE
        assert_is(series(sides[:count], chain(count)), checkpoints, chain(count), within)


def test_stats_and_diffs_are_those_of_their_own_runs(tmp_path: Path) -> None:
    """To the last bit, as they are of the same kernels and chunks."""
    first = {f"{d.name}": wild(d, (fitting(3000, d),), 5) for d in DTYPES.values()}
    first["large"] = tame(DTYPES["BF16"], (2, CHUNK // 2 + 300), 1)
    first["empty"] = tame(DTYPES["F32"], (0, 4), 1)
    checkpoints = drifting(first, TREE, 0.1)
    sides = manifests(tmp_path, checkpoints)
    run = series(sides, TREE)
    assert run.bytes_read == sum(side.bytes for side in sides)
    assert_row_is(run, "large", checkpoints, TREE)  # of two chunks
    for child, parent in enumerate(TREE):
        rows = len(run.names)
        stats = _core.stats(sides[child])
        assert run.stats[child].json_rows(0, rows) == stats.json_rows(0, rows)
        table = run.diffs[child]
        assert (table is None) == (parent < 0)
        if table is not None:
            alone = _core.diff(_core.Pairing(sides[parent], sides[child]))
            assert table.json_rows(0, rows) == alone.json_rows(0, rows)


@pytest.fixture(scope="module")
def several_chunks(tmp_path_factory: pytest.TempPathFactory) -> list[_core.Manifest]:
    first = {"large": tame(DTYPES["BF16"], (2, CHUNK // 2 + 3000), 1)}
    first |= {f"{name}": wild(DTYPES[name], (70_000,), 2) for name in ("F32", "F8_E4M3")}
    first |= {f"small.{i}": wild(DTYPES["F64"], (3 * i,), i) for i in range(20)}
    return manifests(tmp_path_factory.mktemp("chunks"), drifting(first, TREE[:5], 0.2))


@pytest.fixture(scope="module")
def of_one_thread(several_chunks: list[_core.Manifest]) -> list[object]:
    return everything(series(several_chunks, TREE[:5], threads=1, isa=ISA_LEVELS[-1]))


def everything(run: _core.SeriesRun) -> list[object]:
    tables = [table for table in [*run.stats, *run.diffs] if table is not None]
    return [
        run.names, run.numel, run.finite, run.gram, run.changed_bf16, run.bytes_read,
        *(table.json_rows(0, len(table)) for table in tables),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("isa", "threads", "io"),
    [*((isa, 2, "read") for isa in ISA_LEVELS), (None, 1, "mapped"), (None, 3, "auto")],
)
def test_any_threads_level_and_reading(
    isa: str | None,
    threads: int,
    io: str,
    several_chunks: list[_core.Manifest],
    of_one_thread: list[object],
) -> None:
    run = series(several_chunks, TREE[:5], threads=threads, isa=isa, io=io)
    assert everything(run) == of_one_thread


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 17])
def test_any_number_of_checkpoints(count: int, tmp_path: Path) -> None:
    """Around every tile of the product, with repeats of the parent, whose rows are left out."""
    rng = np.random.default_rng(count)
    w = rng.normal(0, 0.02, 1500)
    checkpoints: list[Tensors] = []
    for index in range(count):
        moves = index % 5 != 3
        w = w + moves * rng.normal(0, 1e-3, w.size)
        checkpoints.append({"w": tensor(w, "F32")})
    run = series(manifests(tmp_path, checkpoints), chain(count))
    assert_is(run, checkpoints, chain(count))


EXTREMES: dict[str, tuple[str, Sequence[float]]] = {
    "F32 of 1e30": ("F32", (1e30, -1e30, 2e30, 1e30)),
    "F32 of 1e-40": ("F32", (1e-40, 3e-40, -1e-40, 2e-40)),
    "F64 of 1e150": ("F64", (1e150, -1e150, 2e150, 1e150)),
    "F64 of 1e-150": ("F64", (1e-150, -1e-150, 2e-150, 3e-150)),
    "F64 whose squares overflow": ("F64", (1e200, -1e200, 3e200, 1e200)),
    "F64 whose squares vanish": ("F64", (1e-200, -1e-200, 3e-200, 1e-200)),
    "F64 whose differences overflow": ("F64", (1.7e308, -1.7e308, 1.7e308, -1e308)),
    "F64 large beside small": ("F64", (1e200, 1e200, 1e200 + 1e185, 1e-200)),
    "F64 that cancels": ("F64", (1.0, 1e170, -1e170, 1e-170)),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_magnitudes(name: str, tmp_path: Path) -> None:
    """No sum overflows or vanishes on its way; one that float64 does not hold is its nearest."""
    dtype, magnitudes = EXTREMES[name]
    rng = np.random.default_rng(3)
    signs = rng.choice([-1.0, 1.0], 3000)
    checkpoints = [{"w": tensor(m * signs * rng.uniform(0.5, 1, 3000), dtype)} for m in magnitudes]
    run = series(manifests(tmp_path, checkpoints), chain(len(magnitudes)))
    assert_is(run, checkpoints, chain(len(magnitudes)))
    # Products of the first with itself: what overflows on the diagonal may still be held.
    w = values([tensors["w"] for tensors in checkpoints])
    expected, _ = expected_gram(w, chain(len(magnitudes)))
    with np.errstate(all="ignore"):
        held = np.isfinite(expected.astype(np.float64))
    assert np.isfinite(grams(run)[0][held]).all()


def test_products_across_scales_do_not_vanish(tmp_path: Path) -> None:
    """1e200 times 1e-200 is 1, though neither's square is a float64."""
    ones = np.ones(1000)
    checkpoints = [{"w": tensor(ones * 1e200, "F64")}, {"w": tensor(ones * 1e-200, "F64")}]
    run = _core.series(manifests(tmp_path, checkpoints), [None, None], [-1, -1])
    assert grams(run)[0].tolist()[0] == [np.inf, pytest.approx(1000.0, rel=1e-12)]
    assert grams(run)[0].tolist()[1] == [pytest.approx(1000.0, rel=1e-12), 0.0]


def test_differences_beyond_float64(tmp_path: Path) -> None:
    """An update of 3.4e308 is no float64, but its product with one of 1e-200 is."""
    signs = np.random.default_rng(6).choice([-1.0, 1.0], 700)
    checkpoints: list[Tensors] = [
        {"w": tensor(x * signs, "F64")} for x in (1.7e308, -1.7e308, 1e-200, -1.7e308)
    ]
    run = series(manifests(tmp_path, checkpoints), [-1, 0, -1, 0])
    assert_is(run, checkpoints, [-1, 0, -1, 0])
    assert grams(run)[0][1, 2] == pytest.approx(-3.4e108 * 700, rel=1e-12)


def test_distances_of_all_pairs_without_cancellation(tmp_path: Path) -> None:
    """Steps of 1e-9 of the weights: sums of G still have every distance."""
    rng = np.random.default_rng(4)
    w = rng.normal(0, 1, 5000)
    steps = [np.zeros_like(w), *(rng.normal(0, 1e-9, w.size) for _ in range(6))]
    positions = np.cumsum(steps, axis=0) + w
    checkpoints = [{"w": tensor(row, "F64")} for row in positions]
    gram = grams(series(manifests(tmp_path, checkpoints), chain(len(positions))))[0]
    for s in range(len(positions)):
        for t in range(s + 1, len(positions)):
            distance = np.sqrt(gram[s + 1 : t + 1, s + 1 : t + 1].sum())
            expected = np.linalg.norm(positions[t] - positions[s])
            assert distance == pytest.approx(expected, rel=1e-9, abs=0)


def test_an_element_that_is_not_finite_anywhere_is_left_out_everywhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(0, 1, (4, 700))
    rows[2, 13], rows[3, 600], rows[0, 601] = np.nan, np.inf, -np.inf
    checkpoints: list[Tensors] = [{"w": tensor(row, "F32")} for row in rows]
    run = series(manifests(tmp_path, checkpoints), chain(4))
    assert run.finite == [697]
    assert_is(run, checkpoints, chain(4))
    parts = rows[:, :600].astype(np.float32).view(np.complex64)
    checkpoints = [{"w": tensor(row, "C64")} for row in parts]
    run = series(manifests(tmp_path, checkpoints), chain(4))
    assert run.finite == [299]
    assert_is(run, checkpoints, chain(4))


def test_what_not_all_have(tmp_path: Path) -> None:
    def weight(*shape: int) -> Tensor:
        return tame(DTYPES["F32"], shape, 1)

    sides = manifests(
        tmp_path,
        [
            {"a": weight(4), "b10": weight(3), "b9": weight(3), "d": weight(6), "x": weight(1)},
            {"a": weight(4), "b10": weight(3), "b9": weight(3), "d": weight(2, 3)},
            {"a": weight(4), "b9": weight(3), "c": weight(3), "d": weight(2, 3)},
        ],
    )  # fmt: skip
    run = series(sides, chain(3))
    assert run.names == ["a", "b9"]
    assert run.numel == [4, 3]
    assert run.not_common == [("b10", [2]), ("c", [0, 1]), ("d", [0]), ("x", [1, 2])]


def test_a_dtype_that_nobody_decodes(tmp_path: Path) -> None:
    sides = [
        manifest(write_file(tmp_path / "0.safetensors", {"w": tame(DTYPES["F32"], (4,), 1)})),
        _core.Manifest.from_spans([], [("w", "TQ9_Z", (4,), ())]),
    ]
    run = series(sides, chain(2))
    assert (run.names, run.not_common) == ([], [("w", [1])])
    assert (run.gram, len(run.stats[0])) == (b"", 0)
    with_another_shape = _core.Manifest.from_spans([], [("w", "TQ9_Z", (5,), ())])
    run = series([sides[1], with_another_shape], chain(2))
    assert run.not_common == [("w", [0, 1])]


def test_names_rename_and_leave_out(tmp_path: Path) -> None:
    first = {"a": tensor([1.0, 2.0]), "b": tensor([3.0]), "c": tensor([0.5])}
    second = {"model.a": tensor([1.5, 2.0]), "model.b": tensor([1.0]), "model.c": tensor([0.5])}
    sides = manifests(tmp_path, [first, second])
    run = _core.series(sides, [bytes([0, 0, 1]), ["a", "z", None]], [-1, 0])
    assert (run.names, run.not_common) == (["a"], [("b", [1]), ("z", [0])])
    assert grams(run)[0].tolist() == [[5.0, 0.5], [0.5, 0.25]]
    assert list(rows_of(run.stats[1])) == ["a"]
    assert run.diffs[1] is not None
    assert list(rows_of(run.diffs[1])) == ["a"]
    backwards = _core.series(sides[::-1], [["a", "z", None], bytes([0, 0, 1])], [-1, 0])
    assert (backwards.names, backwards.not_common) == (["a"], [("b", [0]), ("z", [1])])
    assert list(rows_of(backwards.stats[0])) == ["a"]


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    sides = manifests(tmp_path, [{"w": tensor([1.0])}] * 2)
    for parents in ([0, 0], [-1, 1], [-1, 2], [-1, -2]):
        with pytest.raises(ValueError, match=r"parent of checkpoint \d is"):
            series(sides, parents)
    with pytest.raises(ValueError, match="2 manifests, 1 names and 2 parents"):
        _core.series(sides, [None], [-1, 0])
    with pytest.raises(ValueError, match="one at least"):
        _core.series([], [], [])
    with pytest.raises(ValueError, match=r"names\[1\] has 3 entries for 1 tensors"):
        _core.series(sides, [None, bytes(3)], [-1, 0])
    two = manifests(tmp_path, [{"v": tensor([1.0]), "w": tensor([1.0])}])
    with pytest.raises(ValueError, match='"v" and "w" would both be paired as "x"'):
        _core.series(two, [["x", "x"]], [-1])


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    sides = manifests(tmp_path, [{"w": tame(DTYPES["BF16"], (CHUNK,), i)} for i in range(3)])
    with (tmp_path / "1.safetensors").open("r+b") as file:
        file.truncate(CHUNK)
    for io in _core.io_names():
        with pytest.raises(
            _core.CheckpointReadError, match=r'1\.safetensors: tensor "w": the file ends'
        ):
            series(sides, chain(3), io=io)


def test_progress_and_interruption(several_chunks: list[_core.Manifest]) -> None:
    told: list[tuple[int, int]] = []
    run = series(
        several_chunks, TREE[:5], on_progress=lambda done, total: told.append((done, total))
    )
    assert told[-1] == (run.bytes_read, run.bytes_read)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        series(several_chunks, TREE[:5], on_progress=stop)


_PEAK = """
import sys
from pathlib import Path
from ckptdiff import _core
sides = [_core.Manifest.from_safetensors(path) for path in sys.argv[2:]]
parents = list(range(-1, len(sides) - 1))
run = _core.series(sides, [None] * len(sides), parents, threads=int(sys.argv[1]))
# Not getrusage: a child starts with its parent's peak.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(run.bytes_read, int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs sparse files and /proc")
@pytest.mark.parametrize(("count", "threads"), [(16, 2), (64, 2), (64, 16)])
def test_64_checkpoints_in_150_megabytes(count: int, threads: int, tmp_path: Path) -> None:
    shapes = {"w": (3, 1_000_000), "v": (1000, 1001), "norm": (4096,)}
    paths = [write_sparse(tmp_path / f"{i}.safetensors", shapes) for i in range(count)]
    completed = subprocess.run(
        [sys.executable, "-c", _PEAK, str(threads), *paths],
        check=True,
        capture_output=True,
        text=True,
    )
    bytes_read, peak = map(int, completed.stdout.split())
    print(f"{count} checkpoints, {threads} threads: peak {peak / 1e6:.0f} MB")  # noqa: T201
    assert bytes_read > count * 8_000_000
    assert peak < 150_000_000


def mean_in_float32(parts: Sequence[Floats]) -> NDArray[np.float32]:
    singles = [part.astype(np.float32) for part in parts]
    total = singles[0]
    for single in singles[1:]:
        total = total + single
    return total / np.float32(len(parts))


@pytest.mark.parametrize("target", ["BF16", "F32", "F16", "F64", "F8_E4M3", "I8", "U16", "C64"])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_soup_is_the_rounded_mean_of_its_parts(target: str, count: int, tmp_path: Path) -> None:
    """As numpy makes it in float32; one element a step off is one mismatch of one ulp."""
    dtype = DTYPES[target]
    rng = np.random.default_rng(count)
    parts: list[Tensors] = []
    for name in ("BF16", "F32", "BF16", "F16")[:count]:
        values = rng.normal(0, 1, 5000)
        parts.append({"w": tensor(np.abs(values) * 20 if dtype.is_integer else values, name)})
    decoded = [exact(part["w"]).astype(np.float64) for part in parts]
    mean = mean_in_float32(decoded)
    if dtype.is_complex:
        soup = tensor(mean.astype(np.complex64), target)
    else:
        soup = tensor(np.rint(mean) if dtype.is_integer else mean, target)
    off = bytearray(soup.data)
    width = dtype.bits // 8
    off[100 * width] ^= 1
    sides = manifests(tmp_path, [{"w": soup}, *parts])
    broken = manifest(
        write_file(tmp_path / "off.safetensors", {"w": Tensor(target, soup.shape, bytes(off))})
    )
    for isa in ISA_LEVELS:
        for threads in (1, 3):
            options: dict[str, Any] = {"isa": isa, "threads": threads}
            rows = _core.rounded_mean(sides[0], sides[1:], None, [None] * count, **options)
            assert rows == [("w", 5000, 0, 0)]
            assert _core.rounded_mean(broken, sides[1:], **options) == [("w", 5000, 1, 1)]


def test_the_order_of_the_parts_is_that_of_the_sum(tmp_path: Path) -> None:
    parts = [{"w": tensor([x])} for x in (2.0**24, 1.0, 1.0)]
    soup = {"w": tensor(mean_in_float32([np.array([x]) for x in (2.0**24, 1.0, 1.0)]))}
    sides = manifests(tmp_path, [soup, *parts])
    assert _core.rounded_mean(sides[0], sides[1:]) == [("w", 1, 0, 0)]
    backwards = _core.rounded_mean(sides[0], sides[:0:-1])  # 1 + 1 is not lost beside 2**24
    assert backwards[0][2] == 1


def test_means_that_are_not_finite_and_those_that_cannot_be(tmp_path: Path) -> None:
    a = {"v": tensor([np.nan, np.inf, -0.0]), "w": tensor([1.0, 2.0], "F4")}
    b = {"v": tensor([1.0, -np.inf, 0.0]), "w": tensor([1.0, 2.0], "F4")}
    sides = manifests(tmp_path, [{"v": tensor([np.nan, np.nan, 0.0])}, a, b])
    assert _core.rounded_mean(sides[0], sides[1:]) == [("v", 3, 0, 0)]
    message = r"1\.safetensors.*\"w\".*mean of F4 cannot be rounded to F4"
    with pytest.raises(_core.InvalidCheckpointError, match=message):
        _core.rounded_mean(sides[1], sides[2:])
    with pytest.raises(ValueError, match="one at least"):
        _core.rounded_mean(sides[0], [])
