"""The report: columns, rows, roll-ups, JSON, CSV, notebooks, and the assertion for other suites."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import ckptdiff
import numpy as np
import pandas
import polars
import pytest
from ckptdiff.testing import assert_checkpoints_equal

from tests.compare import assert_rows, disagreements, is_undefined
from tests.dtypes import DTYPES
from tests.engine import diff_rows, expected_diff, expected_stats, stats_rows
from tests.oracle import (
    DIFF_COLUMNS,
    STATS_COLUMNS,
    diff_oracle,
    differences,
    exact,
    is_finite,
    log2_histogram,
    stats_oracle,
)
from tests.samples import perturbed, tame, wild
from tests.writers import Tensor, tensor, write_file, write_sharded

Tensors = dict[str, Tensor]


def layers(dtype: str = "F32") -> tuple[Tensors, Tensors]:
    """A small model's names, with values that differ from layer to layer in size and change."""
    rng = np.random.default_rng(8)
    a: Tensors = {}
    for layer in range(12):
        for module in ("self_attn.q_proj", "mlp.up_proj"):
            values = rng.normal(0, 1.0 + layer, (3, 7 + layer))
            a[f"model.layers.{layer}.{module}.weight"] = tensor(values, dtype)
    a["model.embed_tokens.weight"] = tensor(rng.normal(0, 1, (5, 4)), dtype)
    a["lm_head.weight"] = tensor(rng.normal(0, 1, (5, 4)), dtype)
    b = {name: perturbed(t, 3, share=0.3) for name, t in a.items() if "embed" not in name}
    b["model.embed_tokens.weight"] = a["model.embed_tokens.weight"]
    return a, b


def concatenated(parts: list[Tensor]) -> Tensor:
    """Tensors of one dtype as one: what a merge of their rows must equal."""
    data = b"".join(part.data for part in parts)
    numel = sum(math.prod(part.shape) for part in parts)
    return Tensor(parts[0].dtype, (numel,), data)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    a, b = layers()
    a["gone.weight"] = tensor([1.0, 2.0])
    b["new.weight"] = tensor([1.0])
    a["reshaped.weight"] = tensor([1.0, 2.0])
    b["reshaped.weight"] = tensor([[1.0], [2.0]])
    return write_file(tmp_path / "a.safetensors", a), write_sharded(tmp_path / "b", b, 2)


# Rows and columns.


def test_rows_are_those_of_the_core(pair: tuple[Path, Path]) -> None:
    report = ckptdiff.diff(*pair, thresholds=[0.0, 1e-8], histogram=True)
    core = diff_rows(*pair, thresholds=[0.0, 1e-8], histogram=True)
    assert repr({row.name: dict(row) for row in report}) == repr(core)
    stats = ckptdiff.stats(pair[0], histogram=True, content_hash=True)
    core = stats_rows(pair[0], histogram=True, content_hash=True)
    assert repr({row.name: dict(row) for row in stats}) == repr(core)


def test_the_report_against_the_oracle(tmp_path: Path) -> None:
    """All the way from files through the public function to its rows."""
    a = {name: wild(dtype, (4, 5), 1) for name, dtype in DTYPES.items()}
    b = {name: perturbed(t, 2) for name, t in a.items()}
    path_a = write_file(tmp_path / "a.safetensors", a)
    path_b = write_sharded(tmp_path / "b", b, 5)
    report = ckptdiff.diff(path_a, path_b, atol=0.1, rtol=0.1)
    assert_rows({row.name: row for row in report}, expected_diff(a, b, atol=0.1, rtol=0.1))
    stats = ckptdiff.stats(path_b)
    assert_rows({row.name: row for row in stats}, expected_stats(b))


def test_names_are_in_natural_order(pair: tuple[Path, Path]) -> None:
    report = ckptdiff.diff(*pair)
    names = [row.name for row in report]
    numbers = [int(name.split(".")[2]) for name in names if "layers" in name]
    assert numbers == sorted(numbers)
    assert names == list(report.columns["name"])
    assert set(names) == set(layers()[0])


