"""The configuration of the run that wrote a checkpoint, as metadata by dotted names.

OLMo-core keeps it as ``config.json`` in a step's directory, OLMo's first generation as
``config.yaml`` beside the weights. What the fields mean is for :mod:`ckptdiff.config`; here they
are as the trainer wrote them (``config.model.d_model``), for ``ls`` to show.
"""

from __future__ import annotations

from collections.abc import Iterator

from ckptdiff.documents import read_json, read_yaml
from ckptdiff.formats.nested import plain_text

__all__ = ["config_texts"]

_FIRST = "config"
_ENTRIES_AT_MOST = 1000
_DEPTH_AT_MOST = 20
# A key can be as long as the file, with thousands of entries under it.
_NAME_AT_MOST = 500


def config_texts(path: str) -> dict[str, str]:
    """The numbers and texts of a JSON or YAML file by dotted name, the first thousand.

    Raises InvalidCheckpointError where it is no such file, CheckpointReadError where it cannot be
    read.
    """
    config = read_yaml(path) if path.endswith(".yaml") else read_json(path)
    found: dict[str, str] = {}
    for keys, value in _leaves(config, (_FIRST,)):
        text = plain_text(value)
        if text is not None:
            found[".".join(keys)] = text
            if len(found) == _ENTRIES_AT_MOST:
                break
    return found


def _leaves(value: object, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    if not isinstance(value, dict):
        yield keys, value
    elif len(keys) <= _DEPTH_AT_MOST and sum(map(len, keys)) <= _NAME_AT_MOST:
        for key, item in value.items():
            if len(key) <= _NAME_AT_MOST:
                yield from _leaves(item, (*keys, key))
