"""GGUF, the format of llama.cpp: a single file, or a model that is split over several.

Tensors bear the names that Hugging Face gives them, rows of q and k are in the order of Hugging
Face, and stacked experts are a tensor each, so that a GGUF file can be held against the model that
it was made of; :mod:`ckptdiff.naming.gguf` says for which architectures. What a file calls a tensor
is kept in :meth:`ckptdiff.Checkpoint.stored_name`. A part of a split model stands for all of it.
"""

from __future__ import annotations

import os
import re

from ckptdiff._core import Manifest, dtype_names
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointNotFoundError, InvalidCheckpointError
from ckptdiff.formats.gguf_header import MAGIC, Array, Header, Tensor, read_header
from ckptdiff.formats.options import OpenOptions
from ckptdiff.formats.recognise import first_bytes, hub_snapshot, is_something_else, some_of
from ckptdiff.naming.gguf import (
    ARCHITECTURES,
    HEADS,
    KEY_VALUE_HEADS,
    experts_name,
    hugging_face_name,
)

__all__ = ["can_open", "open_checkpoint"]

_SUFFIX = ".gguf"
_PART = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")

# No model has more, and so many take some 50 MB while they are described.
_EXPERTS_AT_MOST = 1 << 17


def can_open(path: str) -> bool:
    """Whether ``path`` is a GGUF file by its first bytes, or a directory that holds some."""
    if os.path.isdir(path):
        directory = hub_snapshot(path) or path
        return bool(_files(directory))
    return os.path.isfile(path) and first_bytes(path, len(MAGIC)) == MAGIC


def open_checkpoint(path: str, options: OpenOptions) -> Checkpoint:
    """Read the header or headers at ``path``; no tensor is read. There is no optimizer state.

    Raises InvalidCheckpointError where a file breaks the format and where a directory leaves open
    which of several models is meant, CheckpointNotFoundError where a part is missing, ValueError
    for a key.
    """
    options.refuse_key(path, "gguf")
    headers = _read_parts(_file_to_read(path))
    entries = _Entries(headers)
    manifest = Manifest.from_spans(
        [header.path for header in headers],
        entries.tensors,
        headers[0].texts,
        interleaved=entries.interleaved,
    )
    return Checkpoint(
        manifest,
        path=path,
        format="gguf",
        stored_names=entries.stored_names,
        notes=entries.notes,
    )


# -- files ----------------------------------------------------------------------------------------


def _file_to_read(path: str) -> str:
    """The one file, or a part of the one split model, that ``path`` stands for."""
    if not os.path.isdir(path):
        return path
    directory = hub_snapshot(path) or path
    names = _files(directory)
    models = sorted({_first_part(name) for name in names})
    if len(models) > 1:
        raise InvalidCheckpointError(
            f"{directory}: holds {len(models)} GGUF models ({some_of(models)}); name the file to "
            "read"
        )
    # which need not be the first part: that one may be missing
    return os.path.join(directory, names[0])


def _files(directory: str) -> list[str]:
    """The files of a directory with the suffix, without what has other content."""
    return sorted(
        name
        for name in os.listdir(directory)
        if name.endswith(_SUFFIX) and not is_something_else(os.path.join(directory, name), _SUFFIX)
    )


def _first_part(name: str) -> str:
    part = _PART.fullmatch(name)
    return name if part is None else _part_name(part["stem"], 0, int(part["count"]))


def _part_name(stem: str, number: int, count: int) -> str:
    return f"{stem}-{number + 1:05d}-of-{count:05d}{_SUFFIX}"


def _read_parts(path: str) -> list[Header]:
    """The header of the file, or those of all parts in their order if it is one of several."""
    header = read_header(path)
    count = _number(header, "split.count")
    if count is None or count <= 1:
        return [header]
    directory, name = os.path.split(path)
    part = _PART.fullmatch(name)
    if part is None or int(part["count"]) != count:
        raise InvalidCheckpointError(
            f"{path}: is part of a model that is split into {count} files, which are found by "
            f"names like {_part_name('NAME', 0, count)}; this is none"
        )
    headers = []
    for number in range(count):
        file = os.path.join(directory, _part_name(part["stem"], number, count))
        try:
            found = header if file == path else read_header(file)
        except FileNotFoundError:
            raise CheckpointNotFoundError(
                f"{path}: is one of {count} parts, of which {os.path.basename(file)} does not exist"
            ) from None
        for key, expected in (("split.count", count), ("split.no", number)):
            value = _number(found, key)
            if value != expected:
                raise InvalidCheckpointError(
                    f"{file}: metadata {key!r} is {value}, and {expected} by its name"
                )
        headers.append(found)
    tensors = sum(len(part.tensors) for part in headers)
    announced = _number(headers[0], "split.tensors.count")
    if announced not in (None, tensors):
        raise InvalidCheckpointError(
            f"{headers[0].path}: announces {announced} tensors in {count} parts, which hold "
            f"{tensors}"
        )
    return headers