def test_columns_and_rows_hold_the_same(pair: tuple[Path, Path]) -> None:
    reports = (
        ckptdiff.diff(*pair, thresholds=[1e-4], histogram=True),
        ckptdiff.diff(*pair).by("layer"),
        ckptdiff.stats(pair[0], content_hash=True),
        ckptdiff.stats(pair[0]).by("module"),
    )
    for report in reports:
        columns = report.columns
        rows = list(report)
        assert list(columns) == report.column_names
        for name, column in columns.items():
            assert isinstance(column, np.ndarray)
            assert column.shape == (len(rows),)
            for row, value in zip(rows, column, strict=True):
                expected = row[name]
                if is_undefined(expected):
                    assert value == "" if column.dtype == object else np.isnan(value), name
                elif isinstance(expected, tuple):
                    assert json.loads(value) == list(expected), name
                else:
                    assert value == expected, name
                    assert getattr(row, name) == expected


def test_columns_in_their_documented_order(pair: tuple[Path, Path]) -> None:
    assert tuple(ckptdiff.diff(*pair).columns) == DIFF_COLUMNS
    assert tuple(ckptdiff.stats(pair[0]).columns) == STATS_COLUMNS
    on_request = ckptdiff.diff(*pair, thresholds=[0.0, 1e-8], histogram=True).column_names
    quantiles = ["abs_p50", "abs_p90", "abs_p99", "abs_p999"]
    assert on_request == [*DIFF_COLUMNS, "above_0.0", "above_1e-08", *quantiles]
    on_request = ckptdiff.stats(pair[0], histogram=True, content_hash=True).column_names
    assert set(on_request) == {*STATS_COLUMNS, *quantiles, "hash"}
    merged = ckptdiff.diff(*pair).by("layer").column_names
    assert merged[1] == "tensors"
    assert merged[merged.index("max_abs_index") + 1] == "max_abs_tensor"
    merged = ckptdiff.stats(pair[0]).by("layer").column_names
    assert merged[merged.index("abs_max_index") + 1] == "abs_max_tensor"


def test_pandas_and_polars_take_the_columns_as_they_are(pair: tuple[Path, Path]) -> None:
    report = ckptdiff.diff(*pair)
    frame = pandas.DataFrame(report.columns)
    assert list(frame.columns) == list(DIFF_COLUMNS)
    assert frame["l2"].dtype == np.float64
    assert frame["changed"].sum() == report.total.changed
    assert frame.loc[frame["name"] == "lm_head.weight", "verdict"].item() == "different"
    table = polars.DataFrame(report.columns)
    assert table.columns == list(DIFF_COLUMNS)
    assert table["l2"].dtype == polars.Float64
    assert table["name"].dtype == polars.String
    assert table["shape"].dtype == polars.String
    assert table["changed"].sum() == report.total.changed
    stats = polars.DataFrame(ckptdiff.stats(pair[0], content_hash=True).columns)
    assert stats["hash"].n_unique() > 10


def test_columns_are_ones_own(pair: tuple[Path, Path]) -> None:
    """Writing into a column changes neither the report nor another call's column."""
    report = ckptdiff.diff(*pair)
    before = report.total.l2
    column = report.columns["l2"]
    assert column.flags.writeable
    column[:] = 0
    assert report.total.l2 == before
    assert report["lm_head.weight"].l2 > 0


# Merges.


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64", "I64", "F8_E4M3", "C64", "BOOL"])
def test_the_total_equals_one_pass_over_everything(dtype: str, tmp_path: Path) -> None:
    """Not an average of averages: every column as if the tensors were one."""
    a = {f"t{i}": wild(DTYPES[dtype], (i * 37, 4), i) for i in range(9)}
    b = {name: perturbed(t, 5, share=0.4) for name, t in a.items()}
    paths = write_file(tmp_path / "a.safetensors", a), write_file(tmp_path / "b.safetensors", b)
    whole = {"atol": 0.1, "rtol": 0.01, "thresholds": [0.5]}
    expected = diff_oracle(concatenated(list(a.values())), concatenated(list(b.values())), **whole)
    total = ckptdiff.diff(*paths, **whole).total
    elsewhere = ("name", "shape", "max_abs_index", "value_a", "value_b", "verdict")
    assert not disagreements(total, expected, ignoring=elsewhere)
    assert (total.value_a, total.value_b) == (
        expected.columns["value_a"],
        expected.columns["value_b"],
    )
    assert (total.tensors, total.shape, total.verdict) == (9, None, "different")
    assert total.max_abs == ckptdiff.diff(*paths)[total.max_abs_tensor].max_abs
    expected = stats_oracle(concatenated(list(a.values())))
    total = ckptdiff.stats(paths[0]).total
    assert not disagreements(total, expected, ignoring=("name", "shape", "abs_max_index"))


