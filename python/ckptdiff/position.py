"""Where training stood when a checkpoint was written, and what tells so.

Several things around a checkpoint speak of it, and they need not agree: its label (the name of its
directory, or of its revision in the Hub's cache), the trainer's own state (``train/rank0.pt`` of
OLMo-core, ``train.pt`` of the first OLMo, ``trainer_state.json`` of Hugging Face), and its config,
which gives the tokens of a step and the schedule of the learning rate. The trainer's state counts
most, as it is exact and nobody typed it. Where two sources disagree, that is said: labels of
published series are wrong now and then.

Tokens come in two counts. Those since the start of the run are what a curve is drawn over; those
since the start of a stage are what labels of OLMo 2 have in stage 2, where the count starts anew.
In a first stage, and where there is none, both are the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from ckptdiff.config import ModelConfig, config_directories, read_config
from ckptdiff.documents import STATE_BYTES_AT_MOST, read_json
from ckptdiff.errors import (
    CheckpointNotFoundError,
    CheckpointReadError,
    InvalidCheckpointError,
)
from ckptdiff.formats.olmo_core import train_state, training_state_file
from ckptdiff.formats.recognise import hub_snapshot
from ckptdiff.naming.revisions import Revision, parse_revision
from ckptdiff.schedule import STEPS

__all__ = ["TrainingPosition", "in_order", "position_of"]

_TRAINER_STATE = "trainer_state.json"
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz", ".npy", ".gguf")

# How far above a checkpoint a directory's name can still tell the stage it belongs to.
_PARENTS_LOOKED_AT = 3
_REFERENCES_AT_MOST = 100_000
_COMMIT_BYTES = 64


@dataclass(frozen=True, slots=True)
class TrainingPosition:
    """Where training stood; what nothing tells is None, or empty.

    ``label`` is the name that told most. ``step`` counts optimizer steps, as trainer and label do:
    since the start of the stage where training was started anew for it. ``tokens`` are those since
    the start of the run, ``stage_tokens`` those since the start of the stage. ``learning_rate`` is
    the one of the last update. ``index`` is the number of a checkpoint in a series that counts
    checkpoints. ``tokens_unit`` is what the label rounded ``stage_tokens`` to, where they are the
    label's. A soup has several ``ingredients`` or several ``steps``, and ``steps`` is empty for
    all others. ``is_end`` is true where the trainer's state or the config says that training, or
    the stage, was to end at this step; false is not to say that it went on.

    ``sources`` has, for each field that is known, what it was read from. ``conflicts`` has a
    sentence for each field on which two sources disagree, ``problems`` one for each file that
    could not be read.
    """

    path: str
    label: str | None = None
    stage: int | None = None
    phase: str | None = None
    ingredient: int | None = None
    ingredients: tuple[int, ...] = ()
    step: int | None = None
    steps: tuple[int, ...] = ()
    tokens: int | None = None
    stage_tokens: int | None = None
    tokens_unit: int | None = None
    learning_rate: float | None = None
    index: int | None = None
    is_end: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def is_soup(self) -> bool:
        """Whether this is an average of several checkpoints."""
        return len(self.ingredients) > 1 or len(self.steps) > 1

    @property
    def is_known(self) -> bool:
        """Whether anything tells where training stood."""
        return bool(self.sources)


def position_of(path: str) -> TrainingPosition:
    """Read the training position of the checkpoint at ``path``, a file or a directory.

    No tensor is read, and the checkpoint need not even be complete. Where a file beside it cannot
    be read, the position has a problem, and whatever the others tell.

    Raises CheckpointNotFoundError where nothing is at ``path``.
    """
    if not os.path.exists(path):
        raise CheckpointNotFoundError(f"{path}: no such file or directory")
    place = hub_snapshot(path) if os.path.isdir(path) else None
    found = _Findings(path)
    labels = list(_labels(place or path))
    own = _own_label(labels)
    _take_label(found, own, labels)
    config = _config(found, place or path)
    _take_trainer_state(found, place or path)
    _settle_step(found, labels)
    _settle_tokens(found, own, config)
    _settle_learning_rate(found, config)
    _settle_end(found, config)
    return found.position(own.revision.label if own else None)


def in_order(positions: Iterable[TrainingPosition]) -> list[TrainingPosition]:
    """By stage, ingredient and step; a soup behind its ingredients, what tells no step last."""

    def key(position: TrainingPosition) -> tuple[float, bool, tuple[int, ...], float]:
        count = position.index if position.step is None else position.step
        last = math.inf if count is None else count
        return position.stage or 0, position.is_soup, position.ingredients, last

    return sorted(positions, key=key)


class _Label(NamedTuple):
    """A name that can tell a position, and how close it is to the checkpoint."""

    revision: Revision
    source: str
    names_the_checkpoint: bool


def _labels(path: str) -> Iterator[_Label]:
    """The names around a checkpoint, the nearest first."""
    place = os.path.abspath(path)
    own = True
    if not os.path.isdir(place):
        stem = _stem(os.path.basename(place))
        revision = parse_revision(stem)
        yield _Label(revision, f"file name {os.path.basename(place)}", own)
        # of a file that has no position in its name, the directory is the checkpoint
        own = revision.step is None and revision.index is None
        place = os.path.dirname(place)
    for directory in [place, *islice(_parents(place), _PARENTS_LOOKED_AT)]:
        name = os.path.basename(directory)
        repository = _repository(directory)
        if repository is not None:
            revisions = list(map(parse_revision, _references(repository, name)))
            for revision in revisions:
                yield _Label(revision, f"revision {revision.label}", own)
            # where a branch is called main, the repository is of one checkpoint
            own = own and all(revision.says_nothing for revision in revisions)
            name = os.path.basename(repository).rpartition("--")[2]
            yield _Label(parse_revision(name), f"repository {name}", own)
            return
        # a year, or the number of a run, is the name of many a directory
        is_bare = name.isdigit() and not (own and directory == place)
        revision = parse_revision("" if is_bare else name)
        yield _Label(revision, f"directory name {name}", own)
        # a folder in a step's directory, such as model_and_optim, takes the step's name
        own = own and revision.says_nothing and directory == place


def _parents(directory: str) -> Iterator[str]:
    while (parent := os.path.dirname(directory)) != directory:
        directory = parent
        yield directory


def _stem(name: str) -> str:
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def _repository(directory: str) -> str | None:
    """The repository's folder in the Hub's cache, of which this is a snapshot."""
    snapshots, _ = os.path.split(directory)
    repository = os.path.dirname(snapshots)
    is_one = os.path.basename(snapshots) == "snapshots" and os.path.isdir(
        os.path.join(repository, "refs")
    )
    return repository if is_one else None


def _references(repository: str, commit: str) -> list[str]:
    """The revisions that stand for a commit, those that tell a step before others."""
    folder = os.path.join(repository, "refs")
    files = (
        os.path.join(directory, entry)
        for directory, _, entries in os.walk(folder)
        for entry in entries
    )
    names = []
    for path in islice(files, _REFERENCES_AT_MOST):
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                content = file.read(_COMMIT_BYTES).strip()
        except OSError:
            # what cannot be read is no name of this commit that anybody could use
            continue
        if content == commit:
            names.append(os.path.relpath(path, folder))
    return sorted(names, key=lambda name: (parse_revision(name).says_nothing, name))


def _own_label(labels: list[_Label]) -> _Label | None:
    """The label that tells most of the checkpoint itself."""
    telling = [
        label for label in labels if label.names_the_checkpoint and not label.revision.says_nothing
    ]
    with_step = [
        label
        for label in telling
        if label.revision.step is not None or label.revision.index is not None
    ]
    return next(iter([*with_step, *telling]), None)


class _Reading(NamedTuple):
    value: int
    source: str


class _Findings:
    """What has been found out so far, each with its source."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        self._sources: dict[str, str] = {}
        self._conflicts: list[str] = []
        self._problems: list[str] = []
        #: what the trainers counted
        self.steps: list[_Reading] = []
        self.tokens: list[_Reading] = []
        #: the step at which training was to end, and what was logged on the way
        self.max_steps: int | None = None
        self.is_end = False
        self.tokens_unit: int | None = None
        self.log: list[Any] = []

    def settle(self, name: str, value: object, source: str) -> None:
        """Fill a field."""
        if name not in self._values:
            self._values[name] = value
            self._sources[name] = source

    def get(self, name: str) -> Any:
        """A field's value, None for none."""
        return self._values.get(name)

    def source(self, name: str) -> str:
        """What a field was read from."""
        return self._sources[name]

    def conflict(self, name: str, first: _Reading, second: _Reading) -> None:
        """Note that two sources disagree, of which the first counts."""
        sentence = (
            f"{name} is {first.value:,} by {first.source}, but {second.value:,} by {second.source}"
        )
        if sentence not in self._conflicts:
            self._conflicts.append(sentence)

    def problem(self, error: Exception) -> None:
        """Note a file that could not be read."""
        self._problems.append(str(error))

    def position(self, label: str | None) -> TrainingPosition:
        """All of it."""
        return TrainingPosition(
            path=self._path,
            label=label,
            **self._values,
            tokens_unit=self.tokens_unit,
            is_end=self.is_end,
            sources=self._sources,
            conflicts=tuple(self._conflicts),
            problems=tuple(self._problems),
        )


