"""The arrays of a series against float64 arithmetic on the tensors, and whether it is sound."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import ckptdiff
import numpy as np
import pytest
import torch
from ckptdiff.dynamics.order import Place
from ckptdiff.dynamics.report import SeriesReport
from ckptdiff.dynamics.soundness import intervals
from ckptdiff.dynamics.trajectory import QUANTITIES
from ckptdiff.errors import CheckpointNotFoundError
from ckptdiff.naming.groups import layer, module
from safetensors.torch import save_file

from tests.series_runs import SHAPES, Walk, Weights, chain, float64, in_stages, put


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Weights]]:
    folder = tmp_path_factory.mktemp("series") / "run"
    return folder, in_stages(folder)


@pytest.fixture(scope="module")
def report(run: tuple[Path, dict[str, Weights]]) -> SeriesReport:
    return ckptdiff.series(run[0])


def kinds(report: SeriesReport) -> list[str]:
    return [problem.kind for problem in report.problems]


# Arrays.


def test_order_and_tree(run: tuple[Path, dict[str, Weights]], report: SeriesReport) -> None:
    assert [one.label for one in report.checkpoints] == list(run[1])
    assert report.data.parents == (-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 10, 7)
    assert report.checkpoints[7].tokens == 9 * 10**9
    # nothing says that stage 1 ended at step 900
    assert report.checkpoints[9].tokens is None
    assert report.checkpoints[9].stage_tokens == 2 * 10**9
    assert report.checkpoints[9].path == str(run[0] / report.checkpoints[9].label)
    assert report.checkpoints[9].format == "safetensors"


@pytest.mark.parametrize("name", ["tensor", "layer", "module", "total"])
def test_every_level_against_float64(
    name: str, run: tuple[Path, dict[str, Weights]], report: SeriesReport
) -> None:
    keys = {"tensor": str, "layer": layer, "module": module, "total": lambda _: "total"}
    groups: dict[str, list[str]] = {}
    # natural order of these names
    for tensor in sorted(SHAPES):
        groups.setdefault(keys[name](tensor), []).append(tensor)
    weights = [float64(one) for one in run[1].values()]
    parents = report.data.parents
    level = report.level(name)  # type: ignore[arg-type]
    assert level.names == tuple(groups)
    for row, tensors in enumerate(groups.values()):
        held = np.array([np.concatenate([one[t] for t in tensors]) for one in weights])
        updates = np.array(
            [w - held[p] if p >= 0 else w for w, p in zip(held, parents, strict=True)]
        )
        assert level.numel[row] == level.finite[row] == held.shape[1]
        np.testing.assert_allclose(level.gram[row], updates @ updates.T, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(level.stats["l2"][:, row], np.linalg.norm(held, axis=1))
        np.testing.assert_allclose(level.stats["mean"][:, row], held.mean(axis=1), atol=1e-9)
        np.testing.assert_array_equal(level.stats["abs_max"][:, row], abs(held).max(axis=1))
        norms = np.linalg.norm(updates, axis=1)
        np.testing.assert_allclose(level.diffs["l2"][1:, row], norms[1:], rtol=1e-7)
        changed = (updates != 0).sum(axis=1)
        np.testing.assert_array_equal(level.diffs["changed"][1:, row], changed[1:])
        # these are bf16 already
        np.testing.assert_array_equal(level.diffs["changed_bf16"][1:, row], changed[1:])
        assert np.isnan(level.diffs["l2"][0, row])
        assert np.isnan(level.diffs["changed_bf16"][0, row])
    assert "verdict" not in level.diffs


def test_stats_and_diffs_are_those_of_the_other_commands(
    run: tuple[Path, dict[str, Weights]], report: SeriesReport
) -> None:
    labels = list(run[1])
    index = labels.index("stage2-ingredient2-step10-tokens1B")
    parent = run[0] / labels[report.data.parents[index]]
    diff = ckptdiff.diff(parent, run[0] / labels[index]).by("layer")
    stats = ckptdiff.stats(run[0] / labels[index]).by("layer")
    level = report.level("layer")
    for columns, rows in ((level.diffs, diff), (level.stats, stats)):
        for name, values in columns.items():
            if name != "changed_bf16":
                np.testing.assert_array_equal(values[index], rows.columns[name].astype(float))


def test_elements_that_are_not_finite_are_counted_out(tmp_path: Path) -> None:
    walk = Walk(dtype="float32")
    for step in (1, 2, 3):
        weights = walk.step()
        if step == 2:
            # one of 152: of more than a hundredth, a checkpoint has diverged
            weights["head.weight"][0, :2] = torch.tensor([np.nan, 1.0])
        put(tmp_path / f"step{step}", weights)
    report = ckptdiff.series(tmp_path)
    level = report.level("tensor")
    row = level.names.index("head.weight")
    assert (level.numel[row], level.finite[row]) == (48, 47)
    assert report.data.total.finite[0] == report.data.total.numel[0] - 1
    assert np.isfinite(level.gram).all()
    assert level.stats["nan"][:, row].tolist() == [0, 1, 0]


def test_a_label_and_a_mapping_are_a_checkpoint_in_memory(report: SeriesReport) -> None:
    walk = Walk(dtype="float32")
    held = {f"stage1-step{step}": walk.step() for step in (20, 10)}
    held["file"] = walk.step()
    in_memory = ckptdiff.series(held)
    assert [one.label for one in in_memory.checkpoints] == [
        "stage1-step10",
        "stage1-step20",
        "file",
    ]
    assert [one.path for one in in_memory.checkpoints] == ["", "", ""]
    weights = [float64(held[one.label]) for one in in_memory.checkpoints]
    distance = np.sqrt(sum(((weights[2][t] - weights[0][t]) ** 2).sum() for t in SHAPES))
    np.testing.assert_allclose(in_memory.trajectory().distances[0, 0, 2], distance, rtol=1e-9)
    assert kinds(in_memory) == ["no_position"]
    assert in_memory.is_sound
    # without labels they are numbered, and follow one another
    numbered = ckptdiff.series([ckptdiff.open(one) for one in held.values()])
    assert [one.label for one in numbered.checkpoints] == ["#0", "#1", "#2"]
    assert numbered.data.parents == (-1, 0, 1)


def test_paths_and_opened_checkpoints_mix(run: tuple[Path, dict[str, Weights]]) -> None:
    first, second = list(run[1])[:2]
    report = ckptdiff.series([ckptdiff.open(run[0] / first), run[0] / second])
    assert [one.label for one in report.checkpoints] == [first, second]
    with pytest.raises(TypeError, match="several checkpoints, not one"):
        ckptdiff.series(ckptdiff.open(run[0] / first))
    with pytest.raises(ValueError, match=f"two checkpoints have the label '{first}'"):
        ckptdiff.series([ckptdiff.open(run[0] / first), run[0] / first])


def test_globs_choose_tensors(run: tuple[Path, dict[str, Weights]]) -> None:
    report = ckptdiff.series(run[0], include="layers.*", exclude=["*.norm.*", "nothing*"])
    names = ("layers.0.mlp.weight", "layers.1.mlp.weight")
    assert report.level("tensor").names == names
    assert "unmatched_rule" in kinds(report)
    with pytest.raises(ValueError, match="leave none of"):
        ckptdiff.series(run[0], include="nothing*")


def test_results_do_not_depend_on_how_they_are_read(
    run: tuple[Path, dict[str, Weights]], report: SeriesReport, tmp_path: Path
) -> None:
    text = report.to_json(by="tensor")
    for options in ({"threads": 1}, {"threads": 5, "io": "read"}, {"isa": "portable"}):
        if options.get("isa", "portable") in ckptdiff._core.isa_levels():
            assert ckptdiff.series(run[0], **options).to_json(by="tensor") == text
    for label, weights in run[1].items():
        torch.save(weights, tmp_path / f"{label}.pt")
    level = ckptdiff.series(tmp_path).data.total
    np.testing.assert_array_equal(level.gram, report.data.total.gram)


def test_wrong_options(run: tuple[Path, dict[str, Weights]]) -> None:
    for options in ({"order": "positon"}, {"threads": -1}, {"io": "maped"}, {"isa": "avx3"}):
        with pytest.raises(ValueError, match=r"position|threads|mapped|instruction set"):
            ckptdiff.series(run[0], **options)
    with pytest.raises(CheckpointNotFoundError, match="nowhere"):
        ckptdiff.series([run[0], run[0] / "nowhere"])
    with pytest.raises(ValueError, match="two checkpoints or more, and there is only one"):
        ckptdiff.series(run[0] / next(iter(run[1])))
    with pytest.raises(ValueError, match="two checkpoints or more, and there is none"):
        ckptdiff.series([])
    with pytest.raises(TypeError, match="int"):
        ckptdiff.series({"a": 5, "b": 6})


# Is it sound?


def test_missing_steps_and_duplicates(report: SeriesReport) -> None:
    assert kinds(report) == ["missing_step", "duplicate"]
    missing, duplicate = report.problems
    assert missing.text == "stage 1: step missing at an interval of 100: 500"
    assert missing.labels == ("stage1-step400-tokens4B", "stage1-step600-tokens6B")
    assert duplicate.labels == ("stage1-step300-tokens3B", "stage1-step800-tokens8B")
    assert duplicate.text == f"byte-identical: {', '.join(duplicate.labels)}"
    assert not report.is_sound
    assert report.exit_status == 1


def test_a_sound_series(tmp_path: Path) -> None:
    chain(tmp_path, ["step0", "step100", "step200", "step300", "step350"])
    report = ckptdiff.series(tmp_path)
    assert report.problems == ()
    assert report.exit_status == 0


def test_equal_statistics_are_not_yet_equal_bytes(tmp_path: Path) -> None:
    """The same values in another order agree in every sum, and are no duplicate."""
    chain(tmp_path, ["step3"])
    weights = {"w": torch.tensor([1.0, 2.0, 3.0, 2.0])}
    put(tmp_path / "step1", weights)
    put(tmp_path / "step2", {"w": torch.tensor([2.0, 1.0, 3.0, 2.0])})
    put(tmp_path / "step3", {"w": torch.tensor([1.0, 5.0, 3.0, 2.0])})
    report = ckptdiff.series(tmp_path)
    assert report.problems == ()
    stats = report.level("tensor").stats
    assert all(np.array_equal(column[0], column[1]) for column in stats.values())


def test_three_copies_of_one_checkpoint(tmp_path: Path) -> None:
    """As steps 101000, 175000 and 300000 of OLMo 2 7B are."""
    chain(tmp_path, ["step1", "step2", "step3", "step4"])
    for step in (3, 4):
        shutil.copy(tmp_path / "step1/model.safetensors", tmp_path / f"step{step}")
    (problem,) = ckptdiff.series(tmp_path).problems
    assert problem.labels == ("step1", "step3", "step4")


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ([0, 100, 200, 300], []),
        ([0, 100, 200, 250], []),  # training ended
        ([0, 1, 2, 4, 8, 100, 200, 300, 400, 500, 600, 700], []),  # dense at first, as Pythia
        ([100, 200, 400, 500], ["missing_step: step missing at an interval of 100: 300"]),
        (
            [1000, 2000, 3000, 10000, 11000, 12000],
            ["missing_step: 6 steps missing at an interval of 1,000: "
             "4000, 5000, 6000, 7000, 8000 and 1 more"],
        ),
        ([500, 1500, 3500, 4500], ["missing_step: step missing at an interval of 1,000: 2500"]),
        ([100, 200, 300, 520], ["missing_step: 2 steps missing at an interval of 100: 400, 500"]),
        (
            [100, 200, 250, 300, 400],
            ["uneven_interval: 50 steps from step200 to step250, expected 100",
             "uneven_interval: 50 steps from step250 to step300, expected 100"],
        ),
        ([0, 10, 1000, 5000], ["uneven_interval: intervals between 10 and 4,000 steps"]),
        ([0, 100], []),
        ([7], []),
    ],
)  # fmt: skip
def test_intervals(steps: list[int], found: list[str]) -> None:
    problems = intervals([f"step{step}" for step in steps], [Place(step=step) for step in steps])
    assert [f"{problem.kind}: {problem.text}" for problem in problems] == found


def _of_ingredients(steps: dict[int, list[int]]) -> list[str]:
    places = [
        Place(stage=2, ingredient=ingredient, ingredients=(ingredient,), step=step)
        for ingredient, those in steps.items()
        for step in those
    ]
    labels = [f"{place.ingredient}:{place.step}" for place in places]
    found = intervals(labels, places)
    return [f"{problem.kind}: {problem.text} ({', '.join(problem.labels)})" for problem in found]


_FULL = [15, 30, 45, 60]


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ({1: _FULL, 2: _FULL, 3: _FULL}, []),
        (
            {1: _FULL, 2: [30, 45, 60], 3: [15, 30, 45]},
            ["missing_step: stage 2, ingredient 2: step missing that ingredients 1, 3 have: 15 "
             "(2:30)",
             "missing_step: stage 2, ingredient 3: step missing that ingredients 1, 2 have: 60 "
             "(3:45)"],
        ),
        # what the interval tells is told once
        (
            {1: _FULL, 2: _FULL, 3: [15, 30, 60, 75]},
            ["missing_step: stage 2, ingredient 3: step missing at an interval of 15: 45 "
             "(3:30, 3:60)"],
        ),
        # two steps have no interval of their own
        (
            {1: _FULL, 2: _FULL, 3: [15, 60]},
            ["missing_step: stage 2, ingredient 3: 2 steps missing that ingredients 1, 2 have: "
             "30, 45 (3:15, 3:60)"],
        ),
        (
            {1: _FULL, 2: [30, 45, 60]},
            ["missing_step: stage 2, ingredient 2: step missing that ingredient 1 has: 15 (2:30)"],
        ),
        # as one of OLMo 2 13B's, that is trained three times as long, and ends beside the interval
        ({1: [5, 10, 12], 2: [5, 10, 12], 3: [5, 10, 12], 4: [5, 10, 15, 20, 25, 30, 35, 36]}, []),
        ({1: [5, 10, 12], 2: [5, 10, 15, 20, 25, 30, 35, 36]}, []),
        # what only some have is not promised
        ({1: [60], 2: [60], 3: _FULL}, []),
        ({1: [15], 2: _FULL, 3: _FULL},
            ["missing_step: stage 2, ingredient 1: 3 steps missing that ingredients 2, 3 have: "
             "30, 45, 60 (1:15)"]),
    ],
)  # fmt: skip
def test_steps_that_the_other_ingredients_have(
    steps: dict[int, list[int]], found: list[str]
) -> None:
    assert _of_ingredients(steps) == found


def test_a_label_that_does_not_fit(tmp_path: Path) -> None:
    """The trainer's own state says what step it is."""
    chain(tmp_path, ["checkpoint-10", "checkpoint-20", "checkpoint-30"])
    for step, told in ((10, 10), (20, 25), (30, 30)):
        state = {"global_step": told, "log_history": [{"step": told, "learning_rate": 1e-3 / step}]}
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    report = ckptdiff.series(tmp_path)
    assert [one.step for one in report.checkpoints] == [10, 25, 30]
    assert report.checkpoints[0].learning_rate == 1e-4
    (problem,) = (one for one in report.problems if one.kind == "label_mismatch")
    assert problem.labels == ("checkpoint-20",)
    assert problem.text == (
        "checkpoint-20: step is 25 by trainer_state.json global_step, "
        "but 20 by directory name checkpoint-20"
    )
    # a label that the caller gave, and one that a list gives
    named = {f"step{n}": tmp_path / f"checkpoint-{n}" for n in (10, 30)}
    given = ckptdiff.series({"step11": tmp_path / "checkpoint-10", **named})
    (problem,) = (one for one in given.problems if one.kind == "label_mismatch")
    assert problem.text.startswith("step11: step is 10 by")
    assert problem.text.endswith("but 11 by label")
    table = tmp_path / "list.csv"
    table.write_text("Step,Checkpoint Directory\n10,checkpoint-10\n31,checkpoint-30\n")
    listed = ckptdiff.series(lists=table)
    (problem,) = (one for one in listed.problems if one.kind == "label_mismatch")
    assert problem.text.endswith("but 31 by the list")