def test_roll_ups_by_layer_and_module_equal_one_pass_each(tmp_path: Path) -> None:
    a, b = layers()
    paths = write_file(tmp_path / "a.safetensors", a), write_file(tmp_path / "b.safetensors", b)
    report = ckptdiff.diff(*paths)
    groups: dict[str, dict[str, list[str]]] = {"layer": {}, "module": {}}
    for name in sorted(a):  # ties go to the first in order of names
        parts = name.split(".")
        if "layers" in name:
            layer, module = ".".join(parts[:3]), f"model.layers.*.{parts[3]}.{parts[4]}"
        else:
            layer = module = name.removesuffix(".weight")
        groups["layer"].setdefault(layer, []).append(name)
        groups["module"].setdefault(module, []).append(name)
    for grouping, members in groups.items():
        rolled = {row.name: row for row in report.by(grouping)}
        assert set(rolled) == set(members)
        for group, names in members.items():
            expected = diff_oracle(
                concatenated([a[name] for name in names]), concatenated([b[name] for name in names])
            )
            ignoring = ("name", "shape", "max_abs_index", "verdict")
            assert not disagreements(rolled[group], expected, ignoring=ignoring), group
            assert rolled[group].tensors == len(names)
            if rolled[group].max_abs:
                assert rolled[group].max_abs_tensor in names
    assert [row.name for row in report.by("total")] == ["total"]
    order = [row.name for row in report.by("layer") if "layers" in row.name]
    assert order == [f"model.layers.{layer}" for layer in range(12)]


def test_a_merge_has_the_worst_verdict_and_says_mixed(tmp_path: Path) -> None:
    a = {
        "layers.0.same": tensor([1.0]),
        "layers.1.same": tensor([1.0]),
        "layers.1.zero": tensor([0.0]),
        "layers.2.same": tensor([1.0], "BF16"),
        "layers.2.near": tensor([1.0]),
        "layers.3.far": tensor([1.0]),
        "layers.3.near": tensor([1.0]),
    }
    b = a | {
        "layers.1.zero": tensor([-0.0]),
        "layers.2.near": tensor([1.0001]),
        "layers.3.near": tensor([1.0001]),
        "layers.3.far": tensor([2.0]),
    }
    paths = write_file(tmp_path / "a.safetensors", a), write_file(tmp_path / "b.safetensors", b)
    report = ckptdiff.diff(*paths, atol=0.01)
    assert {row.name: (row.verdict, row.dtype_a) for row in report.by("layer")} == {
        "layers.0": ("bit_identical", "F32"),
        "layers.1": ("equal", "F32"),
        "layers.2": ("within_tolerance", "mixed"),
        "layers.3": ("different", "F32"),
    }


