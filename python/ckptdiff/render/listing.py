"""A checkpoint's tensors as ``ls`` lists them: from the headers alone, no tensor is read."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, TextIO, TypeVar

from ckptdiff.checkpoint import Checkpoint
from ckptdiff.render import json
from ckptdiff.render.escape import escape
from ckptdiff.render.layout import Column, Strip, table_lines, widest
from ckptdiff.render.markdown import code
from ckptdiff.render.screen import Screen
from ckptdiff.render.units import human_bytes, human_count, plural, shape_text, thousands

__all__ = ["Block", "Listing", "Sums"]

Value = TypeVar("Value", bound=Hashable)

_BLOCK = 1024
_REMARKS_AT_MOST = 20
_VALUE_AT_MOST = 100
_FIELDS = ("name", "dtype", "shape", "numel", "bytes", "shard")


class Sums(NamedTuple):
    """How much there is of something."""

    tensors: int
    elements: int
    bytes: int


class Block(NamedTuple):
    """Some tensors, a sequence for each field: rows of a million make too many objects."""

    names: Sequence[str]
    dtypes: Sequence[str]
    shapes: Sequence[tuple[int, ...]]
    numels: Sequence[int]
    sizes: Sequence[int]
    shards: Sequence[str]
    #: what the file calls them, empty where that is known to be the name
    stored: Sequence[str]


class Listing:
    """Some tensors of a checkpoint, by their positions in natural order of the names."""

    def __init__(self, checkpoint: Checkpoint, indices: Sequence[int]) -> None:
        self.checkpoint = checkpoint
        self.indices = indices
        self._with_stored = checkpoint.has_stored_names

    def blocks(self) -> Iterator[Block]:
        """The tensors in natural order of their names, at most 1024 at a time."""
        for start in range(0, len(self.indices), _BLOCK):
            rows = self.checkpoint.manifest.tensors(self.indices[start : start + _BLOCK])
            names, dtypes, shapes, numels, sizes, files = zip(*rows, strict=True)
            stored = list(map(self.checkpoint.stored_name, names)) if self._with_stored else ()
            yield Block(names, dtypes, shapes, numels, sizes, _each(_shard, files), stored)

    def write_json(self, stream: TextIO) -> None:
        """Write the schema ``ckptdiff.ls/1``: ``a``, ``summary`` and ``tensors``."""
        json.write_object(self._members(), stream)

    def write_csv(self, stream: TextIO) -> None:
        """Write a line per tensor; the shape is the text of a JSON list."""
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self._fields)
        text = _escaped if stream.isatty() else list
        for block in self.blocks():
            columns: list[Sequence[object]] = [
                text(block.names),
                text(block.dtypes),
                _each(_list_text, block.shapes),
                block.numels,
                block.sizes,
                text(block.shards),
            ]
            if self._with_stored:
                columns.append(text(block.stored))
            writer.writerows(zip(*columns, strict=True))

    def write_markdown(self, stream: TextIO) -> None:
        """Write a table of the tensors and a line with the sums."""
        heads = ["tensor", "dtype", "shape", "bytes", "shard"]
        rules = ["---", "---", "---:", "---:", "---"]
        if self._with_stored:
            heads.append("in the file")
            rules.append("---")
        stream.write(f"| {' | '.join(heads)} |\n|{'|'.join(rules)}|\n")
        for block in self.blocks():
            columns = [
                [code(name) for name in block.names],
                _each(_plain, block.dtypes),
                _each(shape_text, block.shapes),
                _each(thousands, block.sizes),
                _each(code, block.shards),
            ]
            if self._with_stored:
                columns.append([code(name) for name in block.stored])
            for cells in zip(*columns, strict=True):
                stream.write(f"| {' | '.join(cells)} |\n")
        stream.write(f"\n{self._sums()}\n")

    def table_lines(self, screen: Screen) -> Iterator[str]:
        """The lines of the table for people: tensors first, sums last, where the eye is."""
        columns = [
            Column("tensor", flexible=True),
            Column("dtype"),
            Column("shape", right=True),
            Column("bytes", right=True),
        ]
        with_shard = len(self.checkpoint.files) > 1
        if with_shard:
            columns.append(Column("shard", priority=1))
        if self._with_stored:
            columns.append(Column("in the file", priority=2))
        if self.indices:
            widest_name = max(widest(_escaped(block.names)) for block in self.blocks())
            strips = self._strips(with_shard)
            yield from table_lines(columns, strips, screen, widest_name=widest_name)
            yield ""
        yield screen.style(self._sums(), "bold")
        yield screen.style(self._dtype_sums(), "dim")
        yield from map(escape, self._remarks())

    def _strips(self, with_shard: bool) -> Iterator[list[Strip]]:
        for block in self.blocks():
            strips = [
                Strip(_escaped(block.names)),
                Strip(_each(escape, block.dtypes), "cyan"),
                Strip(_each(shape_text, block.shapes)),
                Strip(_each(thousands, block.sizes)),
            ]
            if with_shard:
                strips.append(Strip(_each(escape, block.shards), "dim"))
            if self._with_stored:
                strips.append(Strip(_escaped(block.stored), "dim"))
            yield strips

    def _members(self) -> Iterator[tuple[str, object]]:
        yield "schema", "ckptdiff.ls/1"
        yield (
            "a",
            {
                **json.checkpoint_object(self.checkpoint),
                "format": self.checkpoint.format,
                "files": list(self.checkpoint.files),
                "metadata": self.checkpoint.metadata,
                "tied": dict(self.checkpoint.tied),
                "notes": list(self.checkpoint.notes),
            },
        )
        yield (
            "summary",
            {
                "tensors": len(self.indices),
                "elements": sum(sums.elements for sums in self.sums.values()),
                "bytes": sum(sums.bytes for sums in self.sums.values()),
                "dtypes": {dtype: sums._asdict() for dtype, sums in self.sums.items()},
            },
        )
        yield "tensors", (_json_rows(block, self._fields) for block in self.blocks())

    @property
    def _fields(self) -> tuple[str, ...]:
        return (*_FIELDS, "stored_name") if self._with_stored else _FIELDS

    @cached_property
    def sums(self) -> dict[str, Sums]:
        """Tensors, elements and bytes of each dtype, the one with the most bytes first."""
        every = len(self.indices) == len(self.checkpoint)
        sums = self.checkpoint.manifest.sums(None if every else self.indices)
        by_dtype = {dtype: Sums(*counts) for dtype, *counts in sums}
        order = sorted(by_dtype, key=lambda dtype: (-by_dtype[dtype].bytes, dtype))
        return {dtype: by_dtype[dtype] for dtype in order}

    def _sums(self) -> str:
        elements = sum(sums.elements for sums in self.sums.values())
        size = sum(sums.bytes for sums in self.sums.values())
        text = f"{plural(len(self.indices), 'tensor')}, {human_count(elements)} elements"
        text += f", {human_bytes(size)}"
        if len(self.checkpoint.files) > 1 and len(self.indices) == len(self.checkpoint):
            text += f" in {plural(len(self.checkpoint.files), 'shard')}"
        left_out = len(self.checkpoint) - len(self.indices)
        return text + (f"; {left_out:,} left out by globs" if left_out else "")

    def _remarks(self) -> Iterator[str]:
        """What the checkpoint says beside its tensors, some lines of each kind."""
        yield from self.checkpoint.notes
        tied = [f"tied: {name} = {twin}" for name, twin in self.checkpoint.tied.items()]
        yield from _some(tied, "tied tensors")
        metadata = self.checkpoint.metadata.items()
        lines = [f"{key}: {_shortened(value)}" for key, value in metadata]
        yield from _some(lines, "lines of metadata")

    def _dtype_sums(self) -> str:
        return ", ".join(
            f"{escape(dtype)}: {plural(sums.tensors, 'tensor')}, "
            f"{human_count(sums.elements)} elements, {human_bytes(sums.bytes)}"
            for dtype, sums in self.sums.items()
        )


def _shortened(value: str) -> str:
    """A value that can be a whole chat template."""
    if len(value) <= _VALUE_AT_MOST:
        return value
    return f"{value[:_VALUE_AT_MOST]}… ({len(value):,} characters)"


def _some(lines: Sequence[str], what: str) -> Iterator[str]:
    yield from lines[:_REMARKS_AT_MOST]
    rest = len(lines) - _REMARKS_AT_MOST
    if rest > 0:
        yield f"… and {rest:,} more {what} (--format json has all)"


def _json_rows(block: Block, fields: Sequence[str]) -> json.Encoded:
    columns: list[Sequence[object]] = [
        [json.encode(name) for name in block.names],
        _each(json.encode, block.dtypes),
        _each(_list_text, block.shapes),
        block.numels,
        block.sizes,
        _each(_encoded_shard, block.shards),
    ]
    if block.stored:
        columns.append([json.encode(name) for name in block.stored])
    row = ", ".join(f'"{field}": {{}}' for field in fields)
    return json.Encoded(",\n".join(map(f"{{{{{row}}}}}".format, *columns)))


def _escaped(texts: Sequence[str]) -> Sequence[str]:
    # one look at all of them is far cheaper than one at each
    together = "".join(texts)
    if together.isascii() and together.isprintable():
        return texts
    return [escape(text) for text in texts]


def _each(function: Callable[[Value], str], values: Sequence[Value]) -> list[str]:
    """``function`` of each value, called once for equal ones, of which a checkpoint has many."""
    results = {value: function(value) for value in set(values)}
    return [results[value] for value in values]


def _plain(dtype: str) -> str:
    return escape(dtype).replace("|", "\\|")


def _list_text(shape: tuple[int, ...]) -> str:
    return str(list(shape))


def _encoded_shard(shard: str) -> str:
    return json.encode(shard or None)


def _shard(files: tuple[str, ...]) -> str:
    """The files that hold a tensor, without their directory; empty in memory."""
    return ", ".join(dict.fromkeys(map(os.path.basename, files)))