def test_another_shape_is_left_out(tmp_path: Path) -> None:
    chain(tmp_path, ["step1", "step2", "step4"])
    put(tmp_path / "step3", Walk(shapes=SHAPES | {"layers.1.mlp.weight": (4, 8)}).step())
    report = ckptdiff.series(tmp_path)
    assert [one.label for one in report.checkpoints] == ["step1", "step2", "step4"]
    problem = next(one for one in report.problems if one.kind == "architecture")
    assert "'layers.1.mlp.weight' is [4, 8], expected [4, 6]" in problem.text
    assert problem.labels == ("step3",)


def test_another_number_of_layers_is_left_out(tmp_path: Path) -> None:
    chain(tmp_path, ["step1", "step3"])
    put(tmp_path / "step2", Walk(shapes=SHAPES | {"layers.2.mlp.weight": (4, 6)}).step())
    report = ckptdiff.series(tmp_path)
    assert [one.label for one in report.checkpoints] == ["step1", "step3"]
    assert "3 layers, expected 2" in report.problems[0].text


def test_another_config_is_left_out(tmp_path: Path) -> None:
    """The same shapes, with other heads: every row of a projection means something else."""
    chain(tmp_path, ["step1", "step2", "step3"])
    for step in (1, 2, 3):
        config = {
            "model_type": "olmo2", "hidden_size": 4, "num_hidden_layers": 2,
            "num_attention_heads": 2 if step == 2 else 1, "vocab_size": 12,
        }  # fmt: skip
        (tmp_path / f"step{step}" / "config.json").write_text(json.dumps(config))
    report = ckptdiff.series(tmp_path)
    assert [one.label for one in report.checkpoints] == ["step1", "step3"]
    assert "n_heads 2, expected 1" in report.problems[0].text


