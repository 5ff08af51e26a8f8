"""A checkpoint's tensors as ``ls`` lists them: from the headers alone, no tensor is read."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import NamedTuple, TextIO

from ckptdiff.checkpoint import Checkpoint, TensorRef
from ckptdiff.render import json
from ckptdiff.render.escape import escape
from ckptdiff.render.layout import Cell, Column, display_width, table_lines
from ckptdiff.render.markdown import code
from ckptdiff.render.screen import Screen
from ckptdiff.render.units import human_bytes, human_count, plural, shape_text

__all__ = ["Listing", "Sums"]

_BLOCK = 1024
_FIELDS = ("name", "dtype", "shape", "numel", "bytes", "shard")


class Sums(NamedTuple):
    """How much there is of something."""

    tensors: int
    elements: int
    bytes: int


class Listing:
    """Some tensors of a checkpoint, by their positions in natural order of the names."""

    def __init__(self, checkpoint: Checkpoint, indices: Sequence[int]) -> None:
        self.checkpoint = checkpoint
        self.indices = indices

    def tensors(self) -> Iterator[TensorRef]:
        """The tensors in natural order of their names."""
        return map(self.checkpoint.tensor_at, self.indices)

    def write_json(self, stream: TextIO) -> None:
        """Write the schema ``ckptdiff.ls/1``: ``a``, ``summary`` and ``tensors``."""
        json.write_object(self._members(), stream)

    def write_csv(self, stream: TextIO) -> None:
        """Write a line per tensor; the shape is the text of a JSON list."""
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_FIELDS)
        text = escape if stream.isatty() else str
        for tensor in self.tensors():
            name, dtype, shard = text(tensor.name), text(tensor.dtype), text(_shard(tensor))
            shape = str(list(tensor.shape))
            writer.writerow((name, dtype, shape, tensor.numel, tensor.bytes, shard))

    def write_markdown(self, stream: TextIO) -> None:
        """Write a table of the tensors and a line with the sums."""
        stream.write("| tensor | dtype | shape | bytes | shard |\n|---|---|---:|---:|---|\n")
        for tensor in self.tensors():
            dtype = escape(tensor.dtype).replace("|", "\\|")
            shape, shard = shape_text(tensor.shape), code(_shard(tensor))
            stream.write(
                f"| {code(tensor.name)} | {dtype} | {shape} | {tensor.bytes:,} | {shard} |\n"
            )
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
        names = self.checkpoint.names()
        widest = max((display_width(escape(names[index])) for index in self.indices), default=0)
        if self.indices:
            blocks = self._blocks(with_shard)
            yield from table_lines(columns, blocks, screen, widest_name=widest)
            yield ""
        yield screen.style(self._sums(), "bold")
        yield screen.style(self._dtype_sums(), "dim")

    def _blocks(self, with_shard: bool) -> Iterator[list[list[Cell]]]:
        tensors = self.tensors()
        while block := list(islice(tensors, _BLOCK)):
            rows = []
            for tensor in block:
                row = [
                    Cell(escape(tensor.name)),
                    Cell(escape(tensor.dtype), "cyan"),
                    Cell(shape_text(tensor.shape)),
                    Cell(f"{tensor.bytes:,}"),
                ]
                if with_shard:
                    row.append(Cell(escape(_shard(tensor)), "dim"))
                rows.append(row)
            yield rows

    def _members(self) -> Iterator[tuple[str, object]]:
        yield "schema", "ckptdiff.ls/1"
        yield (
            "a",
            {
                **json.checkpoint_object(self.checkpoint),
                "format": self.checkpoint.format,
                "files": list(self.checkpoint.files),
                "metadata": self.checkpoint.metadata,
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
        yield (
            "tensors",
            (
                {
                    "name": tensor.name,
                    "dtype": tensor.dtype,
                    "shape": tensor.shape,
                    "numel": tensor.numel,
                    "bytes": tensor.bytes,
                    "shard": _shard(tensor) or None,
                }
                for tensor in self.tensors()
            ),
        )

    @cached_property
    def sums(self) -> dict[str, Sums]:
        """Tensors, elements and bytes of each dtype, the one with the most bytes first."""
        counts: dict[str, list[int]] = {}
        for tensor in self.tensors():
            count = counts.setdefault(tensor.dtype, [0, 0, 0])
            count[0] += 1
            count[1] += tensor.numel
            count[2] += tensor.bytes
        order = sorted(counts, key=lambda dtype: (-counts[dtype][2], dtype))
        return {dtype: Sums(*counts[dtype]) for dtype in order}

    def _sums(self) -> str:
        elements = sum(sums.elements for sums in self.sums.values())
        size = sum(sums.bytes for sums in self.sums.values())
        text = f"{plural(len(self.indices), 'tensor')}, {human_count(elements)} elements"
        text += f", {human_bytes(size)}"
        if len(self.checkpoint.files) > 1 and len(self.indices) == len(self.checkpoint):
            text += f" in {plural(len(self.checkpoint.files), 'shard')}"
        left_out = len(self.checkpoint) - len(self.indices)
        return text + (f"; {left_out:,} left out by globs" if left_out else "")

    def _dtype_sums(self) -> str:
        return ", ".join(
            f"{escape(dtype)}: {plural(sums.tensors, 'tensor')}, "
            f"{human_count(sums.elements)} elements, {human_bytes(sums.bytes)}"
            for dtype, sums in self.sums.items()
        )


def _shard(tensor: TensorRef) -> str:
    """The file that holds the tensor, without its directory; empty in memory."""
    files = dict.fromkeys(os.path.basename(span.file) for span in tensor.spans if span.file)
    return ", ".join(files)
