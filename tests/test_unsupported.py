"""Tensors whose dtype cannot be decoded: named with the reason, the rest is compared."""

from __future__ import annotations

import json
from pathlib import Path

import ckptdiff
import numpy as np
import pytest

from tests.cli import invoke
from tests.writers import Tensor, tensor, write_file

ODD = Tensor("F128", (2,), bytes(32))
KNOWN = tensor(np.arange(4.0))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Each side has a tensor of its own that cannot be decoded, and one that both cannot."""
    a = {"w": KNOWN, "both": ODD, "in_a": ODD, "in_b": tensor(np.zeros(2)), "alone": ODD}
    b = {"w": KNOWN, "both": ODD, "in_a": tensor(np.zeros(2)), "in_b": ODD}
    return (
        write_file(tmp_path / "a.safetensors", a),
        write_file(tmp_path / "b.safetensors", b),
    )


def test_a_diff_compares_the_rest(pair: tuple[Path, Path]) -> None:
    report = ckptdiff.diff(*pair)
    assert [row.name for row in report] == ["w"]
    assert [(a.name, b.name) for a, b in report.unsupported] == [
        (name, name) for name in ("both", "in_a", "in_b")
    ]
    expected = [("a", "both"), ("a", "in_a"), ("a", "in_b")]
    expected += [("b", name) for _, name in expected]
    assert [(item.side, item.name) for item in report.excluded] == expected
    assert {item.reason for item in report.excluded} == {"unsupported_dtype"}
    assert [ref.name for ref in report.only_in_a] == ["alone"]
    assert report.coverage["b"].tensors_compared == 1
    assert len(report.notes) == 3
    assert all("F128 is not supported" in note for note in report.notes)


def test_what_was_not_compared_is_no_match(tmp_path: Path) -> None:
    both = {"w": KNOWN, "odd": ODD}
    a = write_file(tmp_path / "a.safetensors", both)
    b = write_file(tmp_path / "b.safetensors", both)
    outcome = invoke("diff", a, b)
    assert outcome.status == 1, outcome
    assert "tensor 'odd' is left out: its dtype F128 is not supported" in outcome.stderr
    assert "left out for an unsupported dtype: 2 tensors" in outcome.stdout
    report = ckptdiff.diff(a, b)
    assert not report.matches
    assert not report.identical
    assert invoke("diff", a, b, "--exclude", "odd").status == 0


def test_stats_describe_the_rest(pair: tuple[Path, Path]) -> None:
    report = ckptdiff.stats(pair[1], exclude="w")
    assert [row.name for row in report] == ["in_a"]
    assert {(item.name, item.reason) for item in report.excluded} == {
        ("both", "unsupported_dtype"),
        ("in_b", "unsupported_dtype"),
        ("w", "excluded"),
    }
    assert report.left_out == 1
    document = json.loads(report.to_json())
    assert document["summary"]["coverage"]["a"]["tensors_compared"] == 1
    assert len(document["summary"]["not_compared"]) == 3


def test_where_nothing_else_is_left_it_is_an_error(pair: tuple[Path, Path]) -> None:
    for command in ("diff", "stats"):
        paths = pair if command == "diff" else pair[:1]
        outcome = invoke(command, *paths, "--exclude", "w", "--exclude", "in_*")
        assert outcome.status == 2, outcome
        assert "unknown dtype" in outcome.stderr


def test_many_are_summed_up(tmp_path: Path) -> None:
    many = {f"odd.{index}": ODD for index in range(5)} | {"w": KNOWN}
    path = write_file(tmp_path / "a.safetensors", many)
    notes = ckptdiff.stats(path).notes
    assert len(notes) == 4
    assert notes[3] == "2 more left out, as F128 is not supported"