def test_a_tensor_that_one_lacks(tmp_path: Path) -> None:
    """A tied head is not stored everywhere: it is left out and said so."""
    chain(tmp_path, ["step1", "step3"])
    weights = Walk(1).step()
    del weights["head.weight"]
    put(tmp_path / "step2", weights)
    report = ckptdiff.series(tmp_path)
    assert len(report) == 3
    assert "head.weight" not in report.level("tensor").names
    (problem,) = report.problems
    assert (problem.kind, problem.labels) == ("not_common", ("step2",))
    assert "'head.weight'" in problem.text


def test_damaged_checkpoints_are_left_out(tmp_path: Path) -> None:
    labels = [f"step{n}" for n in range(1, 7)]
    chain(tmp_path, labels)
    torn = tmp_path / "step2/model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-10])
    (tmp_path / "step3/model.safetensors").write_bytes(b"")
    (tmp_path / "step4/model.safetensors").unlink()
    report = ckptdiff.series(tmp_path)
    assert [one.label for one in report.checkpoints] == ["step1", "step5", "step6"]
    damaged = [problem for problem in report.problems if problem.kind == "damaged"]
    assert [problem.labels for problem in damaged] == [("step2",), ("step3",), ("step4",)]
    assert all("\n" not in problem.text for problem in damaged)
    assert "step2" in damaged[0].text


