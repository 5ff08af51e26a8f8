"""The compiled core: manifests in, tables of reduced rows out.

Everything here is a plain value or a frozen class. The public API is
:mod:`ckptdiff.api`; this module converts arguments and delegates.
"""

import builtins  # a property of Manifest is called bytes
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

from typing_extensions import Buffer  # of Python 3.12's collections.abc

from ckptdiff.backends.partials import DiffPartial, StatsPartial

__all__ = [
    "CheckpointNotFoundError",
    "CheckpointReadError",
    "InvalidCheckpointError",
    "Manifest",
    "Pairing",
    "SeriesRun",
    "Table",
    "__version__",
    "cast_dtype_names",
    "diff",
    "diff_column_names",
    "diff_of_partials",
    "dtype_names",
    "give_back_freed_memory",
    "io_names",
    "isa_levels",
    "rounded_mean",
    "series",
    "stats",
    "stats_column_names",
    "stats_of_partials",
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

def give_back_freed_memory() -> None:
    """Give memory that was freed back to the system, where the allocator keeps it."""

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
        deflated: Sequence[tuple[int, int, int, int, int]] | None = None,
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
        Each of ``deflated`` (index in ``sources``, offset, stored length, inflated length, CRC-32)
        is one more source, numbered behind ``sources``: what the bytes there inflate to, which is
        held against the CRC where it is read to its end. A tensor that
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
        tensors: Sequence[tuple[str, str, Sequence[int], Sequence[int], int | None]],
        owner: object,
    ) -> Manifest:
        """Describe tensors in memory as (name, dtype, shape, byte strides, address).

        The address is None for a tensor whose memory is not this process's: it is only described.

        ``owner`` is kept alive as long as the manifest; the memory it owns must not be
        written while a diff or stats runs.
        """
    @staticmethod
    def joined(parts: Sequence[tuple[Manifest, str]]) -> Manifest:
        """The tensors of several manifests, each with its text before the names.

        The same goes for their metadata. Raises ValueError where two tensors would have one name.
        """
    def bytes_read(self, names: Sequence[str | None] | bytes | None = None) -> int:
        """Bytes that stats of the tensors with a name read: the very same bytes only once."""
    def derived(
        self,
        items: Iterable[
            tuple[str, int]
            | tuple[
                str, Sequence[int], Sequence[tuple[int, int, Sequence[int], Sequence[int] | None]]
            ]
        ],
    ) -> Manifest:
        """Describe other tensors in the same bytes; nothing is copied or read.

        (name, index) is the tensor at an index, under a name. (name, shape, parts) is a tensor
        whose elements are those of the parts, one after the other in row-major order; a part is
        (index, first element, shape, axes): a run of the elements of the tensor at an index, as a
        tensor of ``shape``, transposed as ``numpy.transpose`` does where ``axes`` are given.

        Raises ValueError, which names the tensor, where a part is not in its tensor, shapes or
        dtypes do not fit, a packed dtype cannot be cut there, or two tensors have one name.
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
    def read_into(self, index: int, start: int, stop: int, buffer: Buffer) -> None:
        """Read elements [start, stop) of a tensor, as they are stored, into a buffer of their size.

        The buffer is writable and contiguous, its items are bytes, and nobody else may touch it
        meanwhile: the GIL is released. Elements of a packed dtype are had in whole bytes, those of
        a quantised one in whole blocks. Raises InvalidCheckpointError for a run or a buffer that
        does not fit and a dtype that is not known, CheckpointReadError where reading fails.
        """
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
    @property
    def bytes_read(self) -> int:
        """Bytes of both sides that a diff reads: pairs of the very same bytes count once."""

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
    def columns(self, names: Sequence[str]) -> list[tuple[str, bytes] | list[str]]:
        """Several whole columns in one walk over the rows.

        A numeric one is as :meth:`column` gives it, any other is text, empty where it is undefined,
        and a shape or an index as JSON has it (``[4096, 11008]``).
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

