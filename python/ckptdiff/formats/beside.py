"""What lies beside the weights of a checkpoint: configuration, position, the optimizer's state.

Trainers write a directory. The readers of formats look at the file with the weights; this file
looks at the rest, in the same way whatever format the weights have:

- ``config.json`` or ``config.yaml``, which is only found here;
- that of OLMo's trainers, whose fields become metadata (see :mod:`.run_config`), and their state
  of training, whose numbers do (see :mod:`.olmo_core`);
- ``optimizer.pt`` of Hugging Face's trainer (``optimizer.bin`` of accelerate) and ``optim.pt`` of
  OLMo's first generation, which ``--optimizer`` joins to the weights. Its parameters get the names
  of the weights where the order in which it counts them is known.
"""

from __future__ import annotations

import os
import re

from ckptdiff._core import Manifest
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointReadError, InvalidCheckpointError
from ckptdiff.formats.olmo_core import (
    ITEMS_FOLDER,
    step_directory,
    train_state,
    training_note,
    training_state_file,
)
from ckptdiff.formats.options import OpenOptions
from ckptdiff.formats.recognise import hub_snapshot

__all__ = ["config_path", "has_config", "with_companions"]

_FIRST_GENERATION = "config.yaml"
_CONFIGS = ("config.json", _FIRST_GENERATION)

# The file of an optimizer's state, and what its names begin with when they are joined.
_OPTIMIZERS = (
    ("optimizer.pt", "optimizer."),
    ("optimizer.bin", "optimizer."),
    ("optim.pt", "optim."),
)
_TRAINING = "train."
# The format of a step of OLMo-core.
_STEP = "torch distributed"
_NUMBERED = re.compile(r"state\.\d+\.")


def config_path(path: str) -> str | None:
    """The configuration that belongs to the checkpoint at ``path``, a file or a directory."""
    directory = _directory_of(path)
    for name in _CONFIGS:
        candidate = os.path.join(directory, name)
        if os.path.isfile(candidate):
            return candidate
    return None


def has_config(path: str) -> bool:
    """Whether there is a file that :func:`ckptdiff.config.read_config` would read."""
    held_in = path if os.path.isdir(path) else os.path.dirname(path) or "."
    directory = hub_snapshot(held_in) or held_in
    return any(
        os.path.isfile(os.path.join(place, name))
        for place in (directory, step_directory(directory))
        for name in _CONFIGS
    )


def with_companions(checkpoint: Checkpoint, path: str, options: OpenOptions) -> Checkpoint:
    """The checkpoint with what lies beside its weights, as far as that is asked for.

    Where a file is named, or a part of one, that and nothing else is meant. Raises
    InvalidCheckpointError where the optimizer is asked for and its file is broken.
    """
    if options.key is not None:
        return checkpoint
    checkpoint = _with_position(_with_config(checkpoint, path), path)
    return _with_optimizer(checkpoint, path, options) if os.path.isdir(path) else checkpoint


def _directory_of(path: str) -> str:
    if not os.path.isdir(path):
        path = os.path.dirname(path) or "."
    return step_directory(hub_snapshot(path) or path)


def _with_config(checkpoint: Checkpoint, path: str) -> Checkpoint:
    """With the configuration of the run, where it is one of OLMo's checkpoints."""
    directory = _directory_of(path)
    file = os.path.join(directory, _FIRST_GENERATION)
    if checkpoint.format == _STEP:
        if not os.path.isdir(os.path.join(directory, ITEMS_FOLDER)):
            return checkpoint
        file = os.path.join(directory, _CONFIGS[0])
    elif not os.path.isdir(path):
        return checkpoint
    if not os.path.isfile(file):
        return checkpoint
    from ckptdiff.formats.run_config import config_texts

    try:
        texts = config_texts(file)
    except (InvalidCheckpointError, CheckpointReadError) as error:
        return checkpoint.extended(notes=[f"not read: {error}"])
    manifest = Manifest.joined(
        [(checkpoint.manifest, ""), (Manifest.from_spans([], [], texts), "")]
    )
    return checkpoint.extended(manifest=manifest)


def _with_position(checkpoint: Checkpoint, path: str) -> Checkpoint:
    """With the numbers of OLMo's state of training, where it is one of its checkpoints."""
    is_step = checkpoint.format == _STEP
    if not is_step and not os.path.isdir(path):
        return checkpoint
    directory = _directory_of(path)
    file = training_state_file(directory)
    if file is None:
        return checkpoint
    shown = os.path.relpath(file, directory)
    if not is_step and not os.path.isfile(os.path.join(directory, _FIRST_GENERATION)):
        # train.pt can be anything, a data set for example
        return checkpoint
    try:
        state = train_state(directory)
    except InvalidCheckpointError as error:
        # It is nobody's weight: that it cannot be read is said, and no reason not to compare.
        return checkpoint.extended(notes=[f"not read: {error}"])
    texts = {key: str(value) for key, value in state.items()}
    manifest = Manifest.joined(
        [(checkpoint.manifest, ""), (Manifest.from_spans([], [], texts), _TRAINING)]
    )
    note = training_note(state, shown)
    return checkpoint.extended(manifest=manifest, notes=[note] if note else [])


def _with_optimizer(checkpoint: Checkpoint, path: str, options: OpenOptions) -> Checkpoint:
    directory = hub_snapshot(path) or path
    for name, prefix in _OPTIMIZERS:
        file = os.path.join(directory, name)
        if not os.path.isfile(file) or file in checkpoint.files:
            continue
        if not options.optimizer:
            return checkpoint.extended(notes=[f"{name} is left out; --optimizer includes it"])
        return _joined(checkpoint, path, file, prefix)
    return checkpoint


def _joined(checkpoint: Checkpoint, path: str, file: str, prefix: str) -> Checkpoint:
    from ckptdiff.formats import torch
    from ckptdiff.formats.definition_order import model_type_of, parameters_in_order
    from ckptdiff.formats.optimizer import Parameters

    models: list[Parameters] = []
    reason = "nothing tells for certain which number is which weight"
    if checkpoint.format == "torch" and len(checkpoint.files) == 1:
        models = torch.models_of(checkpoint.files[0])
    else:
        # A shard does not keep the order: a tensor that is large has one of its own, out of turn.
        model_type = model_type_of(os.path.dirname(file))
        untied = (name for name in checkpoint if name not in checkpoint.tied)
        names = parameters_in_order(untied, model_type)
        if names is not None:
            models = [[(name, checkpoint[name].shape) for name in names]]
        else:
            kept = "shards keep" if len(checkpoint.files) > 1 else f"{checkpoint.format} keeps"
            known = (
                "no config.json says the model_type"
                if model_type is None
                else f"that of model_type {model_type[:40]!r} in config.json is not known"
            )
            reason = f"{kept} no order of the parameters, and {known}"
    optimizer = torch.open_optimizer(file, models)
    notes = []
    if any(_NUMBERED.match(name) for name in optimizer):
        notes.append(f"{os.path.basename(file)}: parameters are numbers, as {reason}")
    try:
        manifest = Manifest.joined([(checkpoint.manifest, ""), (optimizer.manifest, prefix)])
    except ValueError as error:
        raise InvalidCheckpointError(f"{file}: joined to the weights, {error}") from None
    tied = {f"{prefix}{name}": f"{prefix}{first}" for name, first in optimizer.tied.items()}
    return checkpoint.extended(manifest=manifest, notes=notes, tied=tied)