def test_a_read_that_fails_midway_goes_on_without_it(tmp_path: Path) -> None:
    """A deflated member whose bytes are wrong is seen only when it is read."""
    walk = Walk(dtype="float32")
    for step in (1, 2, 3, 4):
        arrays = {name: held.numpy() for name, held in walk.step().items()}
        np.savez_compressed(tmp_path / f"step{step}.npz", **arrays)
    file = tmp_path / "step2.npz"
    data = bytearray(file.read_bytes())
    at = data.index(b"PK\x03\x04", 100)
    data[at - 40 : at - 20] = bytes(20)
    file.write_bytes(data)
    report = ckptdiff.series(tmp_path)
    assert [one.label for one in report.checkpoints] == ["step1", "step3", "step4"]
    assert report.data.parents == (-1, 0, 1)
    problem = next(one for one in report.problems if one.kind == "damaged")
    assert problem.labels == ("step2",)
    assert "step2.npz" in problem.text


def test_names_of_two_conventions_have_no_tensor_in_common(tmp_path: Path) -> None:
    chain(tmp_path, ["step1", "step3"])
    save_file({"other": torch.ones(3)}, tmp_path / "step2.safetensors")
    report = ckptdiff.series(tmp_path)
    assert [one.label for one in report.checkpoints] == ["step1", "step3"]
    assert "no tensor has a name of the others'" in report.problems[0].text


