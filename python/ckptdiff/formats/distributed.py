"""torch distributed checkpoints (DCP): ``.metadata``, and ``.distcp`` files that ranks wrote.

``.metadata`` is a pickle: for each tensor its shape and dtype and the boxes it was cut into, and
for each box where its item lies, as (file, offset, length). An item is a whole torch zip file with
one tensor in it, so each has a directory and a pickle of its own, which say where the elements are.
Both are read with the inert machine of :mod:`ckptdiff.formats.inert`. A run without collectives
leaves a ``__RANK.metadata`` for each rank and none for all.

Boxes that are cut along the first dimension are spans in a row; others the core puts together. They
must be the whole tensor, once: nothing is filled in. OLMo-core writes the same with a class of its
own for the place of an item, and puts ``model_and_optim/`` beside ``train/`` and ``config.json``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import BinaryIO, NamedTuple, TypeAlias

from ckptdiff._core import Manifest
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointNotFoundError, InvalidCheckpointError
from ckptdiff.formats.inert import (
    PLAIN,
    TORCH,
    DType,
    IdentityKey,
    InertObject,
    StoredTensor,
    inert_classes,
    unpickle,
)
from ckptdiff.formats.nested import is_training_state_key, plain_text
from ckptdiff.formats.options import OpenOptions
from ckptdiff.formats.recognise import refuse_special
from ckptdiff.formats.torch import view_of
from ckptdiff.formats.torch_file import TorchItems

__all__ = ["can_open", "open_checkpoint"]

_METADATA = ".metadata"
_ITEMS_FOLDER = "model_and_optim"
_METADATA_BYTES_AT_MOST = 1 << 29
_PLAIN_ITEMS_AT_MOST = 200
_PLAIN_ITEM_BYTES_AT_MOST = 1 << 16
_RANK_AT_MOST = 64
_SIZE_AT_MOST = 2**62
_OPEN_FILES_AT_MOST = 64

# What a pickle may say for its length: a name, a list of boxes or a path can be used by many. An
# honest tensor, box or place takes more bytes of it, and for each dimension four.
_BYTES_OF_AN_ENTRY = 8
_FREE_BYTES = 1 << 16
# The longest name that a file can have.
_FILE_NAME_AT_MOST = 255

_TORCH_CLASSES = "torch.distributed.checkpoint.metadata"
_OLMO_CORE = "olmo_core.distributed.checkpoint.filesystem"

_METADATA_CLASS = f"{_TORCH_CLASSES}.Metadata"
_TENSOR_CLASS = f"{_TORCH_CLASSES}.TensorStorageMetadata"
_BYTES_CLASS = f"{_TORCH_CLASSES}.BytesStorageMetadata"
_CHUNK_CLASS = f"{_TORCH_CLASSES}.ChunkStorageMetadata"
_INDEX_CLASS = f"{_TORCH_CLASSES}.MetadataIndex"
_PLACE_CLASSES = (
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    f"{_OLMO_CORE}._StorageInfo",
)

_KNOWN: dict[str, object] = (
    PLAIN
    | TORCH
    | inert_classes(
        _METADATA_CLASS,
        _TENSOR_CLASS,
        _BYTES_CLASS,
        _CHUNK_CLASS,
        _INDEX_CLASS,
        *_PLACE_CLASSES,
        f"{_TORCH_CLASSES}.TensorProperties",
        f"{_TORCH_CLASSES}.StorageMeta",
        f"{_TORCH_CLASSES}._MEM_FORMAT_ENCODING",
        "torch.distributed.checkpoint.filesystem._StoragePrefix",
        f"{_OLMO_CORE}._StoragePrefix",
        # before 2.1 the properties were those of a sharded tensor
        "torch.distributed._shard.sharded_tensor.metadata.TensorProperties",
        "torch.distributed._shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING",
    )
)

Sizes: TypeAlias = tuple[int, ...]
Span: TypeAlias = tuple[int, int, int]
Plain: TypeAlias = tuple[str, str, Sizes, tuple[Span, ...]]
Strided: TypeAlias = tuple[str, str, Sizes, int, int, Sizes]
Part: TypeAlias = tuple[int, int, Sizes, Sizes, Sizes | None]
Parted: TypeAlias = tuple[str, str, Sizes, list[Part]]


def can_open(path: str) -> bool:
    """Whether ``path`` is a ``.metadata``, or a directory with one, or with such a directory."""
    return _directory_of(path) is not None


def open_checkpoint(path: str, options: OpenOptions) -> Checkpoint:
    """Read the metadata at ``path``, and of each item the directory and the pickle; no tensor.

    Raises InvalidCheckpointError where the metadata or an item breaks its format, or where the
    boxes of a tensor are not the whole of it; CheckpointNotFoundError where a file is missing;
    ValueError where there is no such key.
    """
    directory = _directory_of(path)
    assert directory is not None
    layout = _Layout(directory)
    for file in _metadata_files(directory):
        layout.read(os.path.join(directory, file))
    layout.check_places()
    selected, left_out = layout.select(options)
    with _Items(directory) as items:
        collected = _Collected(directory, layout, items)
        plain = [tensor for key, name in selected for tensor in collected.tensors_of(key, name)]
        manifest = Manifest.from_spans(
            items.paths, plain, collected.metadata, collected.strided, None, collected.parted
        )
    notes = []
    if left_out:
        notes.append(
            f"{left_out:,} tensors are the state of training (optimizer …) and left out; "
            "--optimizer includes them"
        )
    return Checkpoint(manifest, path=path, format="torch distributed", notes=notes)


def _directory_of(path: str) -> str | None:
    """The directory with the metadata that ``path`` stands for."""
    if os.path.isfile(path):
        directory, name = os.path.split(path)
        return (directory or ".") if name == _METADATA else None
    for directory in (path, os.path.join(path, _ITEMS_FOLDER)):
        if os.path.isdir(directory) and _metadata_files(directory):
            return directory
    return None


def _metadata_files(directory: str) -> list[str]:
    """``.metadata``, or those of all ranks in their order."""
    names = os.listdir(directory)
    if _METADATA in names:
        return [_METADATA]
    ranks = [
        (int(rank), name)
        for name in names
        if name.startswith("__") and name.endswith(_METADATA)
        if (rank := name[2 : -len(_METADATA)]).isdecimal() and len(rank) < 10
    ]
    return [name for _, name in sorted(ranks)]


class _Place(NamedTuple):
    """Where an item lies."""

    file: str
    offset: int
    length: int
    transformed: bool


class _Tensor(NamedTuple):
    shape: Sizes
    dtype: DType
    chunks: list[object]


class _Layout:
    """What the metadata says: the tensors by key, and where each box of each is."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._path = directory
        self.tensors: dict[str, list[_Tensor]] = {}
        self.plain: list[str] = []
        # By name and then by the text of the origin, since the hashes of tuples can be chosen.
        self._places: dict[str, dict[str, _Place]] = {}
        self._paths: dict[str, tuple[str, ...]] = {}
        self._allowance = _FREE_BYTES

    def read(self, path: str) -> None:
        """Read one metadata file. Raises InvalidCheckpointError."""
        self._path = path
        if not os.path.isfile(path):
            raise InvalidCheckpointError(f"{path}: expected a regular file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > _METADATA_BYTES_AT_MOST:
                raise InvalidCheckpointError(
                    f"{path}: metadata of {size} bytes is more than allowed"
                )
            data = file.read(size)
        metadata = unpickle(data, source=path, known=_KNOWN).value
        self._allowance += len(data)
        entries = self._attributes(metadata, _METADATA_CLASS, "the pickle")
        described = entries.get("state_dict_metadata")
        places = entries.get("storage_data")
        if not isinstance(described, dict) or not isinstance(places, dict):
            raise InvalidCheckpointError(f"{path}: no state_dict_metadata, or no storage_data")
        self._read_places(places)
        self._read_paths(entries.get("planner_data"))
        for key, value in described.items():
            if not isinstance(key, str):
                raise InvalidCheckpointError(f"{path}: a tensor whose name is no text")
            self._check_name(key)
            if isinstance(value, InertObject) and value.kind == _BYTES_CLASS:
                self.plain.append(key)
                continue
            self.tensors.setdefault(key, []).append(self._tensor(key, value))

    def check_places(self) -> None:
        """Refuse items that have bytes in common: reading them all could take no end of time."""
        by_file: dict[str, list[tuple[int, int, str]]] = {}
        for name, places in self._places.items():
            for place in places.values():
                by_file.setdefault(place.file, []).append((place.offset, place.length, name))
        for file, items in by_file.items():
            items.sort()
            for (before, length, first), (offset, _, second) in pairwise(items):
                if offset < before + length:
                    raise self._broken(
                        second,
                        f"has the item at {offset} of {file}, where that of "
                        f"{first[:200]!r} reaches to {before + length}",
                    )

    def place(self, key: str, origin: Sizes | None) -> _Place | None:
        places = self._places.get(key)
        return None if places is None else places.get(str(origin))

    def _spend(self, entries: int, key: str) -> None:
        """Refuse metadata that says more than its pickle is long."""
        self._allowance -= _BYTES_OF_AN_ENTRY * entries
        if self._allowance < 0:
            raise InvalidCheckpointError(
                f"{self._path}: tensor {key[:200]!r} has parts that are used over and over"
            )

    def boxes(self, key: str, tensor: _Tensor) -> Iterator[tuple[Sizes, Sizes]]:
        """Origin and sizes of each box, checked against nothing but that they are sizes."""
        for chunk in tensor.chunks:
            self._spend(1 + len(tensor.shape) // 4, key)
            if not isinstance(chunk, InertObject) or chunk.kind != _CHUNK_CLASS:
                raise self._broken(key, "has a part that is no ChunkStorageMetadata")
            entries = chunk.state if isinstance(chunk.state, dict) else {}
            origin, sizes = _sizes(entries.get("offsets")), _sizes(entries.get("sizes"))
            if (
                origin is None
                or sizes is None
                or not len(origin) == len(sizes) == len(tensor.shape)
            ):
                raise self._broken(key, "has a part without offsets and sizes")
            yield origin, sizes

    def select(self, options: OpenOptions) -> tuple[list[tuple[str, str]], int]:
        """Keys and names of the tensors that are wanted, and how many were left out."""
        keys = list(self.tensors)
        prefix = ""
        if options.key is not None:
            prefix = f"{options.key}."
            keys = [key for key in keys if key.startswith(prefix)]
            if not keys:
                firsts = sorted({key.partition(".")[0][:40] for key in self.tensors})
                listing = ", ".join(firsts[:6]) + (" …" if len(firsts) > 6 else "")
                raise ValueError(
                    f"{self._directory}: no key {options.key!r}; there is "
                    f"{listing or 'nothing nested'}"
                )
        everything = options.optimizer or (
            options.key is not None
            and any(is_training_state_key(part) for part in options.key.split("."))
        )
        wanted = [key for key in keys if everything or not self._is_training_state(key)]
        return [(key, key.removeprefix(prefix)) for key in wanted], len(keys) - len(wanted)

    def _is_training_state(self, key: str) -> bool:
        parts = self._paths.get(key)
        if parts is None:
            first, dot, _ = key.partition(".")
            return bool(dot) and is_training_state_key(first)
        return any(is_training_state_key(part) for part in parts[:-1])

    def plain_keys(self) -> list[str]:
        return [key for key in self.plain if not self._is_training_state(key)]

    def _read_places(self, places: dict[object, object]) -> None:
        for key, value in places.items():
            index = key.value if isinstance(key, IdentityKey) else key
            entries = self._attributes(index, _INDEX_CLASS, "an index of storage_data")
            name, origin = entries.get("fqn"), entries.get("offset")
            checked = None if origin is None else _sizes(origin)
            if not isinstance(name, str) or (checked is None and origin is not None):
                raise InvalidCheckpointError(f"{self._path}: an index that names no part")
            self._spend(1 + (len(checked) // 4 if checked else 0), name)
            place = self._place(name, value)
            # Ranks without collectives each write what is replicated: the first one's counts.
            self._places.setdefault(name, {}).setdefault(str(checked), place)

    def _place(self, key: str, value: object) -> _Place:
        if not isinstance(value, InertObject) or value.kind not in _PLACE_CLASSES:
            raise self._broken(key, "has no place that torch or OLMo-core writes")
        entries = value.state if isinstance(value.state, dict) else {}
        file, offset, length = (entries.get(name) for name in ("relative_path", "offset", "length"))
        if not isinstance(file, str) or not _is_plain_name(file):
            raise self._broken(key, f"is in {str(file)[:200]!r}, which is no file beside .metadata")
        if type(offset) is not int or type(length) is not int or min(offset, length) < 0:
            raise self._broken(key, "has no offset and length in its file")
        return _Place(file, offset, length, bool(entries.get("transform_descriptors")))

    def _read_paths(self, planner_data: object) -> None:
        """Which keys of which nested dictionaries a name was made of."""
        if not isinstance(planner_data, dict):
            return
        for key, path in planner_data.items():
            if isinstance(key, str) and isinstance(path, tuple) and 0 < len(path) < 100:
                texts = tuple(part if isinstance(part, str) else "" for part in path)
                self._spend(1 + len(path) // 8 + sum(map(len, texts)) // 64, key)
                self._paths[key] = texts

    def _tensor(self, key: str, value: object) -> _Tensor:
        entries = self._attributes(value, _TENSOR_CLASS, f"tensor {key[:200]!r}")
        shape, chunks = _sizes(entries.get("size")), entries.get("chunks")
        self._spend(1 + (len(shape) // 4 if shape else 0), key)
        properties = entries.get("properties")
        state = properties.state if isinstance(properties, InertObject) else None
        if isinstance(state, dict):
            dtype = state.get("dtype")
        else:
            dtype = state[0] if isinstance(state, tuple) and state else None
        if shape is None or not isinstance(chunks, list) or not isinstance(dtype, DType):
            raise self._broken(key, "lacks a shape, a dtype or its parts")
        return _Tensor(shape, dtype, chunks)

    def _attributes(self, value: object, kind: str, what: str) -> dict[object, object]:
        if isinstance(value, InertObject) and value.kind == kind and isinstance(value.state, dict):
            return value.state
        name = kind.rpartition(".")[2]
        raise InvalidCheckpointError(f"{self._path}: {what} is no {name}")

    def _check_name(self, key: str) -> None:
        try:
            key.encode()
        except UnicodeEncodeError:
            raise InvalidCheckpointError(
                f"{self._path}: the name {key[:200]!r} has half a character, which no text has"
            ) from None

    def _broken(self, key: str, why: str) -> InvalidCheckpointError:
        return InvalidCheckpointError(f"{self._path}: tensor {key[:200]!r} {why}")


class _Items:
    """Opens the files of items, a few at a time, and numbers them."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._numbers: dict[str, int] = {}
        self._open: dict[str, BinaryIO] = {}
        self.paths: list[str] = []

    def __enter__(self) -> _Items:
        return self

    def __exit__(self, *exception: object) -> None:
        with ExitStack() as stack:
            for file in self._open.values():
                stack.callback(file.close)
        self._open = {}

    def source(self, name: str) -> int:
        """The number of a file, which must be there."""
        number = self._numbers.get(name)
        if number is None:
            path = os.path.join(self._directory, name)
            if not os.path.exists(path):
                raise CheckpointNotFoundError(
                    f"{self._directory}: the metadata names {name[:200]!r}, which does not exist"
                )
            refuse_special(path)
            number = self._numbers[name] = len(self.paths)
            self.paths.append(path)
        return number

    def file(self, name: str) -> BinaryIO:
        self.source(name)
        file = self._open.get(name)
        if file is None:
            if len(self._open) >= _OPEN_FILES_AT_MOST:
                self._open.pop(next(iter(self._open))).close()
            file = self._open[name] = open(os.path.join(self._directory, name), "rb")  # noqa: SIM115
        return file


class _Collected:
    """What goes into the manifest."""

    def __init__(self, directory: str, layout: _Layout, items: _Items) -> None:
        self._directory = directory
        self._layout = layout
        self._items = items
        self._torch_items = TorchItems()
        self._used: set[str] = set()
        self.strided: list[Strided] = []
        self.parted: list[Parted] = []
        self.metadata: dict[str, str] = {}
        for key in layout.plain_keys()[:_PLAIN_ITEMS_AT_MOST]:
            self._read_plain(key)

    def tensors_of(self, key: str, name: str) -> Iterator[Plain]:
        """The tensor if it is spans; the others go to ``strided`` and ``parted``."""
        described = self._layout.tensors[key]
        shape, dtype = described[0].shape, described[0].dtype
        parts: list[Part] = []
        kinds: set[str] = set()
        unsupported = ""
        seen: set[str] = set()
        for tensor in described:
            if tensor.shape != shape or tensor.dtype is not dtype:
                raise self._broken(
                    key, "has another shape or dtype in the metadata of another rank"
                )
            for origin, sizes in self._layout.boxes(key, tensor):
                label = f"{origin}{sizes}"
                if label in seen:
                    # replicated, and written once
                    continue
                seen.add(label)
                if 0 in sizes:
                    continue
                place = self._layout.place(key, origin)
                if place is None:
                    raise self._broken(key, f"has no item for its part at {list(origin)}")
                if place.transformed:
                    unsupported = "transformed (compressed or encrypted)"
                    continue
                part, kind = self._part(key, origin, sizes, place, dtype)
                if part is None:
                    unsupported = kind
                    continue
                parts.append(part)
                kinds.add(kind)
        if unsupported:
            yield name, unsupported, shape, ()
            return
        if len(kinds) > 1:
            raise self._broken(key, "has parts of different dtypes")
        if dtype.safetensors is None:
            yield name, dtype.name, shape, ()
            return
        kind = kinds.pop() if kinds else dtype.safetensors
        if kind == "F4":
            yield name, "packed 4-bit floats in a distributed checkpoint", shape, ()
            return
        yield from self._placed(name, kind, shape, parts, dtype.bytes)

    def _placed(
        self, name: str, dtype: str, shape: Sizes, parts: list[Part], width: int
    ) -> Iterator[Plain]:
        parts.sort(key=lambda part: part[2])
        if len(parts) == 1 and parts[0][4] is not None and parts[0][3] == shape:
            source, offset, _, _, strides = parts[0]
            assert strides is not None
            self.strided.append((name, dtype, shape, source, offset, strides))
            return
        spans = _spans(shape, parts, width)
        if spans is None:
            self.parted.append((name, dtype, shape, parts))
            return
        yield name, dtype, shape, spans

    def _part(
        self, key: str, origin: Sizes, sizes: Sizes, place: _Place, dtype: DType
    ) -> tuple[Part | None, str]:
        """Where a box's elements are, and the dtype; or None, and what it is that is none."""
        where = f"{place.file}\0{place.offset}"
        if where in self._used:
            raise self._broken(
                key, f"has the item at {place.offset} of {place.file}, which is used"
            )
        self._used.add(where)
        source = self._items.source(place.file)
        path = self._items.paths[source]
        file = self._items.file(place.file)
        value = self._torch_items.read(file, path, place.offset, place.length)
        if not isinstance(value, StoredTensor):
            return None, getattr(value, "what", "no tensor")
        view = view_of(value, path, key)
        if view.dtype is None:
            return None, view.unsupported
        if view.dtype != dtype.safetensors:
            raise self._broken(
                key,
                f"is {dtype.safetensors or dtype.name} by the metadata, {view.dtype} in an item",
            )
        expected = sizes if view.dtype != "F4" else (*sizes[:-1], 2 * sizes[-1])
        if view.shape != expected:
            raise self._broken(
                key, f"has a part of shape {list(view.shape)}, where {list(expected)} is expected"
            )
        if view.strides is not None and view.length > place.length:
            raise self._broken(key, "has a part that repeats what its item has")
        return (source, view.offset, origin, sizes, view.strides), view.dtype

    def _read_plain(self, key: str) -> None:
        """Keep a number or a text. What is more than that, or broken, is nobody's weight."""
        place = self._layout.place(key, None)
        if place is None or place.transformed or place.length > _PLAIN_ITEM_BYTES_AT_MOST:
            return
        try:
            path = self._items.paths[self._items.source(place.file)]
            file = self._items.file(place.file)
            value = self._torch_items.read(file, path, place.offset, place.length)
        except InvalidCheckpointError:
            return
        text = plain_text(value)
        if text is not None:
            self.metadata[key] = text

    def _broken(self, key: str, why: str) -> InvalidCheckpointError:
        return InvalidCheckpointError(f"{self._directory}: tensor {key[:200]!r} {why}")


def _spans(shape: Sizes, parts: list[Part], width: int) -> tuple[Span, ...] | None:
    """The parts as spans, where each is some whole rows, in order, and none is missing."""
    if not shape:
        if len(parts) != 1 or parts[0][4] is not None:
            return None
        return ((parts[0][0], parts[0][1], width),)
    row = width
    for size in shape[1:]:
        row *= size
    at = 0
    spans: list[Span] = []
    for source, offset, origin, sizes, strides in parts:
        if strides is not None or sizes[1:] != shape[1:] or any(origin[1:]) or origin[0] != at:
            return None
        spans.append((source, offset, row * sizes[0]))
        at += sizes[0]
    if at != shape[0] and 0 not in shape:
        return None
    return tuple(spans)


def _sizes(value: object) -> Sizes | None:
    if not isinstance(value, (tuple, list)) or len(value) > _RANK_AT_MOST:
        return None
    elements = 1
    for size in value:
        if type(size) is not int or not 0 <= size < _SIZE_AT_MOST:
            return None
        elements *= max(size, 1)
    return tuple(value) if elements < _SIZE_AT_MOST else None


def _is_plain_name(name: str) -> bool:
    if not 0 < len(name) <= _FILE_NAME_AT_MOST or name in (".", ".."):
        return False
    return "/" not in name and "\\" not in name and "\0" not in name
