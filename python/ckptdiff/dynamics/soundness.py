"""Is the series sound? What is missing, there twice, mislabelled, or of another architecture.

Nothing is read here but headers and configs, except that two checkpoints whose statistics agree in
every column are compared byte by byte before they are called identical.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from ckptdiff.config import SHAPES, ModelConfig, config_differences
from ckptdiff.dynamics.data import SeriesData, SeriesLevel
from ckptdiff.dynamics.order import Place
from ckptdiff.dynamics.problems import Problem
from ckptdiff.naming.groups import layer

__all__ = [
    "Shapes",
    "assumed_soup",
    "assumed_stage",
    "duplicates",
    "intervals",
    "not_common",
    "odd_ones_out",
    "token_order",
]

#: The tensors of a checkpoint by name, as far as they are compared.
Shapes = Mapping[str, tuple[int, ...]]

# Steps that are missing are named one by one up to this many.
_NAMED_AT_MOST = 5


def odd_ones_out(
    labels: Sequence[str], shapes: Sequence[Shapes], configs: Sequence[ModelConfig | None]
) -> dict[int, str]:
    """The checkpoints of another architecture than most, and what differs in each.

    Another architecture is a field of the config that shapes layers, a tensor of another shape, a
    layer more or less, or no tensor in common. A tensor that is only absent, as a tied one can be,
    is none. The architecture that most have is what the others are held against; of two as
    frequent, that of the first.
    """
    kinds = [tuple(sorted(one.items())) for one in shapes]
    models = [
        None if one is None else tuple(getattr(one, field) for field in SHAPES) for one in configs
    ]
    counts, counts_of_models = Counter(kinds), Counter(models)
    counts_of_models[None] = 0
    reference = max(
        range(len(kinds)),
        key=lambda index: (counts[kinds[index]], counts_of_models[models[index]], -index),
        default=0,
    )
    differences: dict[int, str] = {}
    for index in range(len(kinds)):
        difference = _config_difference(configs[reference], configs[index])
        if difference is None and kinds[index] != kinds[reference]:
            difference = _difference(shapes[reference], shapes[index])
        if difference is not None:
            differences[index] = f"{difference} (against {labels[reference]})"
    return differences


def _config_difference(reference: ModelConfig | None, other: ModelConfig | None) -> str | None:
    if reference is None or other is None:
        return None
    different = [
        f"{field} {value}, expected {expected}"
        for field, expected, value in config_differences(reference, other)
        if field in SHAPES
    ]
    return ", ".join(different) or None


def _difference(reference: Shapes, other: Shapes) -> str | None:
    common = [name for name in reference if name in other]
    if not common:
        return "no tensor has a name of the others'"
    reshaped = [name for name in common if reference[name] != other[name]]
    if reshaped:
        name = reshaped[0]
        rest = f" and {len(reshaped) - 1:,} more" if len(reshaped) > 1 else ""
        return f"tensor {name!r} is {list(other[name])}, expected {list(reference[name])}{rest}"
    layers, expected = _layers(other), _layers(reference)
    if layers != expected:
        return f"{len(layers)} layers, expected {len(expected)}"
    return None


def _layers(shapes: Shapes) -> set[str]:
    """The numbered layers."""
    return {name for name in map(layer, shapes) if re.search(r"(^|\.)[0-9]+$", name)}


def assumed_stage(labels: Sequence[str]) -> Problem:
    """The note on checkpoints that tell no stage and are taken for those of stage 1."""
    several = f"{labels[0]} to {labels[-1]}, {len(labels):,} checkpoints" if labels[1:] else ""
    text = f"{several or labels[0]}: no stage is known, taken for stage 1 as there are later ones"
    return Problem("stage_assumed", text, tuple(labels))


def assumed_soup(label: str, stage: int) -> Problem:
    """The note on a checkpoint that is taken for the soup of a stage's ingredients."""
    text = f"{label}: tells no ingredient of stage {stage}, taken for the soup of them"
    return Problem("soup_assumed", text, (label,))