def test_exports_of_a_run_are_mapped_to_its_names(tmp_path: Path) -> None:
    """Two steps of the first OLMo, whose projections are fused, and one that was converted."""
    width = 4
    walk = Walk(
        dtype="float32",
        shapes={
            "transformer.wte.weight": (6, width),
            "transformer.blocks.0.att_proj.weight": (3 * width, width),
            "transformer.blocks.0.attn_out.weight": (width, width),
            "transformer.blocks.0.ff_proj.weight": (16, width),
            "transformer.blocks.0.ff_out.weight": (width, 8),
            "transformer.ln_f.weight": (width,),
        },
    )
    for step in (1, 2):
        put(tmp_path / f"step{step}", walk.step())
    native = walk.step()
    q, k, v = native["transformer.blocks.0.att_proj.weight"].split(width)
    up, gate = native["transformer.blocks.0.ff_proj.weight"].split(8)
    block = "model.layers.0"
    exported = {
        "model.embed_tokens.weight": native["transformer.wte.weight"],
        f"{block}.self_attn.q_proj.weight": q,
        f"{block}.self_attn.k_proj.weight": k,
        f"{block}.self_attn.v_proj.weight": v,
        f"{block}.self_attn.o_proj.weight": native["transformer.blocks.0.attn_out.weight"],
        f"{block}.mlp.up_proj.weight": up,
        f"{block}.mlp.gate_proj.weight": gate,
        f"{block}.mlp.down_proj.weight": native["transformer.blocks.0.ff_out.weight"],
        "model.norm.weight": native["transformer.ln_f.weight"],
    }
    put(tmp_path / "step3", {name: held.contiguous() for name, held in exported.items()})
    report = ckptdiff.series(tmp_path)
    assert kinds(report) == ["mapped"]
    assert report.is_sound
    assert report.problems[0].text == "step3: names are mapped by hf-to-olmo (6 tensors)"
    assert set(report.level("tensor").names) == set(native)
    put(tmp_path / "native" / "step3", native)
    same = ckptdiff.series([tmp_path / "step1", tmp_path / "step2", tmp_path / "native/step3"])
    np.testing.assert_array_equal(report.data.total.gram, same.data.total.gram)
    # as they are, the third has no name of the others
    left = ckptdiff.series([tmp_path / f"step{n}" for n in (1, 2, 3)], map="none")
    assert kinds(left) == ["architecture"]


