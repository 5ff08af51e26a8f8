"""The compiled core: manifests in, tables of reduced rows out.

Everything here is a plain value or a frozen class. The public API is
:mod:`ckptdiff.api`; this module converts arguments and delegates.
"""

import builtins  # a property of Manifest is called bytes
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

__all__ = [
    "CheckpointNotFoundError",
    "CheckpointReadError",
    "InvalidCheckpointError",
    "Manifest",
    "Pairing",
    "Table",
    "__version__",
    "cast_dtype_names",
    "diff",
    "diff_column_names",
    "dtype_names",
    "io_names",
    "isa_levels",
    "stats",
    "stats_column_names",
    "strip_pickle",
]

__version__: str

class CheckpointNotFoundError(FileNotFoundError):
    """There is no checkpoint, shard or file at the path that was given."""

class InvalidCheckpointError(ValueError):
    """A file breaks its format, or a tensor cannot be read as what it claims to be."""

class CheckpointReadError(OSError):
    """The operating system refused to read a file, or the file shrank meanwhile."""

def dtype_names() -> list[str]:
    """Every dtype the kernels decode, by its safetensors or ggml name."""

def cast_dtype_names() -> list[str]:
    """The dtypes ``diff(cast=...)`` can round to."""

def io_names() -> list[str]:
    """How files can be read, by name; the first is the default."""

def isa_levels() -> list[str]:
    """Instruction-set levels this machine can run, the slowest first."""

def diff_column_names() -> list[str]:
    """The default columns of a diff, in order."""

def stats_column_names() -> list[str]:
    """The default columns of stats, in order."""

def strip_pickle(data: bytes, start: int = 0) -> tuple[bytes, int]:
    """The pickle at ``start`` without frames and memo entries that nothing reads, and its end.

    Raises EOFError where the data ends within it, ValueError for an opcode that checkpoints do
    not need and for arguments that make no sense.
    """

