"""Tensors that two processes hold parts of: the same report in each, and nothing read twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ckptdiff
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.compare import same_but_for_sums
from tests.distributed_diffs import CASES
from tests.distributed_writers import RANKS, SHAPES, run_in_processes, value_of

Result = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both files, and what every case has left there in each rank."""
    folder = tmp_path_factory.mktemp("distributed")
    a = {name: value_of(name) for name in SHAPES}
    b = {}
    for number, (name, value) in enumerate(a.items()):
        # the largest difference twice, in the parts of both ranks: the first is to be reported
        value.view(-1)[[number % 3, -1 - number % 2]] = 0.0
        b[name] = value.clone()
        b[name].view(-1)[[number % 3, -1 - number % 2]] = 100.0
        b[name].view(-1)[value.numel() // 2] = float("nan")
    save_file(a, folder / "a.safetensors")
    save_file(a, folder / "short.safetensors")
    save_file(b, folder / "b.safetensors")
    run_in_processes("tests.distributed_diffs", folder, ",".join(CASES))
    return folder


def results(folder: Path, case: str) -> list[Result]:
    return [json.loads((folder / f"{case}.{rank}.json").read_text()) for rank in range(RANKS)]


def assert_same_rows(report: str, engine: str) -> None:
    """Everything but sums is the very same; they are within the contract."""
    ours, theirs = (json.loads(text) for text in (report, engine))
    for row, expected in zip(ours["tensors"], theirs["tensors"], strict=True):
        assert same_but_for_sums(row, expected), (row, expected)


@pytest.mark.parametrize(
    "case",
    ["both_sharded", "against_a_file", "against_whole_tensors", "strided_shards",
     "sharded_tensors", "stats", "meshes_in_any_order"],
)  # fmt: skip
def test_the_report_is_that_of_the_whole(case: str, folder: Path) -> None:
    paths = folder / "a.safetensors", folder / "b.safetensors"
    if case == "stats":
        engine = ckptdiff.stats(paths[0], histogram=True).to_json()
    else:
        engine = ckptdiff.diff(*paths, histogram=True, thresholds=[0.0]).to_json()
    by_rank = results(folder, case)
    assert_same_rows(by_rank[0]["report"], engine)
    assert len({result["report"] for result in by_rank}) == 1
    # together the ranks have reduced every byte once
    sides = 1 if case == "stats" else 2
    size = sum(value.nbytes for value in load_file(paths[0]).values())
    assert sum(result["bytes"] for result in by_rank) == sides * size
    assert all(result["bytes"] < sides * size for result in by_rank)


@pytest.mark.gpu
def test_over_nccl_the_report_is_that_of_the_whole(folder: Path) -> None:
    if torch.cuda.device_count() < RANKS:
        pytest.skip(f"needs {RANKS} CUDA devices, and torch sees {torch.cuda.device_count()}")
    run_in_processes("tests.distributed_diffs", folder, "nccl", "gpu")
    paths = folder / "a.safetensors", folder / "b.safetensors"
    engine = ckptdiff.diff(*paths, histogram=True, thresholds=[0.0]).to_json()
    by_rank = results(folder, "nccl")
    assert_same_rows(by_rank[0]["report"], engine)
    assert by_rank[0]["report"] == by_rank[1]["report"]


def test_a_live_sharded_module_against_a_file(folder: Path) -> None:
    by_rank = results(folder, "fully_sharded")
    for result in by_rank:
        for row in json.loads(result["report"])["tensors"]:
            assert row["rel_l2"] == pytest.approx(0.5, rel=1e-7)
            assert row["verdict"] == "different"
            assert row["changed"] == torch.Size(row["shape"]).numel()


def test_sides_that_are_placed_differently_are_refused(folder: Path) -> None:
    for result in results(folder, "placed_differently"):
        assert result["error"].startswith("ValueError: tensor 'w' is placed differently on the two")


def test_where_one_process_fails_none_waits(folder: Path) -> None:
    first, second = results(folder, "one_rank_fails")
    assert "CheckpointReadError" in second["error"]
    assert "short.safetensors" in second["error"]
    assert first["error"].startswith(
        "ValueError: another process (rank 1) failed with CheckpointReadError"
    )


@pytest.mark.parametrize(
    ("case", "of_first", "of_second"),
    [
        ("other_choice_in_one_rank", '["model.both.weight", ', '["model.columns.weight", '),
        ("one_more_tensor_in_one_rank", '["model.both.weight", ', '["aux", [3], '),
        ("one_tensor_less_in_one_rank", '["model.columns.weight", ', '["model.middle.weight", '),
        ("other_options_in_one_rank", '{"atol": 0.0, ', '{"atol": 0.5, '),
        (
            "plain_in_one_rank",
            '["model.both.weight", [7, 9], "BF16", "BF16", "", "R"]',
            '["model.both.weight", [7, 9], "BF16", "BF16", "", ""]',
        ),
        ("other_choice_of_stats", '["model.rows.weight", ', '["model.both.weight", '),
    ],
)
def test_processes_that_compare_other_tensors_are_refused(
    case: str, of_first: str, of_second: str, folder: Path
) -> None:
    first, second = results(folder, case)
    assert first == second
    message = first["error"]
    assert message.startswith("ValueError: every process is to compare the same tensors")
    assert f"rank 0 has {of_first}" in message
    assert f"rank 1 has {of_second}" in message


@pytest.mark.parametrize(
    ("case", "failure"),
    [
        ("no_file_for_one_rank", "CheckpointNotFoundError: "),
        ("bad_option_in_one_rank", "ValueError: threads must be 0 (one per core) or more, not -1"),
        ("progress_stops_one_rank", "KeyError: 'stop'"),
        ("one_rank_fails_at_the_end", "OSError: the disk is gone"),
    ],
)
def test_wherever_a_process_fails_none_waits(case: str, failure: str, folder: Path) -> None:
    first, second = results(folder, case)
    assert second["error"].startswith(failure)
    assert first["error"] == f"ValueError: another process (rank 1) failed with {second['error']}"


def test_a_spectrum_names_the_tensor_that_is_to_be_gathered(folder: Path) -> None:
    for result in results(folder, "spectrum"):
        assert result["error"].startswith(
            "ValueError: tensor 'model.both.weight' is spread over processes, and a spectrum is of"
        )
