"""Which checkpoints make up a series, in what order, and which of them each one follows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ckptdiff
import pytest
import torch
from ckptdiff.dynamics.discover import Search, find, read_list, revision_of
from ckptdiff.dynamics.natural import natural_key
from ckptdiff.dynamics.order import Place, arrange, with_tokens
from ckptdiff.dynamics.report import SeriesReport
from ckptdiff.errors import CheckpointNotFoundError
from safetensors.torch import save_file

from tests.cli import invoke
from tests.series_runs import Walk, chain, put


def search(*paths: Path | str) -> Search:
    found = Search()
    find([str(path) for path in paths], found)
    return found


def search_list(path: Path | str) -> Search:
    found = Search()
    read_list(str(path), found)
    return found


def labels(*paths: Path | str) -> list[str]:
    return [found.label for found in search(*paths).found]


# Directories.


def test_a_run_is_read_in_natural_order(tmp_path: Path) -> None:
    chain(tmp_path, ["step0", "step5", "step10", "step100"])
    (tmp_path / "logs").mkdir()
    (tmp_path / "notes.txt").write_text("no checkpoint")
    assert labels(tmp_path) == ["step0", "step5", "step10", "step100"]


def test_stages_and_ingredients_are_directories(tmp_path: Path) -> None:
    names = [
        "stage1/step100",
        "stage1/step200",
        "stage2/ingredient1/step10",
        "stage2/ingredient2/step10",
    ]
    chain(tmp_path, names)
    chain(tmp_path / "too" / "deep" / "for" / "a", ["step1", "step2"])
    assert labels(tmp_path) == names
    report = ckptdiff.series(tmp_path)
    positions = [(one.stage, one.ingredient, one.step) for one in report.checkpoints]
    assert positions == [(1, None, 100), (1, None, 200), (2, 1, 10), (2, 2, 10)]
    assert report.data.parents == (-1, 0, 1, 1)


def test_files_of_a_run(tmp_path: Path) -> None:
    walk = Walk()
    torch.save(walk.step(), tmp_path / "step1.pt")
    save_file(walk.step(), tmp_path / "step2.safetensors")
    torch.save(walk.step(), tmp_path / "step10.pth")
    torch.save({"lr": torch.ones(1)}, tmp_path / "scheduler_10.pt")
    torch.save({"seed": torch.ones(1)}, tmp_path / "rng_state_0.pth")
    assert labels(tmp_path) == ["step1", "step2", "step10"]
    formats = [one.format for one in ckptdiff.series(tmp_path).checkpoints]
    assert formats == ["torch", "safetensors", "torch"]


def test_damaged_files_and_links_that_look_like_steps(tmp_path: Path) -> None:
    walk = Walk()
    for step in (1, 2):
        torch.save(walk.step(), tmp_path / f"step{step}.pt")
    (tmp_path / "step3.pt").write_bytes(b"")
    (tmp_path / "step4.pt").write_bytes(b"junk" * 10)
    (tmp_path / "step5").symlink_to("nowhere")
    (tmp_path / "step6.pt").symlink_to("nowhere.pt")
    (tmp_path / "optim_step3.pt").write_bytes(b"")
    (tmp_path / "latest").symlink_to("nowhere")
    report = ckptdiff.series(tmp_path)
    assert len(report) == 2
    damaged = [problem.labels for problem in report.problems if problem.kind == "damaged"]
    assert damaged == [("step3",), ("step4",), ("step5",), ("step6",)]


@pytest.mark.parametrize("stem", ["model", "step5-model"])
def test_shards_are_no_series(stem: str, tmp_path: Path) -> None:
    """The files of one sharded checkpoint have numbers too."""
    weights = Walk().step()
    names = list(weights)
    files = {}
    for shard in (0, 1):
        file = f"{stem}-0000{shard + 1}-of-00002.safetensors"
        save_file({name: weights[name] for name in names[shard::2]}, tmp_path / file)
        files |= dict.fromkeys(names[shard::2], file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert len(search(tmp_path).found) == 1


def test_the_final_model_beside_its_checkpoints(tmp_path: Path) -> None:
    """As Hugging Face's trainer leaves it: checkpoints in the directory of the model."""
    chain(tmp_path, ["checkpoint-500", "checkpoint-1000"])
    put(tmp_path, Walk().step())
    run = search(tmp_path)
    assert [found.label for found in run.found] == ["checkpoint-500", "checkpoint-1000"]
    assert [problem.kind for problem in run.problems] == ["not_a_member"]


