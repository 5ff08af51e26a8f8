"""What OLMo's trainers keep beside the weights of a step: where training stood, and its state.

OLMo-core writes ``stepN/`` with ``model_and_optim/`` (the tensors, see
:mod:`ckptdiff.formats.distributed`), ``config.json``, and ``train/rankR.pt`` for each rank, in
which the step and the tokens seen are the same for all. The first generation has
``train/rankR.pt`` in a sharded checkpoint and ``train.pt`` in another. Those are torch files of
dictionaries, which are read as any other: nothing in them is imported or run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ckptdiff.errors import InvalidCheckpointError

__all__ = ["ITEMS_FOLDER", "step_directory", "train_state", "training_note", "training_state_file"]

ITEMS_FOLDER = "model_and_optim"
_STATE_FILES = (os.path.join("train", "rank0.pt"), "train.pt")

# Dictionaries of the state whose numbers say how far the data has been read.
_NESTED = ("data_loader", "dataset")
_TEXT_AT_MOST = 1000
_ENTRIES_AT_MOST = 200

_STEP = "global_step"
_TOKENS = "global_train_tokens_seen"


def step_directory(path: str) -> str:
    """The step's directory that ``path`` is, or is ``model_and_optim/`` or its ``.metadata`` of."""
    path = os.path.normpath(path)
    if os.path.basename(path) == ".metadata":
        path = os.path.dirname(path) or "."
    if os.path.basename(os.path.abspath(path)) == ITEMS_FOLDER:
        path = os.path.normpath(os.path.join(path, os.pardir))
    return path


def training_state_file(directory: str) -> str | None:
    """``train/rank0.pt`` or ``train.pt`` of a step's directory, whichever is there."""
    for name in _STATE_FILES:
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            return path
    return None


def train_state(directory: str) -> Mapping[str, int | float | str]:
    """The numbers and texts of the trainer's state in a step's directory, by dotted name.

    As the file names them: ``global_step`` (optimizer steps), ``global_train_tokens_seen``
    (tokens), ``max_steps``, ``epoch``, ``world_size`` (ranks), ``data_loader.tokens_processed`` …
    Which of them there are depends on the trainer's version. Empty where the directory has no such
    file.

    ``directory`` may also be the step's ``model_and_optim/``, or the ``.metadata`` in it.

    Raises ForbiddenGlobalError where the pickle refers to what no checkpoint needs, and
    InvalidCheckpointError where it is no torch file of a dictionary.
    """
    path = training_state_file(step_directory(directory))
    if path is None:
        return {}
    # half of the package; not needed where there is no such file
    from ckptdiff.formats.torch_file import read_torch_file

    value = read_torch_file(path).value
    if not isinstance(value, dict):
        raise InvalidCheckpointError(f"{path}: expected a dictionary, the state of a trainer")
    found: dict[str, int | float | str] = {}
    for prefix, holder in (("", value), *((f"{key}.", value.get(key)) for key in _NESTED)):
        if not isinstance(holder, dict):
            continue
        for key, item in holder.items():
            if len(found) == _ENTRIES_AT_MOST:
                break
            if isinstance(key, str) and isinstance(item, (int, float, str)):
                found[prefix + key[:_TEXT_AT_MOST]] = (
                    item[:_TEXT_AT_MOST] if isinstance(item, str) else item
                )
    return found


def training_note(state: Mapping[str, int | float | str], file: str) -> str | None:
    """A sentence on how far training was, None where the state does not tell."""
    step, tokens = state.get(_STEP), state.get(_TOKENS)
    parts = []
    if isinstance(step, int):
        parts.append(f"at step {step:,}")
    if isinstance(tokens, int):
        parts.append(f"after {tokens:,} tokens")
    if not parts:
        return None
    return f"written {' '.join(parts)} of training ({file})"
