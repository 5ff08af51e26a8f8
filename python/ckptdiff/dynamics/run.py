"""Reads a series: opens every checkpoint, orders them, and lets the core reduce all in one pass.

A checkpoint that cannot be opened or read, or that is of another architecture, is reported and left
out, and the rest goes on. A read that fails midway is begun again without the one it failed at.

An element that is not finite in one checkpoint is left out of the comparison of all, so one that
diverged would leave nothing of the others: they are read once more without it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ckptdiff import _core
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.config import ModelConfig, read_config
from ckptdiff.dynamics import soundness
from ckptdiff.dynamics.candidates import Candidate
from ckptdiff.dynamics.data import ROOT, Floats, SeriesCheckpoint, SeriesData, SeriesLevel
from ckptdiff.dynamics.discover import Found, revision_of
from ckptdiff.dynamics.levels import levels_of, with_diverged
from ckptdiff.dynamics.names import under_one_set_of_names
from ckptdiff.dynamics.open_files import allow_open_files
from ckptdiff.dynamics.order import Order, Place, arrange, first_stage, soups, with_tokens
from ckptdiff.dynamics.problems import Problem, in_order
from ckptdiff.dynamics.token_labels import without_wrong_tokens
from ckptdiff.errors import CheckpointReadError, InvalidCheckpointError
from ckptdiff.naming.rules import Named, Rules, apply_rules, unmatched
from ckptdiff.position import TrainingPosition, position_of

__all__ = ["Reading", "SeriesReading", "read_series"]

# A larger share of elements that are not finite is that of a checkpoint that diverged.
_NOT_FINITE_AT_MOST = 0.01


@dataclass(frozen=True, slots=True)
class Reading:
    """How the core is to read; none of it changes a result."""

    threads: int = 0
    isa: str | None = None
    io: str = "auto"
    on_progress: Callable[[int, int], object] | None = None


@dataclass(frozen=True, slots=True)
class SeriesReading:
    """What reading a series gave."""

    data: SeriesData
    problems: tuple[Problem, ...]
    bytes_read: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Member:
    """A checkpoint that was opened, and where training stood."""

    label: str
    checkpoint: Checkpoint
    named: Named
    place: Place


def read_series(
    candidates: Sequence[Candidate],
    *,
    rules: Rules,
    map_choice: str,
    order: Order,
    reading: Reading,
    problems: Sequence[Problem] = (),
) -> SeriesReading:
    """Read the checkpoints among ``candidates`` that make up a series.

    ``problems`` are those that are known already. Raises ValueError where fewer than two
    checkpoints are left, or the globs leave no tensor.
    """
    found = list(problems)
    candidate_places = _places(candidates, found)
    members = _opened(candidates, candidate_places, rules, map_choice, found)
    found += [
        Problem("unmatched_rule", note)
        for note in unmatched(rules, *(member.named for member in members))
    ]
    _refuse_empty_choice(members)
    members = _of_one_architecture(members, found)
    start = time.perf_counter()
    while True:
        _refuse_too_few(members, found)
        indices, parents = arrange([member.place for member in members], order)
        members = [members[index] for index in indices]
        allow_open_files(sum(len(member.checkpoint.files) for member in members))
        try:
            run = _read(members, parents, reading)
            levels = levels_of(run)
            bytes_read = run.bytes_read
            diverged = _diverged(levels["total"])
            if diverged and len(members) - len(diverged) > 1:
                sound = [index for index in range(len(members)) if index not in diverged]
                new_parents = _sound_parents(parents, diverged)
                again = _read(
                    [_with_tensors(members[index], run.names) for index in sound],
                    [
                        ROOT if new_parents[index] == ROOT else sound.index(new_parents[index])
                        for index in sound
                    ],
                    reading,
                )
                bytes_read += again.bytes_read
                levels = with_diverged(levels, levels_of(again), sound)
            else:
                diverged, new_parents = frozenset(), list(parents)
            break
        except (CheckpointReadError, InvalidCheckpointError) as error:
            damaged = _culprit(error, members)
            if damaged is None:
                raise
            found.append(Problem("damaged", str(error), (damaged.label,)))
            members = [member for member in members if member is not damaged]
    seconds = time.perf_counter() - start
    labels = [member.label for member in members]
    if not run.names:
        raise ValueError(f"the checkpoints of the series have no tensor in common: {labels[0]} …")
    places = with_tokens([member.place for member in members], parents)
    data = SeriesData(
        checkpoints=tuple(
            _checkpoint(member, place, parent)
            for member, place, parent in zip(members, places, new_parents, strict=True)
        ),
        levels=levels,
    )
    if order != "given":
        # a checkpoint that is left out is not missing, too
        there, _ = arrange(candidate_places, order)
        found += soundness.intervals(
            [candidates[index].found.label for index in there],
            [candidate_places[index] for index in there],
        )
    found += soundness.token_order(labels, places, parents)
    found += soundness.not_common(labels, run.not_common)
    found += soundness.duplicates(data, lambda a, b: _is_identical(members[a], members[b], reading))
    shares = _not_finite(data.total)
    found += [
        Problem(
            "diverged",
            f"{labels[index]}: {shares[index]:.1%} of the elements are not finite; "
            "the others are compared without it",
            (labels[index],),
        )
        for index in sorted(diverged)
    ]
    return SeriesReading(data, in_order(found), bytes_read, seconds)


def _read(members: Sequence[_Member], parents: Sequence[int], reading: Reading) -> _core.SeriesRun:
    return _core.series(
        [member.checkpoint.manifest for member in members],
        [member.named.for_core for member in members],
        parents,
        threads=reading.threads,
        isa=reading.isa,
        io=reading.io,
        on_progress=reading.on_progress,
    )


def _not_finite(total: SeriesLevel) -> Floats:
    """The share of each checkpoint's elements that are not finite: (N,)."""
    counts = sum(total.stats[name][:, 0] for name in ("nan", "pos_inf", "neg_inf"))
    return np.asarray(counts / np.maximum(total.numel[0], 1))