EMBEDDINGS = "model.embed_tokens.weight"


def exports(folder: Path, *, storing: Sequence[int]) -> dict[str, Weights]:
    """Exports of a model whose head is its embeddings, which only some store a second time."""
    walk = Walk(shapes={EMBEDDINGS: (12, 4), "model.norm.weight": (4,)}, dtype="float32")
    written = {}
    for step in range(1, 6):
        weights = walk.step()
        written[f"step{step}"] = weights | {"lm_head.weight": weights[EMBEDDINGS].clone()}
        stored = written[f"step{step}"] if step in storing else weights
        put(folder / f"step{step}", stored)
    return written


@pytest.mark.parametrize(
    ("storing", "who"),
    [
        ([1, 2, 3, 5], "step4 does"),
        ([1, 3, 5], "step2, step4 do"),
        ([4], "step1, step2, step3 and 1 more do"),
    ],
)
def test_a_tied_head_that_some_store_is_compared_in_all(
    storing: list[int], who: str, tmp_path: Path
) -> None:
    written = exports(tmp_path, storing=storing)
    report = ckptdiff.series(tmp_path)
    (note,) = report.problems
    assert (note.kind, note.is_note) == ("tied", True)
    assert note.text == (
        f"{who} not store lm_head.weight: its tied twin {EMBEDDINGS} is compared, "
        "and counts as a tensor"
    )
    assert note.labels == tuple(f"step{n}" for n in range(1, 6) if n not in storing)
    assert set(report.level("tensor").names) == set(written["step1"])
    for label, weights in written.items():
        put(tmp_path / "all" / label, weights)
    same = ckptdiff.series(tmp_path / "all")
    assert same.problems == ()
    np.testing.assert_array_equal(report.data.total.gram, same.data.total.gram)
    assert report.data.total.numel == same.data.total.numel == 12 * 4 * 2 + 4


