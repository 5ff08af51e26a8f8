"""torch checkpoints: ``.pt``, ``.pth``, ``.bin``, ``.ckpt``, TorchScript, and shards of them.

A path may be a file, an index of shards (``pytorch_model.bin.index.json``), or a directory with
either. Nothing of torch is needed to read them, and nothing in them is run: see
:mod:`ckptdiff.formats.inert`. What is nested is flattened to dotted names, and what is the state of
training is left out unless it is asked for: see :mod:`ckptdiff.formats.nested`.

A tensor is a view of a storage: an offset, a shape and strides. Where it lies in one piece it is a
span, elsewhere the core gathers it. Tensors that are the same view of one storage are tied.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from ckptdiff._core import Manifest
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.errors import InvalidCheckpointError
from ckptdiff.formats.index import Shard, is_index, shards_of
from ckptdiff.formats.inert import DType, Storage, StoredTensor, UnsupportedTensor
from ckptdiff.formats.nested import Flattened, Tensor, flatten, models_in
from ckptdiff.formats.optimizer import Parameters
from ckptdiff.formats.options import WEIGHTS, OpenOptions
from ckptdiff.formats.recognise import (
    NO_WEIGHTS,
    begins_as_safetensors,
    first_bytes,
    hub_snapshot,
    some_of,
)
from ckptdiff.formats.torch_file import is_torch_file, read_constants, read_torch_file

__all__ = [
    "View",
    "can_open",
    "models_of",
    "open_checkpoint",
    "open_index",
    "open_optimizer",
    "view_of",
]

_INDEX_SUFFIX = ".bin.index.json"
_USUAL_INDEX = "pytorch_model.bin.index.json"
_FILE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
_SCRIPT_SUFFIXES = (".jit", ".ts", ".torchscript")
_USUAL_FILES = ("pytorch_model.bin", "model.pt")
_RANK_AT_MOST = 64
_ELEMENTS_AT_MOST = 2**63
_PACKED = "F4"
_FREE_GATHERED_BYTES = 16 << 20

Span: TypeAlias = tuple[int, int, int]
# (name, dtype, shape, spans), as Manifest.from_spans takes it
Plain: TypeAlias = tuple[str, str, Sequence[int], Sequence[Span]]
# (name, dtype, shape, source, byte offset, byte strides)
Strided: TypeAlias = tuple[str, str, Sequence[int], int, int, Sequence[int]]


def can_open(path: str) -> bool:
    """Whether ``path`` is a torch file by its content or its suffix, an index, or a directory."""
    if os.path.isdir(path):
        directory = hub_snapshot(path) or path
        if _indexes(directory):
            return True
        files = _weight_files(directory)
        # where the usual file is something else, what is beside it is no weights
        usual = [os.path.join(directory, name) for name in _USUAL_FILES if name not in files]
        return bool(files) and not any(map(os.path.isfile, usual))
    if not os.path.isfile(path):
        return False
    return path.endswith(_INDEX_SUFFIX) or _is_torch_file(path)


def _is_index(path: str) -> bool:
    return path.endswith(_INDEX_SUFFIX) or is_index(path)


def _is_torch_file(path: str) -> bool:
    """By the content; of what is broken, or a pickle of something else, the suffix decides."""
    is_named_so = path.endswith((*_FILE_SUFFIXES, *_SCRIPT_SUFFIXES))
    start = first_bytes(path, 2)
    if start.startswith(b"\x80") and is_named_so:
        return True
    try:
        return start.startswith((b"PK", b"\x80")) and is_torch_file(path)
    except InvalidCheckpointError:
        return is_named_so


def open_checkpoint(path: str, options: OpenOptions) -> Checkpoint:
    """Read the pickle or pickles at ``path``; no tensor is read.

    Raises InvalidCheckpointError where a file breaks the format, where a pickle refers to what no
    checkpoint needs, and where a directory leaves open which of several files is meant;
    CheckpointNotFoundError where a shard is missing; ValueError where there is no such key.
    """
    file = _file_to_read(path)
    if not _is_index(file):
        return _opened(path, file, [Shard(file, None)], options, ())
    options.refuse_key(path, "an index of shards")
    return open_index(path, file)


def open_index(path: str, index: str) -> Checkpoint:
    """Open the shards of an index, some of which may be safetensors, as the checkpoint ``path``."""
    shards = list(shards_of(index))
    if shards and all(begins_as_safetensors(shard.path) for shard in shards):
        from ckptdiff.formats import safetensors

        return safetensors.open_index(path, index)
    return _opened(path, index, shards, WEIGHTS, ())


def open_optimizer(path: str, models: Sequence[Parameters]) -> Checkpoint:
    """Open the file of an optimizer's state, which may be of the weights of one of ``models``.

    Raises what :func:`open_checkpoint` does.
    """
    return _opened(path, path, [Shard(path, None)], OpenOptions(optimizer=True), models)


def models_of(file: str) -> list[Parameters]:
    """The weights in a torch file, in the order of the model."""
    held = read_torch_file(file)
    return models_in(
        held.value, source=file, pickle_bytes=held.pickle_bytes, shape_of=_shape_or_none
    )


def _opened(
    path: str,
    file: str,
    shards: Sequence[Shard],
    options: OpenOptions,
    models: Sequence[Parameters],
) -> Checkpoint:
    collected = _Collected([shard.path for shard in shards], options, models)
    # The core walks over the tensors and keeps what it needs of each. What is found on the way,
    # it takes when it has all.
    manifest = Manifest.from_spans(
        collected.sources,
        (
            tensor
            for source, shard in enumerate(shards)
            for tensor in collected.tensors_of(source, shard, file)
        ),
        collected.metadata,
        collected.strided,
    )
    notes = collected.notes
    if collected.left_out:
        notes.append(
            f"{collected.left_out:,} tensors are the state of training (optimizer …) and left "
            "out; --optimizer includes them"
        )
    return Checkpoint(manifest, path=path, format="torch", tied=collected.tied, notes=notes)


class _Collected:
    """What goes into a manifest, from one file or several."""

    def __init__(
        self, sources: list[str], options: OpenOptions, models: Sequence[Parameters]
    ) -> None:
        self.sources = sources
        self.options = options
        self.models = models
        self.strided: list[Strided] = []
        self.metadata: dict[str, str] = {}
        self.tied: dict[str, str] = {}
        self.left_out = 0
        self.notes: list[str] = []

    def tensors_of(self, source: int, shard: Shard, index: str) -> Iterator[Plain]:
        """The tensors of a shard that are spans; the others go to ``strided``."""
        path = shard.path
        if shard.names is not None and begins_as_safetensors(path):
            yield from _of_safetensors(source, path, shard.names, index)
            return
        # Whatever the index names counts, so nothing is left out before it is asked.
        options = self.options if shard.names is None else OpenOptions(optimizer=True)
        file = read_torch_file(path)
        flattened = flatten(
            file.value,
            source=path,
            options=options,
            pickle_bytes=file.pickle_bytes,
            shape_of=_shape_or_none,
            models=self.models,
        )
        is_script = file.is_script
        del file
        if is_script and shard.names is None and self.options.key is None:
            self._add_constants(path, flattened)
        self.metadata |= flattened.metadata
        self.left_out += flattened.left_out
        tensors = flattened.tensors
        if shard.names is not None:
            tensors = _named(tensors, shard.names, path, index)
        twins = _Twins(tensors)
        # An expanded tensor is larger than its storage, without end if nobody asks.
        allowance = 2 * os.path.getsize(path) + _FREE_GATHERED_BYTES
        # no bytes, but a message can say in which file the tensor is
        nothing = ((source, 0, 0),)
        for name, tensor in tensors:
            _check_name(path, name)
            if isinstance(tensor, UnsupportedTensor):
                yield name, tensor.what, _shape_of(tensor.shape, path, name), nothing
                continue
            view = view_of(tensor, path, name)
            if view.dtype is None:
                yield name, view.unsupported, view.shape, nothing
                continue
            twin = twins.of(name, tensor)
            if twin is not None:
                self.tied[name] = twin
            if view.strides is None:
                yield name, view.dtype, view.shape, ((source, view.offset, view.length),)
                continue
            allowance -= view.length
            if allowance < 0:
                raise _broken(
                    path, name, f"repeats what the file has, in {view.length} bytes in all"
                )
            self.strided.append((name, view.dtype, view.shape, source, view.offset, view.strides))

    def _add_constants(self, path: str, flattened: Flattened) -> None:
        """The constants of a TorchScript module that has no other tensors, or a note of them."""
        file = read_constants(path)
        constants = flatten(
            {"constants": file.value},
            source=path,
            options=WEIGHTS,
            pickle_bytes=file.pickle_bytes,
            shape_of=_shape_or_none,
        ).tensors
        if not constants:
            return
        what = "1 tensor" if len(constants) == 1 else f"{len(constants):,} tensors"
        if flattened.tensors:
            self.notes.append(f"left out: {what} in the code of this TorchScript archive")
        else:
            flattened.tensors.extend(constants)
            self.notes.append(
                f"a frozen TorchScript module: {what} are constants of its code, known by number"
            )


def _named(
    tensors: Sequence[tuple[str, Tensor]], names: Sequence[str], path: str, index: str
) -> list[tuple[str, Tensor]]:
    """Those of a shard's tensors that the index says are in it; others may be stale."""
    held = dict(tensors)
    missing = next((name for name in names if name not in held), None)
    if missing is not None:
        raise _missing(missing, path, index)
    return [(name, held[name]) for name in names]