def test_the_total_of_every_dtype_together(tmp_path: Path) -> None:
    """Integers, floats, complex numbers in one group: sums add up, extremes are one of theirs."""
    a = {name: wild(dtype, (36,), 1) for name, dtype in DTYPES.items()}
    b = {name: perturbed(t, 2) for name, t in a.items()}
    paths = write_file(tmp_path / "a.safetensors", a), write_file(tmp_path / "b.safetensors", b)
    report = ckptdiff.diff(*paths, thresholds=[0.5])
    rows, total = list(report), report.total
    assert (total.tensors, total.dtype_a, total.dtype_b) == (len(DTYPES), "mixed", "mixed")
    for column in ("numel", "changed", "bits_changed", "sign_flips", "nan_a", "nan_b", "inf_a",
                   "inf_b", "nonfinite_mismatch", "out_of_tolerance", "above_0.5"):  # fmt: skip
        assert total[column] == sum(row[column] for row in rows), column
    assert total.max_abs == max(row.max_abs for row in rows)
    assert total.max_ulp == max(row.max_ulp for row in rows)
    largest = max(rows, key=lambda row: row.max_abs)
    for column in ("value_a", "value_b", "max_abs_index"):
        assert total[column] == largest[column]
    assert total.max_abs_tensor == largest.name
    assert total.l2 == pytest.approx(math.hypot(*(row.l2 for row in rows)), rel=1e-12)
    assert total.l2_a == pytest.approx(math.hypot(*(row.l2_a for row in rows)), rel=1e-12)
    stats = ckptdiff.stats(paths[0])
    rows, total = list(stats), stats.total
    for column in ("numel", "bytes", "zeros", "negatives", "subnormals", "nan", "pos_inf",
                   "neg_inf", "saturated"):  # fmt: skip
        assert total[column] == sum(row[column] for row in rows), column
    assert total.min == min(row.min for row in rows)
    assert total.max == max(row.max for row in rows)
    assert total.abs_max == max(row.abs_max for row in rows)
    assert total.l1 == pytest.approx(math.fsum(row.l1 for row in rows), rel=1e-12)


def test_the_total_of_a_mix_of_integers_and_booleans_is_exact(tmp_path: Path) -> None:
    a = {
        "large": Tensor("I64", (1,), (2**53 + 1).to_bytes(8, "little")),
        "flag": Tensor("BOOL", (2,), b"\1\0"),
        "small": Tensor("U8", (1,), b"\x07"),
    }
    total = ckptdiff.stats(write_file(tmp_path / "a.safetensors", a)).total
    assert (total.min, total.max, total.abs_max_tensor) == (0, 2**53 + 1, "large")


def test_the_total_of_nothing(tmp_path: Path) -> None:
    empty = write_file(tmp_path / "a.safetensors", {})
    total = ckptdiff.diff(empty, empty).total
    assert (total.tensors, total.numel, total.changed, total.l2) == (0, 0, 0, 0.0)
    assert is_undefined(total.mean_abs)
    assert len(ckptdiff.diff(empty, empty).by("layer")) == 0


def test_a_constant_split_over_tensors_has_no_spread(tmp_path: Path) -> None:
    """Merging moments must not make a variance out of rounding."""
    parts = {f"t{i}": tensor(np.full(100 + i, 0.1)) for i in range(7)}
    total = ckptdiff.stats(write_file(tmp_path / "a.safetensors", parts)).total
    assert total.std == 0.0
    assert is_undefined(total.skewness)


# Histograms and quantiles.


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64", "I64", "F8_E5M2", "C64", "F4", "U8"])
def test_histograms_are_exact_and_quantiles_in_the_right_power_of_two(
    dtype: str, tmp_path: Path
) -> None:
    a, b = wild(DTYPES[dtype], (40, 50), 1), tame(DTYPES[dtype], (40, 50), 2)
    paths = (
        write_file(tmp_path / "a.safetensors", {"w": a, "v": a}),
        write_file(tmp_path / "b.safetensors", {"w": b, "v": a}),
    )
    with np.errstate(all="ignore"):
        values_a, values_b = exact(a), exact(b)
        finite = is_finite(values_a) & is_finite(values_b)
        d = np.abs(differences(values_a[finite], values_b[finite], DTYPES[dtype].is_integer))
    report = ckptdiff.diff(*paths, histogram=True)
    check_histogram(report, "w", d)
    check_histogram(report, "v", np.zeros(int(is_finite(values_a).sum())))
    x = np.abs(values_a[is_finite(values_a)])
    stats = ckptdiff.stats(paths[0], histogram=True)
    check_histogram(stats, "w", x)
    check_histogram(stats, None, np.concatenate([x, x]))


