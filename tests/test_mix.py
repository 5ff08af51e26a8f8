"""What a checkpoint is made of, against least squares on the tensors and a mean in float32."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import ckptdiff
import numpy as np
import pytest
from ckptdiff.mix_report import COLUMNS, combinations
from numpy.typing import NDArray

from tests.cli import assert_one_line_of_trouble, invoke
from tests.series_oracle import RealSeries
from tests.training_run import PARTS, SOUP, TrainingRun, stage1_label
from tests.writers import tensor, write_file

Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray[np.floating]]


@pytest.fixture(scope="module")
def soup(training_run: TrainingRun) -> ckptdiff.MixReport:
    paths = [training_run.path(part) for part in PARTS]
    return ckptdiff.mix(training_run.path(SOUP), paths)


def expected_coefficients(target: Floats, parts: Sequence[Floats]) -> Floats:
    return np.linalg.lstsq(np.array(parts).T, target, rcond=None)[0]


def test_the_soup_of_the_real_run_is_the_mean_of_its_ingredients(
    soup: ckptdiff.MixReport, real_series: RealSeries
) -> None:
    assert soup.exact
    assert (soup.total.mismatches, soup.total.max_ulp) == (0, 0)
    assert soup.total.coefficients == pytest.approx([1 / 3] * 3, abs=0.001)
    labels = [checkpoint.label for checkpoint in real_series.data.checkpoints]
    target = real_series.weights[labels.index(SOUP)]
    parts = [real_series.weights[labels.index(part)] for part in PARTS]
    assert [row.name for row in soup.rows] == list(ckptdiff.open(soup.target))
    for row in soup.rows:
        t, p = target[row.name].reshape(-1), [part[row.name].reshape(-1) for part in parts]
        coefficients = expected_coefficients(t, p)
        assert row.coefficients == pytest.approx(coefficients, abs=1e-6)
        residual = np.linalg.norm(t - np.array(p).T @ coefficients)
        assert row.residual == pytest.approx(residual, rel=1e-6)
        assert row.rel_residual == pytest.approx(residual / np.linalg.norm(t), rel=1e-6)
        assert row.coefficient_sum == pytest.approx(coefficients.sum(), abs=1e-6)
        assert (row.tensors, row.numel, row.finite) == (1, t.size, t.size)


@pytest.mark.parametrize("grouping", ["layer", "module", "total"])
def test_a_group_has_the_coefficients_of_all_its_elements(
    soup: ckptdiff.MixReport, real_series: RealSeries, grouping: str
) -> None:
    from tests.series_oracle import GROUPS

    labels = [checkpoint.label for checkpoint in real_series.data.checkpoints]
    weights = [real_series.weights[labels.index(label)] for label in (SOUP, *PARTS)]
    grouped = soup.by(grouping)  # type: ignore[arg-type]
    for row in grouped.rows:
        names = [name for name in weights[0] if GROUPS[grouping](name) == row.name]
        target, *parts = (np.concatenate([w[name].reshape(-1) for name in names]) for w in weights)
        assert row.tensors == len(names)
        assert row.coefficients == pytest.approx(expected_coefficients(target, parts), abs=1e-6)


def test_another_checkpoint_is_not_the_mean(
    training_run: TrainingRun, real_series: RealSeries
) -> None:
    import torch
    from safetensors.torch import load_file

    target, parts = PARTS[0], (stage1_label(240), PARTS[1], PARTS[2])
    report = ckptdiff.mix(training_run.path(target), [training_run.path(part) for part in parts])
    assert not report.exact
    files = [load_file(training_run.path(one) / "model.safetensors") for one in (target, *parts)]
    for row in report.rows:
        t, *p = (of_one[row.name] for of_one in files)
        total = p[0].float()
        for part in p[1:]:
            total = total + part.float()
        mean = (total / len(p)).bfloat16()
        assert row.mismatches == int((mean != t).sum())
        # steps between representable values: codes in the order of the values
        codes = [_ordered(x.view(torch.int16).numpy().astype(np.int64)) for x in (mean, t)]
        assert row.max_ulp == np.abs(codes[0] - codes[1]).max()
    assert report.total.mismatches == sum(row.mismatches for row in report.rows)
    assert report.total.max_ulp == max(row.max_ulp for row in report.rows)


def _ordered(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(codes < 0, -(codes & 0x7FFF), codes)


def arrays(**tensors: Sequence[float]) -> Arrays:
    return {name: np.array(values, np.float32) for name, values in tensors.items()}


def test_coefficients_of_any_combination() -> None:
    random = np.random.default_rng(0)
    parts = [{"w": random.standard_normal(500)} for _ in range(4)]
    wanted = [0.5, -0.25, 1.5, 0.125]
    target = {"w": sum(c * part["w"] for c, part in zip(wanted, parts, strict=True))}
    report = ckptdiff.mix(target, parts)
    assert report.total.coefficients == pytest.approx(wanted, abs=1e-12)
    assert report.total.rel_residual < 1e-7
    assert not report.exact


def test_parts_near_one_another_far_from_zero_are_told_apart() -> None:
    """Their inner products agree in ten digits, and so would the columns of a matrix of them."""
    random = np.random.default_rng(1)
    common = 1000 * random.standard_normal(2000)
    parts = [{"w": common + 1e-2 * random.standard_normal(2000)} for _ in range(3)]
    wanted = [0.7, 0.2, 0.1]
    target = {"w": sum(c * part["w"] for c, part in zip(wanted, parts, strict=True))}
    assert ckptdiff.mix(target, parts).total.coefficients == pytest.approx(wanted, abs=1e-6)


def test_equal_parts_share_evenly() -> None:
    report = ckptdiff.mix(arrays(w=[2, 4]), [arrays(w=[1, 2])] * 4)
    assert report.total.coefficients == pytest.approx([0.5] * 4)
    assert report.total.residual == pytest.approx(0, abs=1e-7)
    other = arrays(w=[0, 5])
    report = ckptdiff.mix(arrays(w=[1, 7]), [arrays(w=[1, 2]), other, other])
    assert report.total.coefficients == pytest.approx([1, 0.5, 0.5])
    report = ckptdiff.mix(arrays(w=[0, 0]), [arrays(w=[0, 0]), arrays(w=[0, 0])])
    assert report.total.coefficients == pytest.approx([0.5, 0.5])
    assert (report.total.residual, report.total.rel_residual) == (0, 0)
    assert report.exact


def test_a_target_of_zeros_and_one_that_nothing_explains() -> None:
    report = ckptdiff.mix(arrays(w=[0, 1]), [arrays(w=[1, 0])])
    assert report.total.coefficients == pytest.approx([0])
    assert (report.total.residual, report.total.rel_residual) == pytest.approx((1, 1))


def test_elements_that_are_not_finite_somewhere_take_no_part() -> None:
    parts = [arrays(a=[1, np.nan, 3], b=[np.inf]), arrays(a=[3, 0, 5], b=[1])]
    report = ckptdiff.mix(arrays(a=[2, 9, 4], b=[1]), parts)
    row = {row.name: row for row in report.rows}
    assert (row["a"].numel, row["a"].finite) == (3, 2)
    assert row["a"].coefficients == pytest.approx([0.5, 0.5])
    assert row["a"].mismatches == 1
    assert (row["b"].finite, row["b"].mismatches) == (0, 1)
    assert all(math.isnan(x) for x in (*row["b"].coefficients, row["b"].rel_residual))
    assert "NaN" in report.to_json()


def test_one_part_is_compared_as_it_is() -> None:
    report = ckptdiff.mix(arrays(w=[2, 4]), [arrays(w=[1, 2])])
    assert report.total.coefficients == pytest.approx([2])
    assert not report.exact
    assert ckptdiff.mix(arrays(w=[1, 2]), [arrays(w=[1, 2])]).exact


def test_what_not_all_have_is_named_and_no_success(tmp_path: Path) -> None:
    first = write_file(tmp_path / "1.safetensors", {"a": tensor([1, 2]), "b": tensor([1])})
    second = write_file(tmp_path / "2.safetensors", {"a": tensor([1, 2]), "b": tensor([1, 2])})
    target = write_file(tmp_path / "t.safetensors", {"a": tensor([1, 2]), "c": tensor([0])})
    report = ckptdiff.mix(target, [first, second])
    assert report.total.mismatches == 0
    assert not report.exact
    where = {item.name: item.missing_in for item in report.not_common}
    assert where["c"] == ("1", "2")
    assert "target" in where["b"]
    outcome = invoke("mix", target, first, second)
    assert outcome.status == 1
    assert "not the mean of the 2 parts, rounded: 2 tensors could not be compared" in outcome.stdout
    assert "c: not usable in part 1, part 2" in outcome.stdout
    assert invoke("mix", target, first, second, "--include", "a").status == 0


def test_parts_under_other_names_than_the_target(training_run: TrainingRun, tmp_path: Path) -> None:
    import transformers
    from olmo_core.nn.hf import convert
    from safetensors.torch import load_file, save_file

    soup, parts = training_run.path(SOUP), [training_run.path(part) for part in PARTS]
    native = tmp_path / "native.safetensors"
    config = transformers.AutoConfig.from_pretrained(soup)
    weights = load_file(soup / "model.safetensors")
    converted = convert.convert_state_from_hf(config, weights, model_type="olmo2")
    save_file({name: value.contiguous() for name, value in converted.items()}, native)
    outcome = invoke("mix", native, *parts)
    assert outcome.status == 0
    assert (
        "part 3 is mapped to the target's names by hf-to-olmo-core (47 tensors)" in outcome.stdout
    )
    report = ckptdiff.mix(soup, [parts[0], native], include="*.mlp.*")
    assert [row.numel for row in report.rows] == [80 * 224] * 12
    assert report.not_common == ()
    assert_one_line_of_trouble(
        invoke("mix", native, *parts, "--map", "none"),
        f"{native}: none of its 47 tensors is in every part under one name",
    )
    with pytest.raises(ValueError, match="unknown map 'hf'"):
        ckptdiff.mix(native, parts, map="hf")


def test_a_target_without_the_tied_weight_that_a_part_stores() -> None:
    random = np.random.default_rng(3)
    names = ("model.embed_tokens.weight", "model.norm.weight")
    once = [
        {name: random.standard_normal((8, 4)).astype(np.float32) for name in names} for _ in "12"
    ]
    target = {name: (once[0][name] + once[1][name]) / 2 for name in names}
    twice = {**once[1], "lm_head.weight": once[1][names[0]]}
    for parts in ([once[0], twice], [twice, once[0]]):
        report = ckptdiff.mix(target, parts)
        assert report.exact
        assert [row.name for row in report.rows] == ["lm_head.weight", *names]
        assert [remark.split(" does")[0] for remark in report.remarks] == [
            "the target",
            f"part {parts.index(once[0]) + 1}",
        ]


@pytest.mark.parametrize("count", [3, 4])
def test_the_order_of_float32_parts_is_found(count: int) -> None:
    random = np.random.default_rng(count)
    shapes = {"a": (40,), "b": (50, 20), "c": (7,), "d": (30, 30)}
    parts = [
        {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(count)
    ]
    for order in itertools.permutations(range(count)):
        target = {}
        for name in shapes:
            total = parts[order[0]][name]
            for place in order[1:]:
                total = total + parts[place][name]
            target[name] = total / np.float32(count)
        report = ckptdiff.mix(target, parts)
        assert report.exact
        assert report.total.mismatches == 0
        # the first two may be summed either way round
        assert report.order == tuple(place + 1 for place in (*sorted(order[:2]), *order[2:]))
        told = f"(summed in float32 in the order {', '.join(map(str, report.order))})"
        assert (told in repr(report)) == (list(report.order) != sorted(report.order))
        assert json.loads(report.to_json())["summary"]["order"] == list(report.order)
    target["d"] = np.nextafter(target["d"], np.float32(np.inf))
    report = ckptdiff.mix(target, parts)
    assert not report.exact
    assert report.order == tuple(range(1, count + 1))


def test_of_many_parts_only_the_order_given_is_tried() -> None:
    random = np.random.default_rng(5)
    parts = [{"w": random.standard_normal(500).astype(np.float32)} for _ in range(5)]
    total = parts[0]["w"]
    for part in parts[1:]:
        total = total + part["w"]
    assert ckptdiff.mix({"w": total / np.float32(5)}, parts).exact
    report = ckptdiff.mix({"w": total / np.float32(5)}, parts[::-1])
    assert not report.exact
    assert "depend on the order of the parts, and only the one given was tried" in repr(report)


# What comes out.


def test_json_has_the_documented_keys(training_run: TrainingRun) -> None:
    paths = [training_run.path(label) for label in (SOUP, *PARTS)]
    outcome = invoke("mix", *paths, "--format", "json", "--include", "*.mlp.*", "--by", "layer")
    assert outcome.status == 0
    document = json.loads(outcome.stdout)
    assert list(document) == ["schema", "target", "parts", "options", "summary", "groups"]
    assert document["schema"] == "ckptdiff.mix/1"
    assert document["target"]["path"] == str(paths[0])
    assert [part["path"] for part in document["parts"]] == [str(path) for path in paths[1:]]
    assert document["options"]["include"] == ["*.mlp.*"]
    assert document["summary"]["exact"] is True
    assert list(document["summary"]["total"]) == [
        "name", "tensors", "numel", "finite", "coefficients",
        "coefficient_sum", "residual", "rel_residual", "mismatches", "max_ulp",
    ]  # fmt: skip
    assert [group["name"] for group in document["groups"]] == [
        f"model.layers.{i}" for i in range(4)
    ]
    again = invoke("mix", *paths, "--format", "json", "--include", "*.mlp.*", "--by", "layer",
                   "--threads", "1", "--io", "read")  # fmt: skip
    assert again.stdout == outcome.stdout


def test_the_table_says_it_in_a_sentence(training_run: TrainingRun) -> None:
    paths = [training_run.path(label) for label in (SOUP, *PARTS)]
    outcome = invoke("mix", *paths, "--by", "module")
    assert outcome.status == 0
    assert (
        "≡ exactly the mean of the 3 parts, rounded: 47 tensors, every element\n" in outcome.stdout
    )
    assert "nearest: 0.333" in outcome.stdout
    assert "total of 47 tensors" in outcome.stdout
    outcome = invoke("mix", *paths[:3], "--by", "total")
    assert outcome.status == 1
    assert "≠ not the mean of the 2 parts, rounded: " in outcome.stdout
    quiet = invoke("mix", *paths, "--quiet")
    assert (quiet.status, quiet.stdout, quiet.stderr) == (0, "", "")
    text = invoke("mix", *paths, "--format", "markdown", "--by", "layer").stdout
    assert "**Exactly the mean of the 3 parts, rounded: 47 tensors, every element.**" in text
    assert "| `model.layers.0` |" in text


def test_csv_and_the_order_of_rows(soup: ckptdiff.MixReport, tmp_path: Path) -> None:
    lines = soup.to_csv().splitlines()
    assert lines[0] == (
        "name,tensors,numel,finite,coefficient_1,coefficient_2,coefficient_3,"
        "coefficient_sum,residual,rel_residual,mismatches,max_ulp"
    )
    assert len(lines) == 48
    by_size = soup.sorted("numel").head(2)
    assert [row.name for row in by_size.rows] == ["lm_head.weight", "model.embed_tokens.weight"]
    assert by_size.sorted("name").rows == by_size.rows
    by_residual = soup.sorted("rel_residual")
    assert by_residual.sorted("name").rows == soup.rows
    assert by_residual.sorted().rows == by_residual.rows
    residuals = [row.rel_residual for row in by_residual.rows]
    assert residuals == sorted(residuals, reverse=True)
    assert len(soup.head(0)) == 0
    soup.to_json(tmp_path / "mix.json")
    assert (tmp_path / "mix.json").read_text() == soup.to_json()
    assert repr(soup).startswith("target  ")
    for column in COLUMNS:
        assert len(soup.sorted(column)) == 47


def test_what_is_wrong_is_one_line(training_run: TrainingRun, tmp_path: Path) -> None:
    target, part = training_run.path(SOUP), training_run.path(PARTS[0])
    assert_one_line_of_trouble(invoke("mix", target, tmp_path / "none"), "none")
    says = "unknown column 'residul'; did you mean 'residual'?"
    assert_one_line_of_trouble(invoke("mix", target, part, "--sort", "residul"), says)
    assert_one_line_of_trouble(invoke("mix", target), "Missing argument 'PART...'")
    assert_one_line_of_trouble(
        invoke("mix", target, part, "--include", "nothing"), "leave none of 94 tensors"
    )
    with pytest.raises(ValueError, match="there are no parts"):
        ckptdiff.mix(target, [])
    with pytest.raises(TypeError, match="a sequence of checkpoints, not one"):
        ckptdiff.mix(target, str(part))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be 0 or more"):
        ckptdiff.mix(target, [part]).head(-1)


def test_progress_goes_once_through_both_passes(training_run: TrainingRun) -> None:
    seen: list[tuple[int, int]] = []
    ckptdiff.mix(
        training_run.path(SOUP),
        [training_run.path(part) for part in PARTS],
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == sorted(seen)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


def test_no_tensors_at_all_are_no_mismatch() -> None:
    report = ckptdiff.mix({}, [{}, {}])
    assert report.exact
    assert report.total.numel == 0
    assert report.rows == ()


def test_products_that_float64_does_not_hold_give_nan() -> None:
    huge = {"w": np.array([1e200, 2e200])}
    report = ckptdiff.mix(huge, [huge, {"w": np.array([1e200, 0])}])
    assert all(math.isnan(value) for value in report.total.coefficients)
    assert math.isnan(report.total.rel_residual)
    assert report.total.mismatches == 2


def test_the_gram_matrix_alone_is_enough() -> None:
    random = np.random.default_rng(2)
    p = random.standard_normal((3, 40))
    t = 0.2 * p[0] + 0.9 * p[1] - 0.1 * p[2] + 0.01 * random.standard_normal(40)
    basis = np.array([p[0], p[1] - p[0], p[2] - p[0], t - p[0]])
    even = np.ones((4, 4)) * [1, 0, 0, 0] * np.array([[1], [0], [0], [0]])
    found, alone = combinations(np.array([basis @ basis.T, even]))
    coefficients = expected_coefficients(t, list(p))
    assert found.coefficients == pytest.approx(coefficients)
    assert found.residual == pytest.approx(np.linalg.norm(t - p.T @ coefficients))
    assert found.norm == pytest.approx(np.linalg.norm(t))
    # three times the same part, which the target is
    assert alone.coefficients == pytest.approx([1 / 3] * 3)
    assert (alone.residual, alone.norm) == (0, 1)