def test_a_checkpoint_with_a_folder_inside_is_one(tmp_path: Path) -> None:
    model = put(tmp_path / "model", Walk().step())
    put(model / "original", Walk().step())
    assert labels(model) == ["model"]


def test_links_are_read_once(tmp_path: Path) -> None:
    chain(tmp_path, ["step1", "step2"])
    (tmp_path / "latest").symlink_to("step2")
    run = search(tmp_path)
    assert [found.label for found in run.found] == ["step1", "step2"]
    (problem,) = run.problems
    assert (problem.kind, problem.labels) == ("listed_twice", ("step2",))
    assert problem.text.endswith("latest: a link to step2, which is read once")


def test_a_repository_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    """Revisions are files of refs, and the one that tells a step names a commit."""
    repository = tmp_path / "models--allenai--OLMo-2-0425-1B"
    (repository / "refs" / "pr").mkdir(parents=True)
    walk = Walk()
    for revision, commit in (("stage1-step10-tokens1B", "a1"), ("stage1-step20-tokens2B", "b2")):
        put(repository / "snapshots" / commit, walk.step())
        (repository / "refs" / revision).write_text(commit)
    (repository / "refs" / "main").write_text("b2")
    (repository / "refs" / "pr" / "1").write_text("not downloaded")
    run = search(repository)
    assert [found.label for found in run.found] == [
        "stage1-step10-tokens1B",
        "stage1-step20-tokens2B",
    ]
    assert [problem.text for problem in run.problems] == [
        "main: the same as stage1-step20-tokens2B, which is read once"
    ]
    where = json.loads(invoke("where", repository, "--json").stdout)["checkpoints"]
    assert [one["step"] for one in where] == [10, 20]
    report = ckptdiff.series(repository)
    assert [one.step for one in report.checkpoints] == [10, 20]
    assert [one.tokens for one in report.checkpoints] == [10**9, 2 * 10**9]


def test_a_saved_series_is_no_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    chain(run, ["step1", "step2", "step3"])
    saved = run / "series5.npz"
    ckptdiff.series(run).save(saved)
    report = ckptdiff.series(run)
    assert (len(report), report.problems) == (3, ())
    for paths in ([saved, run], [run, saved]):
        with pytest.raises(ValueError, match=r"series5\.npz: a saved series is shown by itself"):
            ckptdiff.series(paths)
    outcome = invoke("where", saved, run)
    assert outcome.status == 2
    assert "a saved series" in outcome.stderr
    assert "step3" in outcome.stdout


# Soups that are not called so.


def in_two_ingredients(folder: Path, *others: str) -> SeriesReport:
    parts = [f"stage2-ingredient{part}-step{step}" for part in (1, 2) for step in (5, 10)]
    chain(folder, ["stage1-step10", "stage1-step20", *parts, *others])
    return ckptdiff.series(folder)


@pytest.mark.parametrize("name", ["stage2", "stage2-step10", "main", "stage2-soup", "stage2-mean"])
def test_what_names_no_part_is_the_soup(name: str, tmp_path: Path) -> None:
    report = in_two_ingredients(tmp_path, name)
    last = report.checkpoints[-1]
    assert (last.label, last.stage, last.ingredient, last.is_soup) == (name, 2, None, True)
    # a leaf beside them
    assert report.checkpoints[last.parent].label == "stage1-step20"
    assert [one.is_soup for one in report.checkpoints[:-1]] == [False] * 6
    called_so = "soup" in name
    assert [problem.kind for problem in report.problems] == ([] if called_so else ["soup_assumed"])
    report.save(tmp_path / "saved")
    assert SeriesReport.load(str(tmp_path / "saved")).checkpoints == report.checkpoints


def test_several_steps_that_name_no_part_are_a_branch(tmp_path: Path) -> None:
    report = in_two_ingredients(tmp_path, "stage2-step5", "stage2-step10")
    assert not any(one.is_soup for one in report.checkpoints)
    labels = [one.label for one in report.checkpoints]
    assert report.data.parents[labels.index("stage2-step10")] == labels.index("stage2-step5")


def test_a_stage_of_one_part_has_no_soup(tmp_path: Path) -> None:
    chain(tmp_path, ["stage1-step10", "stage2-step5", "main"])
    report = ckptdiff.series(tmp_path)
    assert not any(one.is_soup for one in report.checkpoints)
    assert [problem.kind for problem in report.problems] == ["no_position"]