def test_a_head_that_is_not_tied_is_no_twin(tmp_path: Path) -> None:
    exports(tmp_path, storing=[1, 2, 3, 5])
    (tmp_path / "step4" / "config.json").write_text('{"tie_word_embeddings": false}')
    report = ckptdiff.series(tmp_path)
    (problem,) = report.problems
    assert (problem.kind, problem.labels) == ("not_common", ("step4",))
    assert set(report.level("tensor").names) == {EMBEDDINGS, "model.norm.weight"}


def test_a_native_step_among_tied_exports(tmp_path: Path) -> None:
    """OLMo-core stores the head, and calls all otherwise."""
    block = "model.layers.0.self_attn.q_proj.weight"
    walk = Walk(
        shapes={EMBEDDINGS: (12, 4), block: (4, 4), "model.norm.weight": (4,)}, dtype="float32"
    )
    for step in (1, 2):
        put(tmp_path / f"step{step}", walk.step())
    third = walk.step()
    native = {
        "embeddings.weight": third[EMBEDDINGS],
        "blocks.0.attention.w_q.weight": third[block],
        "lm_head.norm.weight": third["model.norm.weight"],
        "lm_head.w_out.weight": third[EMBEDDINGS].clone(),
    }
    put(tmp_path / "step3", native)
    report = ckptdiff.series(tmp_path)
    mapped, tied = report.problems
    assert mapped.text == "step3: names are mapped by olmo-core-to-hf (4 tensors)"
    assert tied.labels == ("step1", "step2")
    assert set(report.level("tensor").names) == {*third, "lm_head.weight"}


def test_64_tiny_checkpoints_are_quick(tmp_path: Path) -> None:
    import time

    chain(tmp_path, [f"step{n}" for n in range(64)])
    start = time.perf_counter()
    report = ckptdiff.series(tmp_path)
    assert len(report) == 64
    assert time.perf_counter() - start < 3.0


