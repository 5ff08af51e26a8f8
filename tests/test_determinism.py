"""The determinism contract: the same bytes of JSON whatever ran it and however it was stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ckptdiff
import numpy as np
import pytest

from tests.cli import invoke, run
from tests.dtypes import DTYPES
from tests.engine import ISA_LEVELS
from tests.samples import CHUNK, fitting, perturbed, tame, wild
from tests.writers import Tensor, write_file, write_hub_snapshot, write_sharded

Tensors = dict[str, Tensor]


def side_a() -> Tensors:
    """Every dtype, tensors of no, of few and of several chunks, and names in no natural order."""
    tensors: Tensors = {}
    for seed, dtype in enumerate(DTYPES.values()):
        for length in (0, 1, 1000, 5000):
            shape = (fitting(length, dtype),)
            tensors[f"{dtype.name}.{10 - seed % 3}.{length}"] = wild(dtype, shape, seed)
    for seed, name in enumerate(("BF16", "F32", "F64", "F8_E4M3", "F4", "I64", "C64", "F16")):
        shape = (2, CHUNK + 2 * seed + 2)
        tensors[f"large.{9 + seed}.{name}"] = tame(DTYPES[name], shape, seed)
    tensors["very_large"] = tame(DTYPES["BF16"], (5 * CHUNK + 77,), 5)
    return tensors


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensors, Tensors]:
    a = side_a()
    b = {name: perturbed(t, 7, share=0.02) for name, t in a.items()}
    b["only_b"] = tame(DTYPES["F32"], (3,), 1)
    a["only_a"] = tame(DTYPES["F32"], (3,), 1)
    a["reshaped"] = tame(DTYPES["F32"], (3,), 1)
    b["reshaped"] = tame(DTYPES["F32"], (4,), 1)
    return a, b


@pytest.fixture(scope="module")
def single(pair: tuple[Tensors, Tensors], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``a`` and ``b``, each a directory with one file."""
    folder = tmp_path_factory.mktemp("single")
    write_file(folder / "a" / "model.safetensors", pair[0])
    write_file(folder / "b" / "model.safetensors", pair[1])
    return folder


OPTIONS = {"thresholds": (0.0, 1e-4), "histogram": True, "atol": 1e-3, "rtol": 1e-3}


@pytest.fixture(scope="module")
def diff_json(single: Path) -> str:
    text = ckptdiff.diff(single / "a", single / "b", threads=1, **OPTIONS).to_json()
    assert text is not None
    assert len(text) > 50_000
    return equalised(text, single)


@pytest.fixture(scope="module")
def stats_json(single: Path) -> str:
    report = ckptdiff.stats(single / "a", threads=1, histogram=True, content_hash=True)
    text = report.to_json()
    assert text is not None
    return equalised(text, single)


def equalised(text: str, folder: Path) -> str:
    """The paths of A and B are the only thing that may differ."""
    return text.replace(str(folder), "")


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 0])
@pytest.mark.parametrize("isa", [*ISA_LEVELS, None])
def test_any_number_of_threads_and_any_instruction_set(
    threads: int, isa: str | None, single: Path, diff_json: str, stats_json: str
) -> None:
    report = ckptdiff.diff(single / "a", single / "b", threads=threads, isa=isa, **OPTIONS)
    assert equalised(report.to_json() or "", single) == diff_json
    described = ckptdiff.stats(
        single / "a", threads=threads, isa=isa, histogram=True, content_hash=True
    )
    assert equalised(described.to_json() or "", single) == stats_json


def three_shards(folder: Path, tensors: Tensors) -> None:
    write_sharded(folder, tensors, 3)


def a_shard_per_tensor_in_reverse(folder: Path, tensors: Tensors) -> None:
    write_sharded(folder, tensors, len(tensors), order=reversed(list(tensors)))


def one_unaligned_file_in_another_order(folder: Path, tensors: Tensors) -> None:
    shuffled = list(tensors)
    np.random.default_rng(1).shuffle(shuffled)
    write_file(
        folder / "weights.safetensors",
        {name: tensors[name] for name in shuffled},
        metadata={"format": "pt", "step": "1000"},
        misalign=5,
    )


def hub_snapshot(folder: Path, tensors: Tensors) -> None:
    write_sharded(folder.parent / "plain", tensors, 2)
    snapshot = write_hub_snapshot(folder.parent / f"cache_{folder.name}", folder.parent / "plain")
    folder.symlink_to(snapshot)