@final
class SeriesRun:
    """What one read of N checkpoints leaves of the T tensors that all of them have.

    With ``u_t = w_t - w_parent(t)``, and ``u_t = w_t`` where t has no parent, ``gram`` holds the
    inner products of the updates of one tensor, ``<u_i, u_j>``. Rows are tensors, in natural order
    of their names, in ``names``, ``numel``, ``finite``, ``gram`` and in every table.
    """

    @property
    def names(self) -> list[str]:
        """The T tensors that all checkpoints have: one name, one shape, dtypes that are decoded."""
    @property
    def numel(self) -> list[int]:
        """(T,) elements of each; a complex number is one."""
    @property
    def finite(self) -> list[int]:
        """(T,) elements at which every one of the N checkpoints is finite: those ``gram`` is of."""
    @property
    def gram(self) -> bytes:
        """Little-endian float64 (T, N, N), symmetric: ``G[i, j] = <u_i, u_j>``.

        Elements at which any of the N checkpoints has NaN or Inf (in either part of a complex
        number) are left out for all pairs, so that G is positive semi-definite up to rounding.
        Values are decoded exactly, 64-bit integers beyond 2**53 to the nearest float64;
        differences and sums are float64, with fused multiply-add: every entry is within 1e-12 of
        the product of the two norms. Where all N have the tensor in dtypes of 16 bits or fewer
        (I16 and U16 apart), differences and products are float32 and so are sums of 16 of them,
        unless ``precision`` is "double": within 2e-7, of updates mostly 1e-9. Such an entry may
        depend, by as little, on which other checkpoints there are. No sum overflows or vanishes on
        its way; one that float64 does not hold in the end is Inf, or 0.
        """
    @property
    def stats(self) -> list[Table]:
        """(N,) tables of T rows, as :func:`stats` gives them."""
    @property
    def diffs(self) -> list[Table | None]:
        """(N,) tables of T rows, as :func:`diff` of the parent and t gives them; None at a root."""
    @property
    def changed_bf16(self) -> list[bytes | None]:
        """(N,) of little-endian uint64 (T,): elements that differ from the parent's once both are
        rounded to bf16, to nearest, ties to even; two NaN are equal, as are 0 and -0. None at a
        root. Of two BF16 tensors this is the ``changed`` of their diff."""
    @property
    def bytes_read(self) -> int:
        """Bytes of all N checkpoints that were read."""
    @property
    def not_common(self) -> list[tuple[str, list[int]]]:
        """(name, checkpoints): which of them lack the tensor, or have it in a dtype that is not
        decoded, or in another shape than most (than the first of those that are as many)."""

def series(
    manifests: Sequence[Manifest],
    names: Sequence[Sequence[str | None] | bytes | None],
    parents: Sequence[int],
    *,
    precision: str = "single",
    threads: int = 0,
    isa: str | None = None,
    io: str = "auto",
    on_progress: Callable[[int, int], object] | None = None,
) -> SeriesRun:
    """Read N checkpoints once, and reduce every tensor that all of them have.

    ``names[t]`` says under which names the tensors of ``manifests[t]`` are compared, as for
    :class:`Pairing`; ``parents[t]`` is the checkpoint before t along its branch, -1 for none, and
    below t. ``precision`` is "single", or "double" for products in float64 of every dtype, see
    :attr:`SeriesRun.gram`. ``on_progress`` is called with (bytes read, bytes in all).

    Raises ValueError where the three are not of one length, a parent does not come before its
    child, two tensors of one checkpoint would have one name, or the precision is another.
    """

def rounded_mean(
    target: Manifest,
    parts: Sequence[Manifest],
    names_target: Sequence[str | None] | bytes | None = None,
    names_parts: Sequence[Sequence[str | None] | bytes | None] | None = None,
    *,
    threads: int = 0,
    isa: str | None = None,
    io: str = "auto",
    on_progress: Callable[[int, int], object] | None = None,
) -> list[tuple[str, int, int, int]]:
    """(name, numel, mismatches, max_ulp) of each tensor that the target and all parts have.

    The mean of an element is what averaging in float32 gives: the parts, each rounded to float32,
    summed in the order given, divided by their count, and rounded to the target's dtype, to
    nearest, ties to even. ``mismatches`` counts the elements of the target whose value is another
    (two NaN are equal, as are 0 and -0; of a complex number, either part), ``max_ulp`` is the
    largest distance in representable steps where both are finite. Names as for :func:`series`.

    Raises ValueError for no parts, and InvalidCheckpointError for a target of a dtype that nothing
    is rounded to: a quantised one, or of fewer than 8 bits.
    """

def diff_of_partials(
    pairing: Pairing,
    partials: Sequence[Sequence[DiffPartial] | None],
    *,
    atol: float = 0.0,
    rtol: float = 0.0,
    cast: str | None = None,
    thresholds: Sequence[float] | None = None,
    histogram: bool = False,
    threads: int = 0,
) -> Table:
    """The table of a diff that somebody else has reduced.

    A row is merged from its partials in their order; of equal extremes the first stays. None
    has the pair reduced here, as ``diff`` does.
    """

def stats_of_partials(
    manifest: Manifest,
    partials: Sequence[Sequence[StatsPartial] | None],
    *,
    names: Sequence[str | None] | bytes | None = None,
    histogram: bool = False,
    threads: int = 0,
) -> Table:
    """The table of stats that somebody else has reduced; a row per tensor that ``names`` keeps."""