def _of_safetensors(source: int, path: str, names: Sequence[str], index: str) -> Iterator[Plain]:
    """Those tensors of a shard that is safetensors, whatever its name says."""
    manifest = Manifest.from_safetensors(path)
    for name in names:
        at = manifest.find(name)
        if at is None:
            raise _missing(name, path, index)
        _, dtype, shape, _, spans = manifest.tensor(at)
        yield name, dtype, shape, [(source, offset, length) for _, offset, length in spans]


def _missing(name: str, path: str, index: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(
        f"{index}: tensor {name[:200]!r} should be in shard "
        f"{os.path.basename(path)!r}, which has no such tensor"
    )


class _Twins:
    """Finds tensors of a file that are the same view of the same bytes."""

    def __init__(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Count the views of each storage, of which most have one and are not looked at again."""
        # By the hash of a text, as those of tuples can be chosen, and texts of many views are long.
        self._views: dict[int, tuple[str, StoredTensor]] = {}
        for _, tensor in tensors:
            if isinstance(tensor, StoredTensor) and isinstance(tensor.storage, Storage):
                tensor.storage.root.views += 1

    def of(self, name: str, tensor: StoredTensor) -> str | None:
        """The name of the first tensor that is the same as this one, if there is one."""
        storage = tensor.storage
        assert isinstance(storage, Storage)
        if storage.root.views == 1:
            return None
        identity = _identity(tensor)
        name_of_first, first = self._views.setdefault(hash(identity), (name, tensor))
        if first is tensor:
            return name_of_first if name_of_first != name else None
        return name_of_first if _identity(first) == identity else None


def _identity(tensor: StoredTensor) -> str:
    """A text that two tensors have in common if they are the same view of the same bytes."""
    storage = tensor.storage
    assert isinstance(storage, Storage)
    dtype = tensor.dtype if isinstance(tensor.dtype, DType) else storage.kind.dtype
    view = f"{storage.first} {tensor.offset} {tensor.shape} {tensor.stride}"
    return f"{view} {dtype.name if dtype else None} {storage.key}"


class View(NamedTuple):
    """Where a tensor's elements are. ``strides`` is None where they lie in one piece.

    ``dtype`` is None, and ``unsupported`` a word for the reason, where they cannot be read.
    """

    dtype: str | None
    shape: tuple[int, ...]
    offset: int = 0
    length: int = 0
    strides: tuple[int, ...] | None = None
    unsupported: str = ""


def view_of(tensor: StoredTensor, path: str, name: str) -> View:
    """Check a tensor against its storage. Raises InvalidCheckpointError that names it."""
    shape = _shape_of(tensor.shape, path, name)
    storage = tensor.storage
    dtype = tensor.dtype
    if not isinstance(storage, Storage):
        raise _broken(path, name, "has no storage")
    if dtype is None:
        dtype = storage.kind.dtype
    if not isinstance(dtype, DType):
        raise _broken(path, name, "has no dtype")
    strides, offset = tensor.stride, tensor.offset
    if (
        not isinstance(strides, tuple)
        or len(strides) != len(shape)
        or not all(type(stride) is int and 0 <= stride < _ELEMENTS_AT_MOST for stride in strides)
    ):
        raise _broken(path, name, f"has no strides that fit its shape {list(shape)}")
    if type(offset) is not int or offset < 0:
        raise _broken(path, name, "has no offset into its storage")
    if dtype.safetensors is None or dtype.bytes == 0:
        return View(None, shape, unsupported=dtype.name)
    if tensor.flags:
        return View(None, shape, unsupported="conjugated or negated view")
    elements = 1
    for size in shape:
        elements *= size
    width = dtype.bytes
    first = storage.first * storage.element_bytes
    at = storage.root.offset + first + offset * width
    if elements == 0:
        return View(dtype.safetensors, _unpacked(shape, dtype, path, name), storage.root.offset, 0)
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    held = min(storage.elements * storage.element_bytes, storage.root.size - first)
    if (offset + reach + 1) * width > held:
        raise _broken(
            path,
            name,
            f"reaches to byte {(offset + reach + 1) * width} of a storage of {held} bytes",
        )
    if _contiguous(shape, strides):
        return View(dtype.safetensors, _unpacked(shape, dtype, path, name), at, elements * width)
    if dtype.safetensors == _PACKED:
        return View(None, shape, unsupported=f"{dtype.name}, not contiguous")
    byte_strides = tuple(stride * width for stride in strides)
    return View(dtype.safetensors, shape, at, elements * width, byte_strides)


def _unpacked(shape: tuple[int, ...], dtype: DType, path: str, name: str) -> tuple[int, ...]:
    """The shape in elements: torch counts bytes, of two elements each, for 4-bit floats."""
    if dtype.safetensors != _PACKED:
        return shape
    if not shape:
        raise _broken(path, name, "is 0-d and packed, so its element count is unclear")
    return (*shape[:-1], shape[-1] * 2)


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _shape_of(shape: object, path: str, name: str) -> tuple[int, ...]:
    checked = _checked_shape(shape)
    if checked is None:
        raise _broken(path, name, "has no valid shape")
    return checked


def _checked_shape(shape: object) -> tuple[int, ...] | None:
    if not isinstance(shape, tuple) or len(shape) > _RANK_AT_MOST:
        return None
    elements = 1
    for size in shape:
        if type(size) is not int or not 0 <= size < _ELEMENTS_AT_MOST:
            return None
        elements *= max(size, 1)
    return shape if elements < _ELEMENTS_AT_MOST else None


def _shape_or_none(tensor: StoredTensor) -> tuple[int, ...] | None:
    return _checked_shape(tensor.shape)


def _check_name(path: str, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidCheckpointError(
            f"{path}: the name {name[:200]!r} has half a character, which no text has"
        ) from None


def _broken(path: str, name: str, why: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(f"{path}: tensor {name[:200]!r} {why}")


# Which files.


def _file_to_read(path: str) -> str:
    """The one index or file that ``path`` stands for."""
    if not os.path.isdir(path):
        return path
    path = hub_snapshot(path) or path
    indexes = _indexes(path)
    if _USUAL_INDEX in indexes:
        return os.path.join(path, _USUAL_INDEX)
    files = indexes or _weight_files(path)
    for usual in _USUAL_FILES:
        if usual in files:
            return os.path.join(path, usual)
    if len(files) > 1:
        what = "indexes" if indexes else "torch files"
        raise InvalidCheckpointError(
            f"{path}: holds {len(files)} {what} ({some_of(files)}) and no {_USUAL_INDEX} that "
            "says which tensor is read from which; name the file to read"
        )
    return os.path.join(path, files[0])


def _indexes(directory: str) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name.endswith(_INDEX_SUFFIX))


def _weight_files(directory: str) -> list[str]:
    """The torch files of a directory that are not, by their name, the state of training."""
    names = sorted(
        name
        for name in os.listdir(directory)
        if name.endswith(_FILE_SUFFIXES) and not name.startswith(NO_WEIGHTS)
    )
    paths = ((name, os.path.join(directory, name)) for name in names)
    return [name for name, path in paths if os.path.isfile(path) and _is_torch_file(path)]
