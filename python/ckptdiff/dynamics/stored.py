"""One file that holds a series that was read: an uncompressed zip of arrays and a JSON document.

It is what ``numpy.load`` calls an ``.npz``: each array is a ``.npy`` member, ``LEVEL/gram.npy`` or
``LEVEL/stats/COLUMN.npy``, and ``ckptdiff_series.json``, which comes first, says what is in it.
Only the layout that :func:`save` writes is read back. Sizes are checked against the document before
any memory is taken, nothing is decompressed, and no pickle is read. The same series gives the same
bytes: members have no date.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptdiff.atomic import atomic_bytes
from ckptdiff.dynamics.data import GROUPINGS, SeriesCheckpoint, SeriesData, SeriesLevel
from ckptdiff.dynamics.problems import KINDS, Problem
from ckptdiff.dynamics.report import SeriesOptions, SeriesReport
from ckptdiff.dynamics.saved import DOCUMENT, is_stored
from ckptdiff.errors import CheckpointNotFoundError, CheckpointReadError, InvalidCheckpointError

__all__ = ["is_stored", "load", "save"]

SCHEMA = "ckptdiff.series-file/1"

_DATE = (1980, 1, 1, 0, 0, 0)
_DOCUMENT_BYTES_AT_MOST = 256 << 20
_CHECKPOINTS_AT_MOST = 100_000
_NPY_START = b"\x93NUMPY\x01\x00"

Array = npt.NDArray[Any]


# -- writing --------------------------------------------------------------------------------------


def save(report: SeriesReport, path: str) -> None:
    """Write the file, completely or not at all. Raises OSError where that fails."""
    data = report.data
    document = {
        "schema": SCHEMA,
        "options": asdict(report.options),
        "checkpoints": [asdict(checkpoint) for checkpoint in data.checkpoints],
        "problems": [asdict(problem) for problem in report.problems],
        "levels": {
            grouping: {
                "names": list(level.names),
                "stats": list(level.stats),
                "diffs": list(level.diffs),
            }
            for grouping, level in ((name, data.levels[name]) for name in GROUPINGS)
        },
    }
    with (
        atomic_bytes(path) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        _write_member(archive, DOCUMENT, json.dumps(document, allow_nan=False).encode("ascii"))
        for grouping in GROUPINGS:
            for name, array in _arrays(data.levels[grouping]):
                header = _npy_header(array.dtype.str, array.shape)
                _write_member(archive, f"{grouping}/{name}.npy", header + array.tobytes())


def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """What a ``.npy`` file of version 1.0 has before its elements.

    It is written here, and compared when a file is read, so that nothing in a file is parsed as
    Python, which numpy does.
    """
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    # elements begin at a multiple of 64
    padding = -(len(_NPY_START) + 2 + len(text) + 1) % 64
    header = f"{text}{' ' * padding}\n".encode("ascii")
    return _NPY_START + len(header).to_bytes(2, "little") + header


def _write_member(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    member = zipfile.ZipInfo(name, _DATE)
    # as the umask would have it for a file that is unpacked
    member.external_attr = 0o644 << 16
    archive.writestr(member, data)


def _arrays(level: SeriesLevel) -> Iterator[tuple[str, Array]]:
    """The arrays of a level in the order of the file, little-endian and in C order."""
    yield "numel", np.ascontiguousarray(level.numel, dtype="<i8")
    yield "finite", np.ascontiguousarray(level.finite, dtype="<i8")
    yield "gram", np.ascontiguousarray(level.gram, dtype="<f8")
    for kind, columns in (("stats", level.stats), ("diffs", level.diffs)):
        for column, values in columns.items():
            yield f"{kind}/{column}", np.ascontiguousarray(values, dtype="<f8")


# -- reading --------------------------------------------------------------------------------------


def load(path: str) -> SeriesReport:
    """Read the file back.

    Raises CheckpointNotFoundError where there is none, CheckpointReadError where the system refuses
    to read it, and InvalidCheckpointError where it is not what :func:`save` writes.
    """
    try:
        if not is_stored(path):
            os.stat(path)
            raise InvalidCheckpointError(f"{path}: not a series that ckptdiff saved")
        with zipfile.ZipFile(path) as archive:
            return _Reader(path, archive).report()
    except FileNotFoundError:
        raise CheckpointNotFoundError(f"{path}: no such file") from None
    except InvalidCheckpointError:
        raise
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as error:
        raise InvalidCheckpointError(f"{path}: a broken zip archive: {error}") from None
    except OSError as error:
        raise CheckpointReadError(f"{path}: {error.strerror or error}") from error


class _Reader:
    """Reads the members of an archive, each checked before memory is taken for it."""

    def __init__(self, path: str, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        size = os.path.getsize(path)
        for member in archive.infolist():
            if member.filename in self._members:
                raise self._broken(member.filename, "is there twice")
            if (
                member.compress_type != zipfile.ZIP_STORED
                or member.flag_bits & 1
                or member.compress_size != member.file_size
                or member.file_size > size
            ):
                raise self._broken(member.filename, "is not stored plainly")
            self._members[member.filename] = member

    def report(self) -> SeriesReport:
        document = self._document()
        checkpoints = self._checkpoints(document)
        levels_entry = self._mapping(document, "levels")
        levels = {
            grouping: self._level(grouping, self._mapping(levels_entry, grouping), len(checkpoints))
            for grouping in GROUPINGS
        }
        if len(levels["total"].names) != 1:
            raise self._broken(DOCUMENT, "has not one total")
        options = self._mapping(document, "options")
        return SeriesReport(
            SeriesData(checkpoints, levels),
            problems=self._problems(document),
            options=SeriesOptions(
                include=tuple(self._globs(options, "include")),
                exclude=tuple(self._globs(options, "exclude")),
                order=self._text(options, "order"),
                map=self._text(options, "map"),
            ),
        )

    def _document(self) -> Mapping[str, object]:
        data = self._read(DOCUMENT, _DOCUMENT_BYTES_AT_MOST)
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            raise self._broken(DOCUMENT, "is no JSON") from None
        if not isinstance(document, dict):
            raise self._broken(DOCUMENT, "is no JSON object")
        schema = document.get("schema")
        if schema != SCHEMA:
            raise self._broken(DOCUMENT, f"is of {str(schema)[:80]!r}, expected {SCHEMA!r}")
        return document

    def _checkpoints(self, document: Mapping[str, object]) -> tuple[SeriesCheckpoint, ...]:
        entries = self._list(document, "checkpoints")
        if not 0 < len(entries) <= _CHECKPOINTS_AT_MOST:
            raise self._broken(DOCUMENT, f"has {len(entries)} checkpoints")
        names = [field.name for field in fields(SeriesCheckpoint)]
        checkpoints = []
        for index, entry in enumerate(entries):
            # those that were saved before soups were told apart
            if isinstance(entry, dict):
                entry.setdefault("is_soup", False)
            if not isinstance(entry, dict) or set(entry) != set(names):
                raise self._broken(DOCUMENT, f"has no checkpoint at {index}")
            for name in ("label", "path", "format"):
                self._text(entry, name)
            parent = entry["parent"]
            if type(parent) is not int or not -1 <= parent < index:
                raise self._broken(DOCUMENT, f"has a checkpoint {index} before its parent")
            for name in ("stage", "ingredient", "step", "tokens", "stage_tokens"):
                if entry[name] is not None and type(entry[name]) is not int:
                    raise self._broken(DOCUMENT, f"has a {name} that is no integer")
            if type(entry["is_soup"]) is not bool:
                raise self._broken(DOCUMENT, "has an is_soup that is neither true nor false")
            rate = entry["learning_rate"]
            if rate is not None and not (isinstance(rate, float) and math.isfinite(rate)):
                raise self._broken(DOCUMENT, "has a learning_rate that is no number")
            checkpoints.append(SeriesCheckpoint(**entry))
        if len({checkpoint.label for checkpoint in checkpoints}) < len(checkpoints):
            raise self._broken(DOCUMENT, "has two checkpoints of one label")
        return tuple(checkpoints)

    def _problems(self, document: Mapping[str, object]) -> list[Problem]:
        problems = []
        for entry in self._list(document, "problems"):
            if not isinstance(entry, dict):
                raise self._broken(DOCUMENT, "has a problem that is no object")
            kind = self._text(entry, "kind")
            if kind not in KINDS:
                raise self._broken(DOCUMENT, f"has a problem of the unknown kind {kind[:80]!r}")
            labels = tuple(self._texts(entry, "labels"))
            problems.append(Problem(kind, self._text(entry, "text"), labels))
        return problems

    def _level(self, grouping: str, entry: Mapping[str, object], count: int) -> SeriesLevel:
        names = tuple(self._texts(entry, "names"))
        rows = len(names)

        def columns(kind: str) -> dict[str, npt.NDArray[np.float64]]:
            return {
                column: self._array(f"{grouping}/{kind}/{column}.npy", "<f8", (count, rows))
                for column in self._texts(entry, kind)
            }

        return SeriesLevel(
            names=names,
            numel=self._array(f"{grouping}/numel.npy", "<i8", (rows,)),
            finite=self._array(f"{grouping}/finite.npy", "<i8", (rows,)),
            gram=self._array(f"{grouping}/gram.npy", "<f8", (rows, count, count)),
            stats=columns("stats"),
            diffs=columns("diffs"),
        )

    def _array(self, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """An array of exactly this dtype and shape."""
        header = _npy_header(dtype, shape)
        size = len(header) + math.prod(shape) * 8
        data = self._read(name, size)
        if len(data) != size or not data.startswith(header):
            raise self._broken(name, f"is no array of {dtype} and the shape {list(shape)}")
        return np.frombuffer(data, dtype, offset=len(header)).reshape(shape)

    def _read(self, name: str, at_most: int) -> bytes:
        member = self._members.get(name)
        if member is None:
            raise self._broken(name, "is missing")
        if member.file_size > at_most:
            raise self._broken(name, f"has {member.file_size:,} bytes, more than expected")
        return self._archive.read(member)

    def _mapping(self, entry: Mapping[str, object], key: str) -> Mapping[str, object]:
        value = entry.get(key)
        if not isinstance(value, dict):
            raise self._broken(DOCUMENT, f"has no object {key!r}")
        return value

    def _list(self, entry: Mapping[str, object], key: str) -> Sequence[object]:
        value = entry.get(key)
        if not isinstance(value, list):
            raise self._broken(DOCUMENT, f"has no list {key!r}")
        return value

    def _texts(self, entry: Mapping[str, object], key: str) -> list[str]:
        texts = self._list(entry, key)
        if not all(isinstance(text, str) for text in texts) or len(set(texts)) < len(texts):
            raise self._broken(DOCUMENT, f"has no list of different texts {key!r}")
        return [text for text in texts if isinstance(text, str)]

    def _globs(self, entry: Mapping[str, object], key: str) -> list[str]:
        """Texts as they were given, once or several times."""
        texts = [text for text in self._list(entry, key) if isinstance(text, str)]
        if len(texts) < len(self._list(entry, key)):
            raise self._broken(DOCUMENT, f"has no list of texts {key!r}")
        return texts

    def _text(self, entry: Mapping[str, object], key: str) -> str:
        value = entry.get(key)
        if not isinstance(value, str):
            raise self._broken(DOCUMENT, f"has no text {key!r}")
        return value

    def _broken(self, member: str, why: str) -> InvalidCheckpointError:
        return InvalidCheckpointError(f"{self._path}: {member[:200]} {why}")