def intervals(labels: Sequence[str], places: Sequence[Place]) -> list[Problem]:
    """Steps that are missing from the interval of their branch, and steps beside it.

    The interval is the one between most neighbours of a branch, if half of them or more have it. A
    gap of several intervals lacks the steps between; any other is uneven, but for a shorter last
    one, with which training ends, and for the first steps of a run, which are often dense.

    No interval tells of what is missing before the first step of a branch or behind its last, and
    few steps have none. Of the ingredients of a stage, each has to have what most of the others
    have.
    """
    branches: dict[object, list[int]] = {}
    for index, place in enumerate(places):
        if place.count is not None and not place.is_soup:
            branches.setdefault(place.branch, []).append(index)
    problems = []
    for branch in branches.values():
        missing, found = _branch_intervals(labels, places, branch)
        problems += found
        place = places[branch[0]]
        siblings = [
            other
            for other in branches.values()
            if other is not branch
            and places[other[0]].stage_key == place.stage_key
            and places[other[0]].ingredient is not None
        ]
        if place.ingredient is not None:
            problems += _missing_by_siblings(labels, places, branch, siblings, missing)
    return problems


def _missing_by_siblings(
    labels: Sequence[str],
    places: Sequence[Place],
    branch: Sequence[int],
    siblings: Sequence[Sequence[int]],
    missing: Sequence[int],
) -> list[Problem]:
    """The steps of most siblings that a branch lacks, but for those known to be ``missing``.

    Ingredients can be trained for longer, or less long, than each other, so the last step of one is
    none that another must have had, and behind a branch's own last step two others have to go on.
    """
    own = {places[index].count for index in branch}
    first, last = places[branch[0]].count, places[branch[-1]].count
    assert first is not None
    assert last is not None
    having: dict[int, list[int]] = {}
    for sibling in siblings:
        for index in sibling:
            step = places[index].count
            if step is not None and (step > last or index != sibling[-1]):
                having.setdefault(step, []).append(index)
    lacked = [
        step
        for step, those in sorted(having.items())
        if step not in own
        and step not in missing
        and 2 * len({places[index].ingredient for index in those}) > len(siblings)
        and (step < last or (len(those) > 1 and not places[branch[-1]].is_end))
    ]
    if not lacked:
        return []
    owners = {tuple(places[index].ingredient or 0 for index in having[step]) for step in lacked}
    who = "most other ingredients have"
    if len(owners) == 1:
        (numbers,) = owners
        who = f"ingredient {numbers[0]} has"
        if len(numbers) > 1:
            who = f"ingredients {_listed(numbers)} have"
    several = "step" if len(lacked) == 1 else f"{len(lacked):,} steps"
    text = f"{_branch_text(places[branch[0]])}{several} missing that {who}: {_listed(lacked)}"
    # the checkpoints that it is missing before, or behind
    ends = [index for index in branch[:1] if lacked[0] < first]
    ends += [index for index in branch[-1:] if lacked[-1] > last]
    around = tuple(dict.fromkeys(labels[index] for index in ends or branch))
    return [Problem("missing_step", text, around)]


def _listed(numbers: Sequence[int]) -> str:
    some = ", ".join(str(number) for number in numbers[:_NAMED_AT_MOST])
    rest = len(numbers) - _NAMED_AT_MOST
    return f"{some}{f' and {rest:,} more' if rest > 0 else ''}"