@pytest.mark.parametrize(
    "write",
    [
        three_shards,
        a_shard_per_tensor_in_reverse,
        one_unaligned_file_in_another_order,
        hub_snapshot,
    ],
)
def test_any_sharding_of_either_side(
    write: Callable[[Path, Tensors], None],
    pair: tuple[Tensors, Tensors],
    single: Path,
    tmp_path: Path,
    diff_json: str,
    stats_json: str,
) -> None:
    write(tmp_path / "a", pair[0])
    text = ckptdiff.diff(tmp_path / "a", single / "b", **OPTIONS).to_json() or ""
    assert equalised(equalised(text, tmp_path), single) == diff_json
    described = ckptdiff.stats(tmp_path / "a", histogram=True, content_hash=True).to_json() or ""
    assert equalised(described, tmp_path) == stats_json
    write(tmp_path / "b", pair[1])
    text = ckptdiff.diff(tmp_path / "a", tmp_path / "b", **OPTIONS).to_json() or ""
    assert equalised(text, tmp_path) == diff_json


@pytest.mark.parametrize("grouping", ["layer", "module", "total"])
def test_roll_ups_too(grouping: str, single: Path) -> None:
    texts = {
        ckptdiff.diff(single / "a", single / "b", threads=threads, isa=isa, **OPTIONS)
        .by(grouping)
        .to_json()
        for threads in (1, 3)
        for isa in ISA_LEVELS
    }
    assert len(texts) == 1


def test_the_command_writes_what_the_library_does(single: Path, tmp_path: Path) -> None:
    """As processes of their own, from other working directories, twice."""
    texts = set()
    for number, threads in enumerate(("1", "3")):
        output = tmp_path / f"{number}.json"
        outcome = run(
            "diff",
            "a",
            "b",
            "--format",
            "json",
            "-o",
            str(output),
            "--threads",
            threads,
            cwd=single,
        )
        assert outcome.status == 1
        texts.add(output.read_text())
    assert len(texts) == 1
    outcome = invoke("diff", single / "a", single / "b", "--format", "json")
    assert equalised(outcome.stdout, single).replace('"/a"', '"a"').replace('"/b"', '"b"') in texts


def test_the_order_of_names_is_one_whatever_the_file_says(tmp_path: Path) -> None:
    """Digit runs are numbers, of any length and with leading zeros; no order of writing shows."""
    names = [
        "w10",
        "w9",
        "w09",
        "w009",
        "w",
        "W10",
        "w10.b",
        "w10.a2",
        "w10.a10",
        "w11",
        "é1",
        "é",
        "",
    ]
    names += [
        "7",
        "07",
        "x" + "9" * 400,
        "x1" + "0" * 400,
        "x" + "0" * 30 + "5",
        ".",
        "w.10",
        "w-1",
    ]
    rng = np.random.default_rng(0)
    texts = set()
    for trial in range(6):
        rng.shuffle(names)
        tensors = {name: tame(DTYPES["F32"], (2,), 1) for name in names}
        path = write_file(tmp_path / str(trial) / "a.safetensors", tensors)
        texts.add(equalised(ckptdiff.stats(path).to_json() or "", tmp_path / str(trial)))
    assert len(texts) == 1
    order = [row.name for row in ckptdiff.stats(tmp_path / "0" / "a.safetensors")]
    assert sorted(order) == sorted(names)
    before = (
        ("w9", "w10"),
        ("w10", "w11"),
        ("w10.a2", "w10.a10"),
        ("w", "w9"),
        ("7", "w"),
        ("x" + "9" * 400, "x1" + "0" * 400),
    )
    for first, second in before:
        assert order.index(first) < order.index(second), (first, second)


def test_a_hash_tells_contents_apart(tmp_path: Path) -> None:
    """Any bit, any order of chunks, the dtype and the shape: nothing else."""
    dtype = DTYPES["U8"]
    base = np.frombuffer(tame(dtype, (3 * CHUNK,), 0).data, np.uint8).copy()
    base[:CHUNK] = 1
    flipped = base.copy()
    flipped[2 * CHUNK + 5] ^= 0x80
    swapped = np.concatenate([base[CHUNK:], base[:CHUNK]])
    as_tensor = {
        "base": Tensor("U8", (3 * CHUNK,), base.tobytes()),
        "again": Tensor("U8", (3 * CHUNK,), base.tobytes()),
        "flipped": Tensor("U8", (3 * CHUNK,), flipped.tobytes()),
        "swapped": Tensor("U8", (3 * CHUNK,), swapped.tobytes()),
        "shorter": Tensor("U8", (3 * CHUNK - 1,), base.tobytes()[:-1]),
        "zeros": Tensor("U8", (8,), bytes(8)),
        "more_zeros": Tensor("U8", (16,), bytes(16)),
        "none": Tensor("U8", (0,), b""),
    }
    report = ckptdiff.stats(write_file(tmp_path / "a.safetensors", as_tensor), content_hash=True)
    hashes = {name: report[name].hash for name in as_tensor}
    assert hashes["base"] == hashes["again"]
    assert len(set(hashes.values())) == len(hashes) - 1
    assert all(int(value, 16) >= 0 for value in hashes.values())