def test_several_paths_keep_what_tells_them_apart(tmp_path: Path) -> None:
    chain(tmp_path, ["stage1/step1", "stage2/step1", "stage2/step2"])
    paths = [tmp_path / "stage1/step1", tmp_path / "stage2/step1"]
    assert labels(*paths) == ["stage1/step1", "stage2/step1"]
    assert labels(tmp_path / "stage1", tmp_path / "stage2") == [
        "stage1/step1",
        "stage2/step1",
        "stage2/step2",
    ]
    assert labels(paths[0], paths[0]) == ["step1"]


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="nowhere: no such file"):
        search(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("label", "stage", "ingredient", "step"),
    [
        ("stage2/ingredient1/step9", 2, 1, 9),
        ("stage2-ingredient1-step11931-tokens50B", 2, 1, 11931),
        ("run/0000020000", None, None, 20000),
        ("stage2/0000020000", 2, None, 20000),
        ("checkpoint-500", None, None, 500),
        ("main", None, None, None),
    ],
)
def test_labels_of_nested_directories(
    label: str, stage: int | None, ingredient: int | None, step: int | None
) -> None:
    revision = revision_of(label)
    assert (revision.stage, revision.ingredient, revision.step) == (stage, ingredient, step)


def test_natural_order() -> None:
    names = ["step10", "step9", "step010", "a", "step9b", "2", "10"]
    assert sorted(names, key=natural_key) == [
        "2",
        "10",
        "a",
        "step9",
        "step9b",
        "step010",
        "step10",
    ]


# Lists.