def check_histogram(report: Any, name: str | None, magnitudes: np.ndarray) -> None:
    zeros, bins = log2_histogram(magnitudes)
    histogram = report.histogram(name)
    assert (histogram.zeros, sorted(histogram.log2.items())) == (zeros, bins)
    row = report.total if name is None else report[name]
    for column, q in (("abs_p50", 0.5), ("abs_p90", 0.9), ("abs_p99", 0.99), ("abs_p999", 0.999)):
        ranked = sorted(float(m) for m in magnitudes)
        # either neighbour of the quantile will do, and a factor of two either way
        low = ranked[max(0, math.ceil(q * len(ranked)) - 2)]
        high = ranked[min(len(ranked) - 1, math.ceil(q * len(ranked)))]
        assert low / 2 <= row[column] <= high * 2, (name, column)
        if high == 0:
            assert row[column] == 0


def test_no_histogram_without_asking(pair: tuple[Path, Path]) -> None:
    report = ckptdiff.diff(*pair)
    assert report.histogram() is None
    assert report.histogram("lm_head.weight") is None
    assert "abs_p50" not in report.columns


# Selections.


def test_sorting(pair: tuple[Path, Path]) -> None:
    report = ckptdiff.diff(*pair)
    by_size = [row.rel_l2 for row in report.sorted("rel_l2")]
    assert by_size == sorted(by_size, reverse=True)
    assert [row.rel_l2 for row in report.sorted("rel_l2", descending=False)] == by_size[::-1]
    assert [row.name for row in report.sorted("name")] == [row.name for row in report]
    assert len(report.sorted("l2").head(3)) == 3
    assert [row.name for row in report.sorted("l2").head(3)] == [
        row.name for row in report.sorted("l2")
    ][:3]
    assert {row.name for row in report.only_changed()} == {
        row.name for row in report if row.changed
    }
    assert 0 < len(report.only_changed()) < len(report)
    assert report.sorted("l2").head(2).total == report.total
    with pytest.raises(ValueError, match="did you mean 'rel_l2'"):
        report.sorted("rel_l3")


def test_undefined_values_are_sorted_last(tmp_path: Path) -> None:
    values = {"a": tensor([np.nan]), "b": tensor([1.0]), "c": tensor([3.0]), "d": tensor([])}
    stats = ckptdiff.stats(write_file(tmp_path / "a.safetensors", values))
    assert [row.name for row in stats.sorted("max")] == ["c", "b", "a", "d"]
    assert [row.name for row in stats.sorted("max", descending=False)] == ["b", "c", "a", "d"]


# Names, globs, renames.


def test_globs_and_renames(tmp_path: Path) -> None:
    a = {"old.0.w": tensor([1.0]), "old.1.w": tensor([2.0]), "x": tensor([3.0])}
    b = {"new.0.w": tensor([1.0]), "new.1.w": tensor([5.0]), "x": tensor([3.0])}
    paths = write_file(tmp_path / "a.safetensors", a), write_file(tmp_path / "b.safetensors", b)
    report = ckptdiff.diff(*paths, rename=r"^old\.(\d+)=new.\1")
    assert [(row.name, row.changed) for row in report] == [("new.0.w", 0), ("new.1.w", 1), ("x", 0)]
    report = ckptdiff.diff(*paths, rename=[("old", "new")], include=["new.*"], exclude=["*.1.*"])
    assert [row.name for row in report] == ["new.0.w"]
    not_compared = {(side, name, reason) for side, name, reason in report.excluded}
    assert ("a", "new.1.w", "excluded") in not_compared
    assert ("b", "x", "not_included") in not_compared
    assert len(not_compared) == 4
    with pytest.raises(ValueError, match="both"):
        ckptdiff.diff(*paths, rename=[(r"old\.\d", "new.0")])
    with pytest.raises(ValueError, match="none of"):
        ckptdiff.diff(*paths, include="nothing*")
    assert ckptdiff.diff(*paths, include=["x", "misspelt*"]).notes


