"""Tokens in labels, held against those of the other labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import ckptdiff
import pytest
from ckptdiff.dynamics.order import Place
from ckptdiff.dynamics.problems import Problem
from ckptdiff.dynamics.token_labels import without_wrong_tokens
from ckptdiff.naming.revisions import parse_revision

from tests.series_runs import chain

BILLION = 10**9


def held_against(labels: Sequence[str]) -> tuple[list[Place], list[Problem]]:
    """The places of these labels, and what is wrong with them."""
    places = []
    for revision in map(parse_revision, labels):
        places.append(
            Place(
                stage=revision.stage,
                ingredient=revision.ingredient,
                ingredients=revision.ingredients,
                is_soup=revision.is_soup,
                step=revision.step,
                tokens=revision.tokens,
                stage_tokens=revision.tokens,
                tokens_unit=revision.tokens_unit,
            )
        )
    return without_wrong_tokens(labels, places)


def wrong(labels: Sequence[str]) -> list[str]:
    _, problems = held_against(labels)
    assert {problem.kind for problem in problems} <= {"label_mismatch"}
    return [label for problem in problems for label in problem.labels]


@pytest.mark.parametrize(
    ("tokens", "odd"),
    [
        ([42, 84, 126, 168, 210], []),
        ([42, 84, 126, 199, 210], [40]),
        ([42, 84, 126, 9, 210], [40]),
        ([42, 84, 126, 999, 210], [40]),
        ([42, 84, 126, 168, 999], [50]),
        ([999, 84, 126, 168, 210], [10]),
        ([42, 84, 199], [30]),
        # two of five agree, which is not most of them
        ([42, 199, 84, 168, 999], []),
        # rounded up, down, and to the nearest
        ([41, 85, 125, 169, 209], []),
        # too few to say which is wrong
        ([42, 199], []),
        ([42, 199, 420], []),
    ],
)
def test_the_one_that_does_not_fit_is_wrong(tokens: list[int], odd: list[int]) -> None:
    labels = [f"step{10 * n}000-tokens{count}B" for n, count in enumerate(tokens, start=1)]
    assert wrong(labels) == [labels[step // 10 - 1] for step in odd]


def rounded(step: int, batch: int, how: str) -> int:
    count = step * batch / BILLION
    return {"up": math.ceil(count), "down": math.floor(count), "near": round(count)}[how]


PUBLISHED = {
    "OLMo 2 7B": """
        stage1-step150-tokens1B stage1-step1000-tokens5B stage1-step2000-tokens9B
        stage1-step2150-tokens10B stage1-step5000-tokens21B stage1-step10000-tokens42B
        stage1-step11000-tokens47B stage1-step15000-tokens63B stage1-step101000-tokens424B
        stage1-step200000-tokens839B stage1-step207000-tokens869B stage1-step310000-tokens1301B
        stage1-step400000-tokens1678B stage1-step413000-tokens1733B stage1-step516000-tokens2165B
        stage1-step599000-tokens2513B stage1-step600000-tokens2517B stage1-step722000-tokens3029B
        stage1-step928646-tokens3896B stage2-ingredient1-step1000-tokens5B
        stage2-ingredient1-step11931-tokens50B stage2-ingredient2-step11931-tokens50B
        stage2-ingredient3-step1000-tokens5B stage2-ingredient3-step11931-tokens51B""",
    "OLMo 2 13B": """
        stage1-step1000-tokens9B stage1-step2000-tokens17B stage1-step102500-tokens860B
        stage1-step596057-tokens5001B stage2-ingredient1-step11931-tokens101B
        stage2-ingredient2-step11931-tokens101B stage2-ingredient3-step11931-tokens101B
        stage2-ingredient4-step35773-tokens300B""",
    # 4,423,680 tokens a step
    "OLMo 7B": """
        step0-tokens0B step1000-tokens4B step2000-tokens9B step3000-tokens13B step9000-tokens40B
        step7000-tokens31B step45000-tokens199B step157000-tokens695B step257000-tokens1137B
        step424000-tokens1876B""",
    # a billion is lost on the way
    "OLMo 7B 0424": """
        step200000-tokens838B step408923-tokens1714B step409000-tokens1714B step470000-tokens1970B
        step557000-tokens2335B step621000-tokens2603B step639000-tokens2679B step639650-tokens2681B
        step644650-tokens2702B step650650-tokens2728B step651581-tokens2731B""",
    "TinyLlama": """
        step-50K-105b step-240k-503b step-480k-token-1007B step-715k-1.5T step-955k-token-2T
        step-1195k-token-2.5T step-1431k-3T""",
    # the batch is doubled after 8 T tokens
    "Apertus 8B": """
        step50000-tokens210B step100000-tokens420B step150000-tokens630B step200000-tokens840B
        step250000-tokens1050B step300000-tokens1260B step400000-tokens1680B step500000-tokens2100B
        step700000-tokens2940B step1000000-tokens4200B step1432000-tokens6014B
        step1750000-tokens7652B step2100000-tokens10592B step2400000-tokens13112B
        step2627139-tokens15T""",
}


@pytest.mark.parametrize("series", PUBLISHED)
def test_published_labels_fit(series: str) -> None:
    labels = PUBLISHED[series].split()
    places, problems = held_against(labels)
    assert problems == []
    assert [place.tokens for place in places] == [parse_revision(one).tokens for one in labels]


@pytest.mark.parametrize("series", PUBLISHED)
def test_a_wrong_one_among_published_labels_is_found(series: str) -> None:
    labels = PUBLISHED[series].split()
    middle = parse_revision(labels[len(labels) // 3])
    odd = f"stage1-step{middle.step}-tokens{3 * (middle.tokens or 0)}"
    labels[labels.index(middle.label)] = odd if middle.stage else odd.removeprefix("stage1-")
    (found,) = wrong(labels)
    assert found in odd


@pytest.mark.parametrize("how", ["up", "down", "near"])
@pytest.mark.parametrize("batch", [2**22, 2**23, 4_423_680])
def test_every_rounding_fits(how: str, batch: int) -> None:
    steps = [150, *range(1000, 900_000, 1000), 928_646]
    labels = [f"stage1-step{step}-tokens{rounded(step, batch, how)}B" for step in steps]
    for ingredient in (1, 2, 3):
        steps = [*range(1000, 11000, 1000), 11931]
        labels += [
            f"stage2-ingredient{ingredient}-step{step}-tokens{rounded(step, batch, how)}B"
            for step in steps
        ]
    assert wrong(labels) == []


def test_what_is_expected_is_as_exact_as_it_is_known() -> None:
    # the last batch may be there or not, so a step has 256 give or take 9
    _, (problem,) = held_against(
        ["step10-tokens2560", "step20-tokens5120", "step30-tokens7680", "step40-tokens999B"]
    )
    assert problem.text.endswith("by label, but about 10,300 at the 260 a step of the other labels")


def test_three_batches_that_were_lost_are_nothing_wrong() -> None:
    lost = {step: 3 * 2048 * (step > 6000) for step in range(1000, 10_000, 1000)}
    assert wrong([f"step{step}-tokens{2048 * step - less}" for step, less in lost.items()]) == []


def test_what_is_counted_through_or_by_a_growing_batch_is_not_judged() -> None:
    through = [
        f"stage2-step{step}-tokens{4000 + 4 * step // 1000}B" for step in range(1000, 9000, 1000)
    ]
    assert wrong(through) == []
    growing = [f"step{step}-tokens{step**2 // 10**6}B" for step in range(1000, 20_000, 1000)]
    assert wrong(growing) == []


def test_ingredients_may_have_batches_of_their_own() -> None:
    labels = [
        f"stage2-ingredient{ingredient}-step{step}000-tokens{batch * step}B"
        for ingredient, batch in ((1, 4), (2, 4), (3, 12))
        for step in range(3, 12)
    ]
    assert wrong(labels) == []
    # what has too few of its own is held against the stage
    short = [*labels[:18], "stage2-ingredient3-step11000-tokens330B"]
    assert wrong(short) == [short[-1]]


def test_a_wrong_label_does_not_make_the_next_one_odd(tmp_path: Path) -> None:
    chain(tmp_path, [f"step{n}0-tokens{999 if n == 4 else n}B" for n in range(1, 7)])
    report = ckptdiff.series(tmp_path)
    (problem,) = report.problems
    assert problem.kind == "label_mismatch"
    assert problem.text == (
        "step40-tokens999B: tokens is 999,000,000,000 by label, but about 4,000,000,000 at the "
        "100,000,000 a step of the other labels"
    )
    assert [one.tokens for one in report.checkpoints] == [
        None if n == 4 else n * BILLION for n in range(1, 7)
    ]
    assert report.exit_status == 1