def _diverged(total: SeriesLevel) -> frozenset[int]:
    shares = _not_finite(total)
    return frozenset(np.flatnonzero(shares > _NOT_FINITE_AT_MOST).tolist())


def _sound_parents(parents: Sequence[int], diverged: frozenset[int]) -> list[int]:
    """The nearest ancestor of each that did not diverge; of those that did, the parent."""
    sound: list[int] = []
    for parent in parents:
        # parents come before children, and theirs are settled already
        sound.append(sound[parent] if parent in diverged else parent)
    return [
        before if index in diverged else settled
        for index, (before, settled) in enumerate(zip(parents, sound, strict=True))
    ]


def _with_tensors(member: _Member, names: Sequence[str]) -> _Member:
    """A member with only the tensors of these names, under which it is compared."""
    kept = frozenset(names)
    stored = member.named.names or member.checkpoint.names()
    chosen = [
        name if name in kept and member.named.keeps(index) else None
        for index, name in enumerate(stored)
    ]
    return replace(member, named=replace(member.named, names=chosen))


def _opened(
    candidates: Sequence[Candidate],
    places: Sequence[Place],
    rules: Rules,
    map_choice: str,
    problems: list[Problem],
) -> list[_Member]:
    checkpoints = []
    placed = []
    for candidate, place in zip(candidates, places, strict=True):
        label = candidate.found.label
        try:
            checkpoints.append(candidate.open())
            placed.append((label, place))
        except (OSError, ValueError) as error:
            problems.append(Problem("damaged", str(error), (label,)))
    if map_choice == "auto":
        checkpoints, notes = under_one_set_of_names([label for label, _ in placed], checkpoints)
        problems += notes
    members = []
    for checkpoint, (label, place) in zip(checkpoints, placed, strict=True):
        named = Named(None)
        if rules != Rules():
            named = apply_rules(checkpoint.names(), rules, ())
        members.append(_Member(label, checkpoint, named, place))
    without_step = [
        member.label
        for member in members
        if member.place.count is None and not member.place.is_soup
    ]
    if without_step and len(without_step) < len(members):
        for label in without_step:
            text = f"{label}: no step is known, so it comes last"
            problems.append(Problem("no_position", text, (label,)))
    return members


def _places(candidates: Sequence[Candidate], problems: list[Problem]) -> list[Place]:
    """Where training stood at each, by what is around it and by what the others say."""
    places = [_place(candidate.found, problems) for candidate in candidates]
    labels = [candidate.found.label for candidate in candidates]
    assumed = first_stage(places)
    if assumed:
        for index in assumed:
            tokens = _first(places[index].tokens, places[index].stage_tokens)
            places[index] = replace(places[index], stage=1, tokens=tokens)
        problems.append(soundness.assumed_stage([labels[index] for index in assumed]))
    for index, stage in soups(labels, places).items():
        places[index] = replace(places[index], stage=stage, is_soup=True)
        problems.append(soundness.assumed_soup(labels[index], stage))
    places, wrong = without_wrong_tokens(labels, places)
    problems += wrong
    return places


def _place(found: Found, problems: list[Problem]) -> Place:
    """Where training stood: by the trainer's state and the names around it, a list, the label."""
    revision = revision_of(found.label)
    there = bool(found.path) and os.path.exists(found.path)
    position = position_of(found.path) if there else TrainingPosition("")
    problems += [
        Problem("label_mismatch", f"{found.label}: {conflict}", (found.label,))
        for conflict in position.conflicts
    ]
    problems += [Problem("unreadable", text, (found.label,)) for text in position.problems]
    # what the position knows of the names around a checkpoint, it has held against them itself
    if found.step is None and revision.step is not None and not position.conflicts:
        problems += _contradiction(found, "step", position, ("label", revision.step))
    told = {}
    for name in ("stage", "ingredient", "step"):
        listed = getattr(found, name)
        if name != "step" or not position.conflicts:
            problems += _contradiction(found, name, position, ("the list", listed))
        state = getattr(position, name)
        ranked = (listed, state) if _is_by_name(position, name) else (state, listed)
        told[name] = _first(*ranked, getattr(revision, name))
    stage, ingredient = told["stage"], told["ingredient"]
    ingredients = position.ingredients or revision.ingredients
    if len(ingredients) == 1:
        # the one of the name, which the list may contradict
        ingredients = ()
    tokens = _first(found.tokens, position.tokens)
    if tokens is None and revision.tokens is not None and (stage is None or stage == 1):
        tokens = revision.tokens
    return Place(
        stage=stage,
        phase=position.phase or revision.phase,
        ingredient=ingredient,
        ingredients=ingredients,
        is_soup=position.is_soup or revision.is_soup,
        step=told["step"],
        index=_first(position.index, revision.index),
        tokens=tokens,
        stage_tokens=_first(position.stage_tokens, revision.tokens),
        tokens_unit=revision.tokens_unit if position.stage_tokens is None else position.tokens_unit,
        learning_rate=position.learning_rate,
        is_end=position.is_end,
    )