def _number(header: Header, key: str) -> int | None:
    """A whole number of the metadata, None where it is not there."""
    value = header.metadata.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise InvalidCheckpointError(f"{header.path}: metadata {key!r} is {value!r}, no integer")
    return value


# -- tensors --------------------------------------------------------------------------------------

_Span = tuple[int, int, int]
_Entry = tuple[str, str, tuple[int, ...], list[_Span]]
_Interleaved = tuple[str, str, tuple[int, ...], int, int, int]


class _Entries:
    """The tensors of all parts as a manifest takes them."""

    def __init__(self, headers: list[Header]) -> None:
        self._metadata = headers[0].metadata
        name = self._metadata.get("general.architecture")
        self._name = name if isinstance(name, str) else ""
        self._architecture = ARCHITECTURES.get(self._name)
        self._expert_count = self._metadata.get(f"{self._name}.expert_count")
        self._experts = 0
        self._decoded = frozenset(dtype_names())
        self._paths = [header.path for header in headers]
        self.tensors: list[_Entry] = []
        #: those whose rows are to be put in order
        self.interleaved: list[_Interleaved] = []
        #: name in the manifest -> name in the file, where they differ
        self.stored_names: dict[str, str] = {}
        for source, header in enumerate(headers):
            for tensor in header.tensors:
                self._add(source, tensor)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the architecture."""
        return () if self._architecture is None else self._architecture.notes

    def _add(self, source: int, tensor: Tensor) -> None:
        stored = tensor.name
        found = self._architecture and hugging_face_name(self._architecture, stored)
        if found is None:
            self._add_whole(source, tensor, stored)
            return
        name, heads_key = found
        if experts_name(name, 0) is not None:
            self._add_experts(source, tensor, name)
        elif heads_key is None or tensor.bytes == 0 or tensor.dtype not in self._decoded:
            self._add_whole(source, tensor, name)
        else:
            self._add_in_order(source, tensor, name, heads_key)

    def _add_whole(self, source: int, tensor: Tensor, name: str) -> None:
        spans = [(source, tensor.offset, tensor.bytes)]
        self.tensors.append((name, tensor.dtype, tensor.shape, spans))
        if name != tensor.name:
            self.stored_names[name] = tensor.name

    def _add_experts(self, source: int, tensor: Tensor, name: str) -> None:
        """A tensor for each expert of a stack, which is a row block of its bytes."""
        count = self._expert_count
        stacked = isinstance(count, int) and tensor.shape[:1] == (count,)
        if not stacked or len(tensor.shape) < 2 or tensor.bytes == 0:
            # Whatever it is, it is no stack of the experts that the file has.
            self._add_whole(source, tensor, tensor.name)
            return
        assert isinstance(count, int)
        self._experts += count
        if self._experts > _EXPERTS_AT_MOST:
            raise InvalidCheckpointError(
                f"{self._paths[source]}: tensor {tensor.name!r}: with it there are more than "
                f"{_EXPERTS_AT_MOST} tensors of experts"
            )
        size = tensor.bytes // count
        shape = tensor.shape[1:]
        for expert in range(count):
            expert_name = experts_name(name, expert)
            assert expert_name is not None
            span = (source, tensor.offset + expert * size, size)
            self.tensors.append((expert_name, tensor.dtype, shape, [span]))
            self.stored_names[expert_name] = tensor.name

    def _add_in_order(self, source: int, tensor: Tensor, name: str, heads_key: str) -> None:
        """The rows of q or k in the order of Hugging Face.

        The converter takes the two halves of a head's rows, which Hugging Face has one after the
        other, by turns. A tensor of which that cannot be so keeps its name, so that its rows are
        not held against rows of another order.
        """
        heads = self._head_count(heads_key, tensor.name)
        rows = tensor.shape[0] if tensor.shape else 1
        if heads is None or rows % (2 * heads):
            self._add_whole(source, tensor, tensor.name)
            return
        entry = (name, tensor.dtype, tensor.shape, source, tensor.offset, heads)
        self.interleaved.append(entry)
        self.stored_names[name] = tensor.name

    def _head_count(self, key: str, name: str) -> int | None:
        """How many heads the layer of a tensor has; None where the file does not tell."""
        value = self._metadata.get(f"{self._name}.{key}")
        if value is None and key == KEY_VALUE_HEADS:
            return self._head_count(HEADS, name)
        if isinstance(value, Array) and value.numbers is not None:
            layer = int(name.split(".")[1])
            value = value.numbers[layer] if layer < len(value.numbers) else None
        return value if isinstance(value, int) and value > 0 else None
