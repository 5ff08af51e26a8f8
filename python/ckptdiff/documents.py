"""JSON and YAML files beside a checkpoint, read as plain data and within bounds.

A config is somebody else's file. It can be of any size and nested as deep as its writer liked, and
YAML can name Python objects to construct and repeat a part through aliases until a few lines fill
the memory. So sizes and depths are bounded, tags and aliases refused, and whatever is wrong is one
line that names the file.

YAML is read from the parser's events, as the resolver of PyYAML takes ``5e12`` and ``1e-5`` for
text: it follows YAML 1.1, where a float needs a point. OLMo's configs are written and read with
OmegaConf, to which those are numbers.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import CheckpointReadError, InvalidCheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CONFIG_BYTES_AT_MOST", "STATE_BYTES_AT_MOST", "read_json", "read_yaml"]

#: A config of OLMo 2 has 160 KB, most of it paths of data.
CONFIG_BYTES_AT_MOST = 4 * 2**20
#: A trainer's state has a line for every time that it logged.
STATE_BYTES_AT_MOST = 16 * 2**20

_DEPTH_AT_MOST = 100
_DIGITS_AT_MOST = 400

_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, object] = {
    "": None, "~": None, "null": None, "true": True, "false": False,
    ".inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan"),
}  # fmt: skip


def read_json(path: str, bytes_at_most: int = CONFIG_BYTES_AT_MOST) -> dict[str, Any]:
    """The JSON object in a file.

    Raises InvalidCheckpointError where the file is larger than ``bytes_at_most``, no JSON, or
    something other than an object; CheckpointReadError where the system refuses to read it.
    """
    text = _text(path, bytes_at_most)
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError as error:
        # a JSONDecodeError, or an integer of thousands of digits
        raise InvalidCheckpointError(f"{path}: no JSON: {_one_line(error)}") from None
    # how deep the parser goes depends on the interpreter, and on who called
    if _is_too_deep(value):
        raise _too_deep(path)
    return _object(value, path)


def read_yaml(path: str, bytes_at_most: int = CONFIG_BYTES_AT_MOST) -> dict[str, Any]:
    """The mapping in a YAML file; the errors are those of :func:`read_json`."""
    # takes 20 ms to import, and few checkpoints have such a file
    import yaml

    text = _text(path, bytes_at_most)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        value = _built(yaml.parse(text, Loader=loader), path)
    except yaml.YAMLError as error:
        # PyYAML has a limit of its own from 6.0.4 on
        if "nesting depth" in str(error):
            raise _too_deep(path) from None
        raise InvalidCheckpointError(f"{path}: no YAML: {_one_line(error)}") from None
    return _object(value, path)


def _text(path: str, bytes_at_most: int) -> str:
    try:
        size = os.path.getsize(path)
        if not os.path.isfile(path) or size > bytes_at_most:
            raise InvalidCheckpointError(
                f"{path}: {size:,} bytes, expected a file of at most {bytes_at_most:,}"
            )
        with open(path, "rb") as file:
            data = file.read(bytes_at_most + 1)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidCheckpointError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise CheckpointReadError(f"{path}: {error.strerror or error}") from error


def _object(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidCheckpointError(f"{path}: expected a mapping of names to values")
    return value


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(_DEPTH_AT_MOST):
        level = [
            part
            for container in level
            if isinstance(container, (dict, list))
            for part in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return False
    return any(isinstance(part, (dict, list)) for part in level)


def _too_deep(path: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(f"{path}: nested too deep, expected {_DEPTH_AT_MOST} levels")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _built(events: Iterator[Any], path: str) -> object:
    """The value of the first document of a YAML stream."""
    documents: list[Any] = []
    # containers that are open, and the key that each mapping among them waits to have a value for
    open_containers: list[list[Any] | dict[Any, Any]] = []
    keys: list[Any] = []

    def put(value: Any) -> None:
        if not open_containers:
            documents.append(value)
            return
        container = open_containers[-1]
        if isinstance(container, list):
            container.append(value)
        elif keys[-1] is None:
            if not isinstance(value, (str, int, float)):
                raise InvalidCheckpointError(f"{path}: YAML with a key that is no text")
            # a list of one tells a key that is there from none, whatever its value is
            keys[-1] = [str(value)]
        else:
            container[keys[-1][0]] = value
            keys[-1] = None

    for event in events:
        kind = type(event).__name__
        if kind == "ScalarEvent":
            put(_scalar(event))
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            if len(open_containers) == _DEPTH_AT_MOST:
                raise _too_deep(path)
            opened: list[Any] | dict[Any, Any] = {} if kind == "MappingStartEvent" else []
            put(opened)
            open_containers.append(opened)
            keys.append(None)
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            open_containers.pop()
            keys.pop()
        elif kind == "AliasEvent":
            raise InvalidCheckpointError(f"{path}: YAML with an alias, expected plain values")
        elif kind == "DocumentEndEvent":
            break
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise InvalidCheckpointError(f"{path}: YAML with a tag {tag[:80]!r}")
    return documents[0] if documents else None


def _scalar(event: Any) -> object:
    text: str = event.value
    if not event.implicit[0] or len(text) > _DIGITS_AT_MOST:
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text