def _take_label(found: _Findings, own: _Label | None, labels: list[_Label]) -> None:
    """Stage and ingredient from the nearest name that has them, the rest from the label itself."""
    for label in ([own] if own else []) + labels:
        revision = label.revision
        if revision.stage is not None:
            found.settle("stage", revision.stage, label.source)
        if revision.phase is not None:
            found.settle("phase", revision.phase, label.source)
        if revision.ingredients:
            if len(revision.ingredients) == 1:
                found.settle("ingredient", revision.ingredient, label.source)
            found.settle("ingredients", revision.ingredients, label.source)
    if own and len(own.revision.steps) > 1:
        found.settle("steps", own.revision.steps, own.source)
    if own and own.revision.index is not None:
        found.settle("index", own.revision.index, own.source)


def _config(found: _Findings, path: str) -> ModelConfig | None:
    try:
        return read_config(path)
    except (InvalidCheckpointError, CheckpointReadError) as error:
        found.problem(error)
        return None


def _take_trainer_state(found: _Findings, path: str) -> None:
    for directory in config_directories(path):
        file = _state_file(directory)
        if file is not None:
            name = os.path.relpath(file, directory).replace(os.sep, "/")
            try:
                state: Mapping[str, Any] = train_state(directory)
            except (InvalidCheckpointError, CheckpointReadError, OSError) as error:
                found.problem(error)
            else:
                _take_counts(found, state, name, "global_train_tokens_seen")
                found.max_steps = _count(state.get("max_steps"))
        file = os.path.join(directory, _TRAINER_STATE)
        if os.path.isfile(file):
            try:
                state = read_json(file, STATE_BYTES_AT_MOST)
            except (InvalidCheckpointError, CheckpointReadError) as error:
                found.problem(error)
            else:
                # 0 is what it says where it was not told to count tokens
                counts = {key: value for key, value in state.items() if value or "step" in key}
                _take_counts(found, counts, _TRAINER_STATE, "num_input_tokens_seen")
                found.max_steps = found.max_steps or _count(state.get("max_steps"))
                log = state.get("log_history")
                found.log = log if isinstance(log, list) else []