@final
class Manifest:
    """Which tensors a checkpoint holds and where their bytes lie, in natural order of the names."""

    @staticmethod
    def from_safetensors(path: str) -> Manifest:
        """Read the header of one ``.safetensors`` file."""
    @staticmethod
    def from_safetensors_index(path: str) -> Manifest:
        """Read ``*.safetensors.index.json`` and the headers of the shards it names."""
    @staticmethod
    def from_spans(
        sources: Sequence[str],
        tensors: Iterable[tuple[str, str, Sequence[int], Sequence[tuple[int, int, int]]]],
        metadata: Mapping[str, str] | None = None,
        strided: Iterable[tuple[str, str, Sequence[int], int, int, Sequence[int]]] | None = None,
        deflated: Sequence[tuple[int, int, int, int]] | None = None,
        parted: Iterable[
            tuple[
                str,
                str,
                Sequence[int],
                Sequence[tuple[int, int, Sequence[int], Sequence[int], Sequence[int] | None]],
            ]
        ]
        | None = None,
        interleaved: Iterable[tuple[str, str, Sequence[int], int, int, int]] | None = None,
    ) -> Manifest:
        """Describe tensors of files as (name, dtype, shape, spans).

        A span is (index in ``sources``, offset, length); spans are in row-major order of the
        elements. Of a dtype that is not known, the tensor is only listed. A tensor whose elements
        lie apart is (name, dtype, shape, index in ``sources``, byte offset, byte strides) in
        ``strided``. That and ``metadata`` are looked at when all of ``tensors`` has been walked.
        Each of ``deflated`` (index in ``sources``, offset, stored length, inflated length) is one
        more source, numbered behind ``sources``: what the bytes there inflate to. A tensor that
        is cut along any dimensions is (name, dtype, shape, parts) in ``parted``, and a part is
        (index in ``sources``, byte offset, where it begins in each dimension, its size in each,
        byte strides or None where its elements lie in order); parts are not empty.
        A tensor whose rows lie in groups, each with the rows of its first and its second half by
        turns, is (name, dtype, shape, index in ``sources``, byte offset, groups) in
        ``interleaved``. Those, too, are looked at when ``tensors`` has been walked.

        Raises InvalidCheckpointError that names file and tensor where bytes are not in the file,
        are not as many as dtype and shape take, or where two tensors have one name.
        """
    @staticmethod
    def from_memory(
        tensors: Sequence[tuple[str, str, Sequence[int], Sequence[int], int]],
        owner: object,
    ) -> Manifest:
        """Describe tensors in memory as (name, dtype, shape, byte strides, address).

        ``owner`` is kept alive as long as the manifest; the memory it owns must not be
        written while a diff or stats runs.
        """
    @property
    def elements(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def files(self) -> list[str]: ...
    @property
    def metadata(self) -> dict[str, str]:
        """The ``__metadata__`` of the header (of the first shard that has one)."""
    def __len__(self) -> int: ...
    def names(self) -> list[str]: ...
    def find(self, name: str) -> int | None: ...
    def tensors(
        self, indices: Sequence[int]
    ) -> list[tuple[str, str, tuple[int, ...], int, int, tuple[str, ...]]]:
        """(name, dtype, shape, elements, bytes, files) of each tensor; no file in memory."""
    def unsupported(self) -> list[int]:
        """The indices of tensors whose dtype cannot be decoded."""
    def sums(self, indices: Sequence[int] | None = None) -> list[tuple[str, int, int, int]]:
        """(dtype, tensors, elements, bytes) of each dtype among these tensors, or among all."""
    def tensor(
        self, index: int
    ) -> tuple[str, str, tuple[int, ...], int, list[tuple[str, int, int]]]:
        """(name, dtype, shape, bytes, spans), a span being (file, offset, length).

        The file of a span in memory is the empty string. A tensor whose elements lie apart in its
        file has no spans.
        """
    def values(self, index: int, start: int = 0, stop: int | None = None) -> builtins.bytes:
        """Elements [start, stop) of a tensor, decoded, as little-endian floats in row-major order.

        They are float32 where that holds every value of the dtype exactly (also for the quantised
        ones, whose values are defined in it), float64 for F64, C128 and integers of 32 and 64 bits,
        of which those of 64 are rounded. A complex number gives two floats. How wide a float is
        thus follows from the length. Quantised and packed dtypes can be cut anywhere.
        Raises as a diff does for what cannot be read or decoded.
        """

@final
class Pairing:
    """Which tensor of A is held against which of B, and which have no partner."""

    def __new__(
        cls,
        a: Manifest,
        b: Manifest,
        names_a: Sequence[str | None] | bytes | None = None,
        names_b: Sequence[str | None] | bytes | None = None,
    ) -> Pairing:
        """Tensor ``i`` of ``x`` is paired under the name ``names_x[i]``; None leaves it out.

        Bytes keep names as they are and leave out the tensors whose byte is not 0.

        Raises ValueError where two tensors of one side would be paired under one name.
        """
    def __len__(self) -> int: ...
    @property
    def pairs(self) -> list[tuple[int, int]]: ...
    @property
    def only_in_a(self) -> list[int]: ...
    @property
    def only_in_b(self) -> list[int]: ...
    @property
    def shape_mismatch(self) -> list[tuple[int, int]]: ...
    @property
    def unsupported(self) -> list[tuple[int, int]]:
        """Pairs with a dtype on a side that cannot be decoded; empty where there are no others.

        Those are in ``pairs`` then, and a run fails with the first.
        """
    @property
    def excluded_a(self) -> list[int]: ...
    @property
    def excluded_b(self) -> list[int]: ...
    @property
    def elements(self) -> int:
        """Elements of all pairs."""
    @property
    def bytes_a(self) -> int: ...
    @property
    def bytes_b(self) -> int: ...

@final
class Table:
    """One row per tensor (or group), each with the partial it was finished from."""

    def __len__(self) -> int: ...
    @property
    def column_names(self) -> list[str]: ...
    def column(
        self, name: str, start: int = 0, stop: int | None = None
    ) -> tuple[str, bytes] | list[object]:
        """A numeric column as (numpy typestr, little-endian bytes), any other as a list.

        ``start`` and ``stop`` choose rows, as a slice does.
        """
    def rows(self, start: int, stop: int) -> list[tuple[object, ...]]:
        """Rows [start, stop) in the order of ``column_names``, integers exact."""
    def json_rows(self, start: int, stop: int) -> str:
        """Rows [start, stop) as JSON objects joined by ``",\n"``, each with its histogram if any.

        The text is what :mod:`json` writes; a float that is not finite is a string.
        """
    def histogram(self, row: int) -> tuple[int, list[tuple[int, int]]] | None:
        """(zeros, [(e, n), ...]): n values with 2**e <= |value| < 2**(e + 1)."""
    def merged(self, groups: Sequence[int], names: Sequence[str]) -> Table:
        """Merge rows into ``len(names)`` groups, ``groups[i]`` being row ``i``'s (-1: in none).

        A group of no rows is a row of no elements: counts and norms 0, means NaN, bit-identical.
        """

def diff(
    pairing: Pairing,
    *,
    atol: float = 0.0,
    rtol: float = 0.0,
    cast: str | None = None,
    thresholds: Sequence[float] | None = None,
    histogram: bool = False,
    threads: int = 0,
    isa: str | None = None,
    io: str = "auto",
    on_progress: Callable[[int, int], object] | None = None,
) -> Table: ...
def stats(
    manifest: Manifest,
    *,
    names: Sequence[str | None] | bytes | None = None,
    histogram: bool = False,
    content_hash: bool = False,
    threads: int = 0,
    isa: str | None = None,
    io: str = "auto",
    on_progress: Callable[[int, int], object] | None = None,
) -> Table: ...