def test_coverage_says_what_was_compared(pair: tuple[Path, Path]) -> None:
    report = ckptdiff.diff(*pair, exclude="*embed*")
    a, b = report.coverage["a"], report.coverage["b"]
    names = set(layers()[0]) - {"model.embed_tokens.weight"}
    elements = sum(math.prod(t.shape) for name, t in layers()[0].items() if name in names)
    assert (a.tensors, a.tensors_compared) == (len(names) + 3, len(names))
    assert (b.tensors, b.tensors_compared) == (len(names) + 3, len(names))
    assert a.elements_compared == elements
    assert a.elements == elements + 20 + 4
    assert (b.bytes, b.bytes_compared) == ((elements + 20 + 3) * 4, elements * 4)
    assert [t.name for t in report.only_in_a] == ["gone.weight"]
    assert [t.name for t in report.only_in_b] == ["new.weight"]
    assert [m.name for m in report.shape_mismatch] == ["reshaped.weight"]


# Text.


def strict(text: str) -> Any:
    """Parse as a strict parser does: no NaN, no Infinity, no duplicate key."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)


def plain(value: Any) -> Any:
    """A row's value as the JSON schema spells it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return list(value) if isinstance(value, tuple) else value


def test_the_documented_schema_of_a_diff(pair: tuple[Path, Path]) -> None:
    options = {"atol": 0.5, "thresholds": [0.0], "histogram": True, "exclude": ["*embed*"]}
    report = ckptdiff.diff(*pair, **options)
    document = strict(report.to_json() or "")
    assert set(document) == {
        "schema", "a", "b", "options", "summary", "config", "tensors", "only_in_a",
        "only_in_b",
        "shape_mismatch",
    }  # fmt: skip
    assert document["schema"] == "ckptdiff.diff/1"
    assert document["a"]["path"] == str(pair[0])
    assert {"path", "tensors", "elements", "bytes"} <= set(document["a"])
    assert document["options"]["atol"] == 0.5
    assert document["options"]["thresholds"] == [0.0]
    summary = document["summary"]
    assert summary["verdicts"] == report.verdicts
    assert sum(summary["verdicts"].values()) == len(document["tensors"])
    assert (summary["only_in_a"], summary["only_in_b"], summary["shape_mismatch"]) == (1, 1, 1)
    assert summary["not_compared"] == [
        {"side": side, "name": "model.embed_tokens.weight", "reason": "excluded"} for side in "ab"
    ]
    assert summary["total"]["l2"] == report.total.l2
    assert summary["coverage"]["a"]["tensors"] == len(layers()[0]) + 2
    assert document["only_in_a"] == [{"name": "gone.weight", "dtype": "F32", "shape": [2]}]
    assert document["only_in_b"] == [{"name": "new.weight", "dtype": "F32", "shape": [1]}]
    assert document["shape_mismatch"] == [
        {
            "name": "reshaped.weight",
            "shape_a": [2],
            "shape_b": [2, 1],
            "dtype_a": "F32",
            "dtype_b": "F32",
        }
    ]
    for row, written in zip(report, document["tensors"], strict=True):
        histogram = written.pop("histogram")
        assert written == {name: plain(value) for name, value in row.items()}
        found = report.histogram(row.name)
        assert histogram["zeros"] == found.zeros
        assert dict(map(tuple, histogram["log2"])) == found.log2


def test_the_documented_schema_of_stats(pair: tuple[Path, Path]) -> None:
    report = ckptdiff.stats(pair[0], content_hash=True)
    document = strict(report.to_json() or "")
    assert set(document) == {"schema", "a", "options", "summary", "tensors"}
    assert document["schema"] == "ckptdiff.stats/1"
    assert {"coverage", "total"} <= set(document["summary"])
    for row, written in zip(report, document["tensors"], strict=True):
        assert written == {name: plain(value) for name, value in row.items()}
    grouped = strict(report.by("layer").to_json() or "")
    assert "groups" in grouped
    assert "tensors" not in grouped


def awkward(tmp_path: Path) -> ckptdiff.DiffReport:
    """A report in which every kind of value that JSON and CSV have no word for occurs."""
    a = {
        "nan": tensor([np.nan]),
        "from_zero": tensor([0.0]),
        "zero": tensor([0.0, 0.0]),
        "empty": tensor([]),
        "integers": Tensor("I64", (1,), (2**63 - 1).to_bytes(8, "little")),
        'quoted, "name"\nof\ttwo lines': tensor([1.0]),
        "é": tensor([1e300], "F64"),
        "": tensor(1.0),
    }
    b = a | {
        "from_zero": tensor([1.0]),
        "integers": Tensor("I64", (1,), (-(2**63)).to_bytes(8, "little", signed=True)),
        "é": tensor([-1e-300], "F64"),
    }
    paths = write_file(tmp_path / "a.safetensors", a), write_file(tmp_path / "b.safetensors", b)
    return ckptdiff.diff(*paths)