def _state_file(directory: str) -> str | None:
    """The state of OLMo's trainer; ``train.pt`` can be anything where no config of it is there."""
    file = training_state_file(directory)
    of_first = file is not None and os.path.basename(file) == "train.pt"
    has_config = os.path.isfile(os.path.join(directory, "config.yaml"))
    return None if of_first and not has_config else file


def _take_counts(found: _Findings, state: Mapping[str, Any], name: str, tokens: str) -> None:
    for readings, key in ((found.steps, "global_step"), (found.tokens, tokens)):
        count = _count(state.get(key))
        if count is not None:
            readings.append(_Reading(count, f"{name} {key}"))


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62:
        return value
    return None


def _settle_step(found: _Findings, labels: list[_Label]) -> None:
    labelled = [
        _Reading(label.revision.step, label.source)
        for label in labels
        if label.names_the_checkpoint and label.revision.step is not None
    ]
    readings = found.steps + labelled
    for first in readings[:1]:
        found.settle("step", first.value, first.source)
        for reading in readings[1:]:
            if reading.value != first.value:
                found.conflict("step", first, reading)


def _settle_tokens(found: _Findings, own: _Label | None, config: ModelConfig | None) -> None:
    """Tokens of the run and of the stage, from the state, from the steps, and from the label."""
    batch = config.batch_size_tokens if config else None
    step = found.get("step")
    computed = None
    if config and batch is not None and step is not None and len(found.get("steps") or ()) < 2:
        computed = _Reading(step * batch, f"step x {config.sources['batch_size_tokens']}")
    counted = next(iter(found.tokens), None)
    labelled, unit = None, 0
    if own and own.revision.tokens is not None:
        labelled = _Reading(own.revision.tokens, own.source)
        unit = own.revision.tokens_unit or 1

    def agree(first: _Reading, second: _Reading) -> bool:
        # a label is rounded up or down; a batch can be cut short, and an epoch's last one often is
        rounding = unit if labelled is first or labelled is second else 0
        return abs(first.value - second.value) <= max(rounding, batch or 0)

    stage = found.get("stage")
    restarted = stage is not None and stage > 1
    best = counted or computed or labelled
    if best is None:
        return
    if best is labelled:
        found.tokens_unit = unit
    cumulative = restarted and (
        computed is not None and best.value > computed.value and not agree(best, computed)
    )
    for other in (counted, labelled, None if cumulative else computed):
        if other is not None and other is not best and not agree(best, other):
            found.conflict("tokens", best, other)
    if cumulative:
        found.settle("tokens", best.value, best.source)
        if computed is not None:
            found.settle("stage_tokens", computed.value, computed.source)
        return
    found.settle("stage_tokens", best.value, best.source)
    if not restarted:
        found.settle("tokens", best.value, best.source)