def write_list(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_the_lists_of_olmo(tmp_path: Path) -> None:
    """A list of stage 2 has ingredients and no stage; addresses stand for what was downloaded."""
    labels = ["step10-unsharded", "stage2_ingredient1/step5-unsharded"]
    chain(tmp_path, [f"peteish7/{label}" for label in labels] + ["i2/step5"])
    first = write_list(
        tmp_path / "a.csv",
        "Step,Checkpoint Directory",
        "10,https://olmo-checkpoints.org/ai2-llm/peteish7/step10-unsharded/",
    )
    second = write_list(
        tmp_path / "b.csv",
        "Ingredient,Step,Checkpoint Directory",
        "1,5,https://olmo-checkpoints.org/ai2-llm/peteish7/stage2_ingredient1/step5-unsharded/",
        f"2,5,{tmp_path}/i2/step5",
        "3,5,https://olmo-checkpoints.org/ai2-llm/peteish7/stage2_ingredient3/step5-unsharded/",
    )
    report = ckptdiff.series(lists=[first, second])
    positions = [(one.stage, one.ingredient, one.step) for one in report.checkpoints]
    assert positions == [(1, None, 10), (2, 1, 5), (2, 2, 5)]
    assert report.data.parents == (-1, 0, 0)
    (problem,) = (one for one in report.problems if one.kind == "not_found")
    assert "1 of 3 checkpoints are not here" in problem.text
    assert "stage2_ingredient3" in problem.text
    assert not report.is_sound
    (note,) = (one for one in report.problems if one.kind == "stage_assumed")
    assert note.text.startswith("step10: no stage is known, taken for stage 1")


def test_steps_without_a_stage_beside_a_second_stage(tmp_path: Path) -> None:
    """Nobody calls a stage the first before there is a second."""
    chain(tmp_path, ["step10-tokens1B", "step20-tokens2B", "stage2-ingredient1-step5-tokens1B"])
    report = ckptdiff.series(tmp_path)
    assert [(one.stage, one.step) for one in report.checkpoints] == [(1, 10), (1, 20), (2, 5)]
    assert report.data.parents == (-1, 0, 1)
    assert [one.tokens for one in report.checkpoints][:2] == [10**9, 2 * 10**9]
    (note,) = (one for one in report.problems if one.kind == "stage_assumed")
    assert note.labels == ("step10-tokens1B", "step20-tokens2B")
    assert report.is_sound


def test_steps_without_a_stage_and_no_second_one(tmp_path: Path) -> None:
    chain(tmp_path, ["step10", "step20", "stage1-step30"])
    report = ckptdiff.series(tmp_path)
    assert sorted(one.stage or 0 for one in report.checkpoints) == [0, 0, 1]
    assert "stage_assumed" not in [one.kind for one in report.problems]


def test_a_list_that_contradicts_a_name(tmp_path: Path) -> None:
    chain(tmp_path, ["stage1/step10", "stage2/ingredient1/step5"])
    lines = ("1,,10,stage1/step10", "3,2,5,stage2/ingredient1/step5")
    path = write_list(tmp_path / "x.csv", "Stage,Ingredient,Step,Checkpoint Directory", *lines)
    texts = [p.text for p in ckptdiff.series(lists=path).problems if p.kind == "label_mismatch"]
    assert texts == [
        "stage3-ingredient2-step5: stage is 3 by the list, but 2 by directory name stage2",
        "stage3-ingredient2-step5: ingredient is 2 by the list, "
        "but 1 by directory name ingredient1",
    ]


def test_what_a_list_says_otherwise_than_names_is_what_orders(tmp_path: Path) -> None:
    """One source tells the order, the branches and what is reported."""
    names = [
        "stage1-step10",
        "stage1-step30",
        "stage2-ingredient1-step5",
        "stage2-ingredient1-step9",
    ]
    chain(tmp_path, names)
    lines = (f"1,,10,{names[0]}", f"1,,35,{names[1]}", f"2,2,5,{names[2]}", f"2,1,9,{names[3]}")
    path = write_list(tmp_path / "x.csv", "Stage,Ingredient,Step,Checkpoint Directory", *lines)
    report = ckptdiff.series(lists=path)
    assert [one.step for one in report.checkpoints] == [10, 35, 9, 5]
    assert [one.ingredient for one in report.checkpoints] == [None, None, 1, 2]
    assert report.data.parents == (-1, 0, 1, 1)
    texts = [p.text for p in report.problems if p.kind == "label_mismatch"]
    assert texts == [
        "stage1-step35: step is 35 by the list, but 30 by directory name stage1-step30",
        "stage2-ingredient2-step5: ingredient is 2 by the list, "
        "but 1 by directory name stage2-ingredient1-step5",
    ]


def test_a_list_with_stages_and_tokens(tmp_path: Path) -> None:
    """As OLMo 3 has it: stages by name, tokens of the whole run."""
    chain(tmp_path, ["a", "b", "c"])
    lines = (
        "stage1_pretraining,1000,4194304000,a",
        "stage_2_midtraining,500,6291456000,b",
        'stage3_longcontext,20,"6,300,000,000",c',
    )
    path = write_list(tmp_path / "x.csv", "Stage,Step,Tokens Seen,Checkpoint Directory", *lines)
    report = ckptdiff.series(lists=path)
    assert [one.stage for one in report.checkpoints] == [1, 2, 3]
    assert [one.tokens for one in report.checkpoints] == [4194304000, 6291456000, 6300000000]
    assert report.data.parents == (-1, 0, 1)


def test_rows_that_repeat_are_read_and_reported_once(tmp_path: Path) -> None:
    chain(tmp_path, ["step1", "step2"])
    rows = ["1,step1", "2,step2"] * 21
    run = search_list(write_list(tmp_path / "x.csv", "Step,Checkpoint Directory", *rows))
    assert [found.label for found in run.found] == ["step1", "step2"]
    (problem,) = run.problems
    assert problem.kind == "listed_twice"
    assert "40 rows repeat another" in problem.text


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["Step,Folder", "1,a"], "no column 'Checkpoint Directory'"),
        ([""], "no column 'Checkpoint Directory'"),
        (["Step,Checkpoint Directory", "one,a"], "line 2: step 'one' is no number"),
        (["Step,Checkpoint Directory", "1"], "line 2 has 1 fields, expected 2"),
        (["Step,Checkpoint Directory", "1,"], "line 2 names no directory"),
        (["Stage,Checkpoint Directory", "late,a"], "line 2: stage 'late' is no number"),
        (["Step,Checkpoint Directory", '1,"a'], None),
    ],
)
def test_a_list_that_is_none(lines: list[str], says: str | None, tmp_path: Path) -> None:
    path = write_list(tmp_path / "x.csv", *lines)
    if says is None:
        assert search_list(path).found == []
        return
    with pytest.raises(ValueError, match=r"x\.csv") as error:
        search_list(path)
    assert says in str(error.value)


def test_a_list_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"Step,Checkpoint Directory\n1,\xff\xfe\n")
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        search_list(tmp_path / "x.csv")
    with pytest.raises(CheckpointNotFoundError, match="no such file"):
        search_list(tmp_path / "y.csv")


def test_an_address_cannot_leave_the_folder(tmp_path: Path) -> None:
    chain(tmp_path, ["secret/step1"])
    folder = tmp_path / "lists"
    folder.mkdir()
    path = write_list(
        folder / "x.csv", "Step,Checkpoint Directory", "1,https://a.org/x/../secret/step1"
    )
    assert search_list(path).found == []


# Order and the tree.