def test_json_is_strict_and_exact_whatever_the_values(tmp_path: Path) -> None:
    report = awkward(tmp_path)
    text = report.to_json() or ""
    rows = {row["name"]: row for row in strict(text)["tensors"]}
    assert rows["from_zero"]["rel_l2"] == "Infinity"
    assert rows["zero"]["mean_abs"] == 0.0
    assert rows["empty"]["mean_abs"] in ("NaN", None)
    assert rows["integers"]["max_abs"] == 2**64 - 1
    assert rows["integers"]["value_a"] == 2**63 - 1
    assert rows[""]["shape"] == []
    for row in report:
        assert rows[row.name] == {name: plain(value) for name, value in row.items()}
    text.encode("ascii")


def test_csv_comes_back(tmp_path: Path) -> None:
    report = awkward(tmp_path)
    lines = list(csv.DictReader(io.StringIO(report.to_csv() or "")))
    assert list(lines[0]) == report.column_names
    for row, line in zip(report, lines, strict=True):
        for column, value in row.items():
            written = line[column]
            if value is None:
                assert written == ""
            elif isinstance(value, float):
                assert float(written) == value or (math.isnan(value) and written == "NaN")
            elif isinstance(value, tuple):
                assert json.loads(written) == list(value)
            else:
                assert written == str(value)
    frame = pandas.read_csv(io.StringIO(report.to_csv() or ""), keep_default_na=False)
    assert len(frame) == len(report)


def test_texts_go_to_files_too(pair: tuple[Path, Path], tmp_path: Path) -> None:
    report = ckptdiff.diff(*pair)
    for name in ("to_json", "to_csv", "to_markdown"):
        text = getattr(report, name)()
        path = tmp_path / name
        assert getattr(report, name)(path) is None
        assert path.read_text(encoding="utf-8") == text
    markdown = report.to_markdown() or ""
    assert "`lm_head.weight`" in markdown
    assert "of A" in markdown


def test_a_report_shows_itself(pair: tuple[Path, Path]) -> None:
    for report in (ckptdiff.diff(*pair), ckptdiff.stats(pair[0]), ckptdiff.diff(*pair).by("layer")):
        text = repr(report)
        assert "model.layers." in text
        assert "\x1b" not in text
        assert len(text.splitlines()) < 40
        html = report._repr_html_()
        assert "<table" in html
        assert "model.layers." in html
    assert "gone.weight" in repr(ckptdiff.diff(*pair))
    assert "Checkpoint" in repr(ckptdiff.open(pair[0]))


def test_html_escapes_names(tmp_path: Path) -> None:
    a = {"<script>alert(1)</script>&": tensor([1.0])}
    b = {"<script>alert(1)</script>&": tensor([2.0]), "<img src=x>": tensor([2.0])}
    paths = write_file(tmp_path / "a.safetensors", a), write_file(tmp_path / "b.safetensors", b)
    html = ckptdiff.diff(*paths)._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