def test_a_checkpoint_that_is_left_out_is_not_missing_too(tmp_path: Path) -> None:
    chain(tmp_path, [f"step{n}" for n in (1, 2, 3, 4, 5)])
    (tmp_path / "step3/model.safetensors").write_bytes(b"torn")
    put(tmp_path / "step4", Walk(shapes={"embed.weight": (5, 5)}).step())
    report = ckptdiff.series(tmp_path)
    assert [one.step for one in report.checkpoints] == [1, 2, 5]
    assert sorted(kinds(report)) == ["architecture", "damaged"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_run_of_olmo_core(tmp_path: Path) -> None:
    """Steps as OLMo-core leaves them: a distributed checkpoint in a folder of the step's."""
    import torch.distributed.checkpoint as dcp

    walk = Walk(dtype="float32")
    held = {}
    for step in (1000, 2000, 10000):
        folder = tmp_path / f"step{step}"
        held[step] = walk.step()
        state = {f"model.{name}": value for name, value in held[step].items()}
        dcp.save(state, checkpoint_id=folder / "model_and_optim", no_dist=True)
        (folder / "config.json").write_text("{}")
        (folder / "train").mkdir()
    report = ckptdiff.series(tmp_path)
    assert [one.step for one in report.checkpoints] == [1000, 2000, 10000]
    assert {one.format for one in report.checkpoints} == {"torch distributed"}
    weights = [float64(one) for one in held.values()]
    distance = np.sqrt(sum(((weights[2][t] - weights[0][t]) ** 2).sum() for t in SHAPES))
    np.testing.assert_allclose(report.trajectory().distances[0, 0, 2], distance, rtol=1e-9)


def test_problems_come_before_notes(tmp_path: Path) -> None:
    chain(tmp_path, ["step1", "step2", "step3"])
    (tmp_path / "latest").symlink_to("step3")
    shutil.copy(tmp_path / "step1/model.safetensors", tmp_path / "step2")
    report = ckptdiff.series(tmp_path)
    assert kinds(report) == ["duplicate", "listed_twice"]
    assert [problem.is_note for problem in report.problems] == [False, True]


# One that diverged.


def with_one_diverged(folder: Path, at: int, *, share: float = 1.0, count: int = 15) -> list[str]:
    """A chain of which the checkpoint ``at`` is NaN in a share of its elements."""
    labels = [f"step{10 * step}" for step in range(1, count + 1)]
    written = chain(folder, labels)
    broken = {name: held.clone() for name, held in written[labels[at]].items()}
    for held in broken.values():
        held.view(-1)[: round(share * held.numel())] = float("nan")
    put(folder / labels[at], broken)
    return labels


@pytest.mark.parametrize("at", [0, 7, 14])
def test_one_that_diverged_leaves_the_others_as_they_are_without_it(
    at: int, tmp_path: Path
) -> None:
    labels = with_one_diverged(tmp_path / "run", at)
    report = ckptdiff.series(tmp_path / "run")
    rest = [index for index in range(15) if index != at]
    without = ckptdiff.series([tmp_path / "run" / labels[index] for index in rest])
    assert [one.label for one in report.checkpoints] == labels
    assert kinds(report) == ["diverged"]
    assert report.problems[0].labels == (labels[at],)
    assert report.is_sound
    for name in ("tensor", "layer", "module", "total"):
        mine, others = report.level(name), without.level(name)
        np.testing.assert_array_equal(mine.finite, others.finite)
        np.testing.assert_array_equal(mine.gram[:, rest][:, :, rest], others.gram)
        assert np.isnan(mine.gram[:, at]).all()
        assert np.isnan(mine.gram[:, :, at]).all()
        np.testing.assert_array_equal(mine.stats["nan"][at], mine.numel)
        for column in mine.diffs:
            np.testing.assert_array_equal(mine.diffs[column][rest], others.diffs[column])
        moved, expected = report.trajectory(name), without.trajectory(name)
        for quantity in QUANTITIES:
            got = getattr(moved, quantity)
            np.testing.assert_array_equal(got[rest], getattr(expected, quantity), quantity)
        np.testing.assert_array_equal(moved.diffusion_exponent, expected.diffusion_exponent)
    assert np.isfinite(report.trajectory().norm[rest]).all()
    assert [one.label for one in without.checkpoints] == [labels[index] for index in rest]
    events = [(event.kind, labels[event.checkpoint]) for event in report.events]
    assert ("first_nonfinite", labels[at]) in events
    assert {one.index for one in report.pick(100)} == set(rest)
    document = json.loads(report.to_json(by="layer", pick=3))
    coordinates = np.array(document["levels"][0]["principal_components"]["coordinates"], float)
    assert np.isfinite(coordinates[:, rest]).all()
    assert np.isnan(coordinates[:, at]).all()
    assert document["picked"][0]["checkpoint"] == labels[rest[-1]]
    report.save(tmp_path / "saved")
    assert SeriesReport.load(tmp_path / "saved").to_json() == report.to_json()
    assert report.to_csv(tmp_path / "csv", pick=3)


def test_a_few_elements_that_are_not_finite_are_left_out_alone(tmp_path: Path) -> None:
    walk = Walk(shapes={"a": (300,), "b": (100,)})
    for step in range(3):
        weights = walk.step()
        weights["a"][:4] = float("nan") if step == 1 else 0.0
        put(tmp_path / f"step{step}", weights)
    report = ckptdiff.series(tmp_path)
    assert kinds(report) == []
    assert report.level("total").finite[0] == 396


def test_plots_of_a_series_with_one_that_diverged(tmp_path: Path) -> None:
    with_one_diverged(tmp_path / "run", 7)
    report = ckptdiff.series(tmp_path / "run")
    assert len(report.write_plots(tmp_path / "plots")) == 10