TREE = [
    ("stage2-ingredient2-step10", 5, 2),
    ("stage1-step200", 2, 1),
    ("stage2-ingredient1-step10", 3, 2),
    ("stage1-step100", 1, 0),
    ("stage2-ingredient1+2-step20", 7, 2),
    ("stage2-ingredient1-step20", 4, 3),
    ("stage3-step5", 8, 7),
    ("stage2-ingredient2-step20", 6, 5),
    ("main", 9, 8),
]


def place_of(label: str) -> Place:
    revision = revision_of(label)
    return Place(
        stage=revision.stage,
        phase=revision.phase,
        ingredient=revision.ingredient,
        ingredients=revision.ingredients,
        is_soup=revision.is_soup,
        step=revision.step,
        index=revision.index,
        stage_tokens=revision.tokens,
    )


def test_ingredients_branch_and_a_soup_is_a_leaf() -> None:
    """The second column is the place in the order, from 1, and the third that of the parent."""
    indices, parents = arrange([place_of(label) for label, *_ in TREE], "position")
    order = [TREE[index][0] for index in indices]
    assert order == [label for label, *_ in sorted(TREE, key=lambda entry: entry[1])]
    assert [parent + 1 for parent in parents] == [
        parent for _, _, parent in sorted(TREE, key=lambda entry: entry[1])
    ]


def test_a_given_order_is_a_chain() -> None:
    indices, parents = arrange([place_of(label) for label, *_ in TREE], "given")
    assert indices == list(range(9))
    assert parents == list(range(-1, 8))


def test_without_steps_the_order_is_as_given() -> None:
    indices, parents = arrange([place_of(label) for label in ("b", "a", "c")], "position")
    assert (indices, parents) == ([0, 1, 2], [-1, 0, 1])


def test_stages_that_have_only_a_name() -> None:
    names = ["lc-32k-to-64k-step-10", "stage3-step-20", "lc-4k-to-32k-step-10", "stage1-step-40"]
    indices, parents = arrange([place_of(name) for name in names], "position")
    assert [names[index] for index in indices] == [names[3], names[1], names[2], names[0]]
    assert parents == [-1, 0, 1, 2]


def test_checkpoints_that_are_counted() -> None:
    indices, parents = arrange([place_of(f"ckpt_{n}") for n in (10, 9, 100)], "position")
    assert (indices, parents) == ([1, 0, 2], [-1, 0, 1])


def test_ingredients_without_a_first_stage_are_roots() -> None:
    names = [f"stage2-ingredient{i}-step{s}" for i in (1, 2) for s in (1, 2)]
    _, parents = arrange([place_of(name) for name in names], "position")
    assert parents == [-1, 0, -1, 2]


def test_soups_of_several_steps_are_leaves_each() -> None:
    names = ["stage1-step1", *(f"stage2-ingredient1+2-step{step}" for step in (10, 20))]
    _, parents = arrange([place_of(name) for name in names], "position")
    assert parents == [-1, 0, 0]


def test_tokens_add_up_along_branches() -> None:
    names = [
        "stage1-step1-tokens4B",
        "stage1-step2-tokens8B",
        "stage2-ingredient1-step1-tokens1B",
        "stage2-ingredient1-step2-tokens2B",
        "stage2-ingredient2-step1-tokens1B",
    ]
    places = [place_of(name) for name in names]
    places[:2] = [
        Place(stage=1, step=s, tokens=4 * s, stage_tokens=4 * s, is_end=s == 2) for s in (1, 2)
    ]
    places[2:] = [
        Place(stage=2, ingredient=i, ingredients=(i,), step=s, stage_tokens=s)
        for i, s in ((1, 1), (1, 2), (2, 1))
    ]
    _, parents = arrange(places, "position")
    assert [place.tokens for place in with_tokens(places, parents)] == [4, 8, 9, 10, 9]
    # the last that is here need not be the last there was
    places[1] = replace(places[1], is_end=False)
    assert [place.tokens for place in with_tokens(places, parents)] == [4, 8, None, None, None]
    # one that counts through tells where its branch began
    places[2] = replace(places[2], tokens=21)
    assert [place.tokens for place in with_tokens(places, parents)] == [4, 8, 21, 22, None]
    # and without a first stage nothing is known of it
    assert with_tokens(places[4:], [-1])[0].tokens is None


def test_what_is_named_twice_is_read_once(tmp_path: Path) -> None:
    """By a path and by a list, or by two lists."""
    chain(tmp_path, ["step1", "step2"])
    path = write_list(tmp_path / "x.csv", "Step,Checkpoint Directory", "1,step1", "2,step2")
    report = ckptdiff.series(tmp_path, lists=[path, path])
    assert len(report) == 2
    assert {problem.kind for problem in report.problems} == {"listed_twice"}