def _settle_end(found: _Findings, config: ModelConfig | None) -> None:
    """Whether the last step was made: of the trainer's count of what it had to do, or the config's.

    Where a duration is in tokens, the last batch may be one that is not full, or be left out.
    """
    step = found.get("step")
    if step is None or len(found.get("steps") or ()) > 1:
        return
    if found.max_steps:
        found.is_end = step >= found.max_steps
        return
    amount, _, unit = (config.duration if config and config.duration else "").partition(" ")
    if not amount.isdecimal():
        return
    batch = config.batch_size_tokens if config else None
    if unit.startswith("step"):
        found.is_end = step >= int(amount)
    elif unit.startswith("token") and batch:
        found.is_end = (step + 1) * batch > int(amount)


def _settle_learning_rate(found: _Findings, config: ModelConfig | None) -> None:
    step = found.get("step")
    if len(found.get("steps") or ()) > 1 or len(found.get("ingredients") or ()) > 1:
        # no update made a soup
        return
    for entry in reversed(found.log):
        if isinstance(entry, dict) and entry.get("step") == step and step is not None:
            rate = entry.get("learning_rate")
            if isinstance(rate, float) and 0 <= rate < 1e30:
                found.settle("learning_rate", rate, f"{_TRAINER_STATE} log_history")
                return
    if config is None or config.scheduler is None or config.learning_rate is None:
        return
    scheduler = config.scheduler
    length = config.length
    at = step
    if scheduler.units == STEPS:
        # the trainer's own count, of what it had to do from where it was started
        length = found.max_steps or length
    else:
        at = found.get("stage_tokens")
    if at is None:
        return
    rate = scheduler.learning_rate(config.learning_rate, at, length)
    if rate is not None:
        where = config.sources["schedule"]
        found.settle("learning_rate", rate, f"{where} at {scheduler.units[:-1]} {at:,}")