# Arguments.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"atol": -1.0}, "atol"),
        ({"rtol": float("nan")}, "rtol"),
        ({"thresholds": [-1.0]}, "threshold"),
        ({"thresholds": [float("inf")]}, "threshold"),
        ({"cast": "bf61"}, "did you mean 'BF16'"),
        ({"isa": "avx9"}, "instruction set"),
        ({"threads": -1}, "threads"),
        ({"rename": ["no equals sign"]}, "="),
        ({"rename": ["(=x"]}, "regular expression"),
        ({"rename": [r"w=\7"]}, "replacement|group"),
    ],
)
def test_bad_arguments_are_value_errors(
    options: dict[str, Any], message: str, pair: tuple[Path, Path]
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ckptdiff.diff(*pair, **options)
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_a_type_error() -> None:
    for thing in (7, None, [1, 2], object()):
        with pytest.raises(TypeError):
            ckptdiff.open(thing)


def test_progress_is_reported_and_can_stop_the_run(pair: tuple[Path, Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    large = write_file(tmp_path / "large.safetensors", {"w": tame(DTYPES["F32"], (5_000_000,), 1)})
    ckptdiff.diff(large, large, on_progress=lambda done, total: seen.append((done, total)))
    assert seen
    assert all(total == 40_000_000 and 0 <= done <= total for done, total in seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    class Stop(Exception):  # noqa: N818 - not an error
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        ckptdiff.diff(large, large, on_progress=stop)


def test_runs_side_by_side_and_beside_other_work(tmp_path: Path) -> None:
    """The lock of the interpreter is not held: other threads go on, other runs too."""
    large = write_file(tmp_path / "large.safetensors", {"w": tame(DTYPES["F32"], (20_000_000,), 1)})
    expected = ckptdiff.stats(large).to_json()
    results: list[str | None] = []
    workers = [
        threading.Thread(target=lambda: results.append(ckptdiff.stats(large).to_json()))
        for _ in range(3)
    ]
    ticks = 0
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        time.sleep(0.001)
        ticks += 1
    assert results == [expected] * 3
    assert ticks > 5


def test_paths_of_every_kind(pair: tuple[Path, Path]) -> None:
    for path in (pair[0], str(pair[0]), os.fsencode(pair[0])):
        assert ckptdiff.open(path).path == str(pair[0])


def test_a_checkpoint_is_a_mapping(pair: tuple[Path, Path]) -> None:
    checkpoint = ckptdiff.open(pair[1])
    assert ckptdiff.open(checkpoint) is checkpoint
    assert len(checkpoint) == len(layers()[0]) + 2
    assert "new.weight" in checkpoint
    assert "gone.weight" not in checkpoint
    reference = checkpoint["model.embed_tokens.weight"]
    assert (reference.dtype, reference.shape, reference.numel, reference.bytes) == (
        "F32", (5, 4), 20, 80,
    )  # fmt: skip
    with pytest.raises(KeyError):
        checkpoint["gone.weight"]
    (span,) = reference.spans
    data = Path(span.file).read_bytes()[span.offset : span.offset + span.length]
    assert data == layers()[1]["model.embed_tokens.weight"].data
    assert list(checkpoint) == checkpoint.names()
    assert checkpoint.elements == sum(ref.numel for ref in checkpoint.values())
    assert checkpoint.bytes == sum(ref.bytes for ref in checkpoint.values())


# ckptdiff.testing.


def test_assert_checkpoints_equal(tmp_path: Path) -> None:
    a, b = layers()
    path_a = write_file(tmp_path / "a.safetensors", a)
    path_b = write_sharded(tmp_path / "b", b, 2)
    assert_checkpoints_equal(path_a, path_a)
    assert_checkpoints_equal(path_a, write_sharded(tmp_path / "again", a, 3))
    with pytest.raises(AssertionError) as caught:
        assert_checkpoints_equal(path_a, path_b)
    report = ckptdiff.diff(path_a, path_b)
    worst = next(iter(report.sorted("rel_l2"))).name
    assert worst in str(caught.value)
    assert len(str(caught.value).splitlines()) < 60


def test_assert_checkpoints_equal_within_a_tolerance() -> None:
    a = {"w": np.array([1.0, 2.0]), "v": np.array([3.0])}
    b = {"w": np.array([1.0, 2.001]), "v": np.array([3.0])}
    assert_checkpoints_equal(a, b, atol=0.01)
    assert_checkpoints_equal(a, b, rtol=0.001)
    with pytest.raises(AssertionError, match="w"):
        assert_checkpoints_equal(a, b, atol=0.0001)
    with pytest.raises(AssertionError, match="v"):
        assert_checkpoints_equal(a, {"w": a["w"]})
    with pytest.raises(AssertionError, match="w"):
        assert_checkpoints_equal(a, a | {"w": np.array([[1.0, 2.0]])})
    with pytest.raises(AssertionError, match="w"):
        assert_checkpoints_equal(a, a | {"w": np.array([1.0, np.nan])}, atol=1e9)