def _is_by_name(position: TrainingPosition, name: str) -> bool:
    """Whether a part of a position was read from a name, which a list knows better than."""
    return position.sources.get(name, "").startswith(("directory name ", "file name "))


def _contradiction(
    found: Found, name: str, position: TrainingPosition, other: tuple[str, int | None]
) -> list[Problem]:
    """What a list or a label says otherwise than what is around the checkpoint does."""
    (source, value), known = other, getattr(position, name)
    if None in (value, known) or value == known:
        return []
    by_state = (f"{known:,}", position.sources[name])
    by_other = (f"{value:,}", source)
    first, second = by_state, by_other
    if source == "the list" and _is_by_name(position, name):
        first, second = by_other, by_state
    text = f"{found.label}: {name} is {first[0]} by {first[1]}, but {second[0]} by {second[1]}"
    return [Problem("label_mismatch", text, (found.label,))]


def _first(*values: int | None) -> int | None:
    """The first that is known."""
    return next((value for value in values if value is not None), None)


def _of_one_architecture(members: Sequence[_Member], problems: list[Problem]) -> list[_Member]:
    labels = [member.label for member in members]
    configs = [_config(member) for member in members]
    shapes = [_shapes(member) for member in members]
    odd = soundness.odd_ones_out(labels, shapes, configs)
    for index, difference in odd.items():
        text = f"{labels[index]}: another architecture, left out: {difference}"
        problems.append(Problem("architecture", text, (labels[index],)))
    return [member for index, member in enumerate(members) if index not in odd]


def _config(member: _Member) -> ModelConfig | None:
    """The config beside the weights; what is wrong with one was told with the position."""
    path = member.checkpoint.path
    try:
        return read_config(path) if path else None
    except (InvalidCheckpointError, CheckpointReadError):
        return None


def _shapes(member: _Member) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that are compared, under the names by which they are."""
    manifest = member.checkpoint.manifest
    stored = manifest.tensors(range(len(manifest)))
    names = member.named.names or [name for name, *_ in stored]
    return {
        name: tuple(entry[2])
        for index, (name, entry) in enumerate(zip(names, stored, strict=True))
        if name is not None and member.named.keeps(index)
    }


def _culprit(error: Exception, members: Sequence[_Member]) -> _Member | None:
    """The checkpoint whose file an error of the core names at its beginning."""
    text = str(error)
    named = [
        (len(file), member)
        for member in members
        for file in (*member.checkpoint.files, member.checkpoint.path or "")
        if file and text.startswith(file)
    ]
    return max(named, key=lambda pair: pair[0], default=(0, None))[1]


def _is_identical(a: _Member, b: _Member, reading: Reading) -> bool:
    """Whether two checkpoints have the same tensors, bit for bit."""
    pairing = _core.Pairing(
        a.checkpoint.manifest, b.checkpoint.manifest, a.named.for_core, b.named.for_core
    )
    if pairing.only_in_a or pairing.only_in_b or pairing.shape_mismatch or pairing.unsupported:
        return False
    table = _core.diff(pairing, threads=reading.threads, isa=reading.isa, io=reading.io)
    return all(verdict == "bit_identical" for verdict in table.column("verdict"))


def _checkpoint(member: _Member, place: Place, parent: int) -> SeriesCheckpoint:
    return SeriesCheckpoint(
        label=member.label,
        path=member.checkpoint.path or "",
        format=member.checkpoint.format,
        parent=parent,
        stage=place.stage,
        ingredient=place.ingredient,
        step=place.step,
        tokens=place.tokens,
        stage_tokens=place.stage_tokens,
        learning_rate=place.learning_rate,
        is_soup=place.is_soup,
    )


def _refuse_empty_choice(members: Sequence[_Member]) -> None:
    tensors = sum(len(member.checkpoint) for member in members)
    if tensors and tensors == sum(member.named.left_out for member in members):
        raise ValueError(f"include and exclude leave none of {tensors} tensors to look at")


def _refuse_too_few(members: Sequence[_Member], problems: Sequence[Problem]) -> None:
    if len(members) > 1:
        return
    left_out = [problem for problem in problems if problem.labels and not problem.is_note]
    why = f"; {left_out[0].text}" if left_out else ""
    count = "only one" if members else "none"
    raise ValueError(f"a series has two checkpoints or more, and there is {count}{why}")