def _branch_intervals(
    labels: Sequence[str], places: Sequence[Place], branch: Sequence[int]
) -> tuple[list[int], list[Problem]]:
    """The steps that are missing at the interval of a branch, and what is to be said of it."""
    steps = [step for index in branch if (step := places[index].count) is not None]
    gaps = [after - before for before, after in pairwise(steps)]
    counts = Counter(gap for gap in gaps if gap > 0)
    if len(gaps) < 2:
        return [], []
    usual = min(counts, key=lambda gap: (-counts[gap], -gap), default=0)
    where = _branch_text(places[branch[0]])
    if not usual or 2 * counts[usual] < len(gaps):
        text = f"{where}intervals between {min(gaps):,} and {max(gaps):,} steps"
        return [], [Problem("uneven_interval", text, tuple(labels[index] for index in branch))]
    problems = []
    missing: list[int] = []
    around: list[str] = []
    phase = Counter(step % usual for step in steps).most_common(1)[0][0]
    for at, gap in enumerate(gaps):
        before, after = steps[at], steps[at + 1]
        pair = (labels[branch[at]], labels[branch[at + 1]])
        expected = range(before + 1 + (phase - before - 1) % usual, after, usual)
        if gap > usual:
            missing += expected
            around += pair
        elif 0 < gap < usual and usual in gaps[:at] and at < len(gaps) - 1:
            text = f"{where}{gap:,} steps from {pair[0]} to {pair[1]}, expected {usual:,}"
            problems.append(Problem("uneven_interval", text, pair))
    if missing:
        text = (
            f"{where}{'step' if len(missing) == 1 else f'{len(missing):,} steps'} missing at an "
            f"interval of {usual:,}: {_listed(missing)}"
        )
        problems.insert(0, Problem("missing_step", text, tuple(dict.fromkeys(around))))
    return missing, problems


def _branch_text(place: Place) -> str:
    parts = []
    if place.stage is not None:
        parts.append(f"stage {place.stage}")
    elif place.phase is not None:
        parts.append(place.phase)
    if place.ingredient is not None:
        parts.append(f"ingredient {place.ingredient}")
    return f"{', '.join(parts)}: " if parts else ""


def token_order(
    labels: Sequence[str], places: Sequence[Place], parents: Sequence[int]
) -> list[Problem]:
    """Checkpoints that saw fewer tokens than the one before them in their branch."""
    problems = []
    for index, (place, parent) in enumerate(zip(places, parents, strict=True)):
        if parent < 0 or places[parent].branch != place.branch:
            continue
        before = places[parent]
        if place.tokens is not None and before.tokens is not None and place.tokens < before.tokens:
            text = (
                f"{labels[index]}: {place.tokens:,} tokens, fewer than the {before.tokens:,} of "
                f"{labels[parent]} before it"
            )
            problems.append(Problem("tokens_restart", text, (labels[parent], labels[index])))
    return problems


def duplicates(data: SeriesData, is_identical: Callable[[int, int], bool]) -> list[Problem]:
    """Checkpoints whose bytes are the same.

    Equal statistics of every tensor make candidates; ``is_identical`` compares two of them.
    """
    candidates: dict[bytes, list[int]] = {}
    for index in range(len(data.checkpoints)):
        candidates.setdefault(_statistics(data.levels["tensor"], index), []).append(index)
    problems = []
    for alike in candidates.values():
        while len(alike) > 1:
            first, *others = alike
            same = [index for index in others if is_identical(first, index)]
            if same:
                labels = tuple(data.checkpoints[index].label for index in (first, *same))
                text = f"byte-identical: {', '.join(labels)}"
                problems.append(Problem("duplicate", text, labels))
            alike = [index for index in others if index not in same]
    return problems


def _statistics(level: SeriesLevel, index: int) -> bytes:
    """Every statistic of every tensor of a checkpoint, to be compared as bits."""
    columns = [level.stats[name][index] for name in sorted(level.stats)]
    return np.array(columns).tobytes()


def not_common(
    labels: Sequence[str], missing: Sequence[tuple[str, Sequence[int]]]
) -> list[Problem]:
    """The tensors that were left out, those together that the same checkpoints lack."""
    by_checkpoints: dict[tuple[int, ...], list[str]] = {}
    for name, indices in missing:
        by_checkpoints.setdefault(tuple(indices), []).append(name)
    problems = []
    for indices, names in by_checkpoints.items():
        some = ", ".join(map(repr, names[:_NAMED_AT_MOST]))
        rest = len(names) - _NAMED_AT_MOST
        lacking = tuple(labels[index] for index in indices)
        of_whom = ", ".join(lacking[:_NAMED_AT_MOST])
        if len(lacking) > _NAMED_AT_MOST:
            of_whom += f" and {len(lacking) - _NAMED_AT_MOST:,} more"
        text = (
            f"{some}{f' and {rest:,} more' if rest > 0 else ''}: left out, as not in {of_whom}, "
            "or of another shape or dtype there"
        )
        problems.append(Problem("not_common", text, lacking))
    return problems
