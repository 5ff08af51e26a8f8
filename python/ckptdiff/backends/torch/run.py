"""Diff and stats with torch: which elements are reduced where, chunk by chunk.

A tensor is cut into chunks of a fixed number of elements, its own or those of the box of it that
this process holds. A chunk's elements come from a tensor that lies in a device's memory, as a view
where it is contiguous, or from a manifest (a file, or the host's memory), through buffers. Partials
are made per chunk, gathered from other processes where the tensor is spread over them, and merged
by the core in an order that does not depend on who was first.

Pairs of tensors that the device has no part in are left to the core, which reduces them itself.
A device without float64 (MPS, some XPUs) reduces with kernels of their own. What these cannot do,
by dtype or option, is brought to the CPU chunk by chunk, and so is a chunk that turns out to be at
risk when its results are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import torch

from ckptdiff._core import Manifest, Pairing, Table, diff_of_partials, stats_of_partials
from ckptdiff.backends.devices import CORE, TORCH_CPU
from ckptdiff.backends.partials import DiffPartial, StatsPartial
from ckptdiff.backends.processes import Mesh, Processes
from ckptdiff.backends.torch.arranged import Arranged, BoxOfArranged
from ckptdiff.backends.torch.boxes import Box, elements_of, whole
from ckptdiff.backends.torch.codes import ENCODINGS, Tables, Tensor, codes_of
from ckptdiff.backends.torch.diff import DiffKernel, ReducedChunk, can_diff
from ckptdiff.backends.torch.diff_single import SingleDiffKernel, can_diff_single
from ckptdiff.backends.torch.reading import ReadAhead, Request
from ckptdiff.backends.torch.shards import (
    Held,
    held_boxes,
    is_sharded,
    mesh_of,
    placed_alike,
)
from ckptdiff.backends.torch.single import has_values
from ckptdiff.backends.torch.stats import StatsKernel, can_describe
from ckptdiff.backends.torch.stats_single import SingleStatsKernel
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.naming.rules import Named
from ckptdiff.options import DiffOptions

__all__ = ["CHUNK_FLOATS", "diff", "stats"]

#: Floats of a chunk: what is made of them takes about 100 bytes for each of them, see docs.
CHUNK_FLOATS = 1 << 20

#: On the CPU, where what is made of a chunk had better stay in the cache.
CPU_CHUNK_FLOATS = 1 << 16

#: Chunks of no more floats than this are reduced several at once, where they are alike.
_SMALL_FLOATS = 1 << 13

#: Chunks whose results are fetched from the device at once.
_FETCHED = 64

Progress: TypeAlias = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor whose bytes come through a manifest."""

    manifest: Manifest
    index: int
    shape: tuple[int, ...]
    element_bytes: int

    def request(self, box: Box, start: int, stop: int) -> Request:
        runs = tuple(box.runs(self.shape, start, stop))
        return Request(self.manifest, self.index, runs, self.element_bytes)


#: Elements of a box: a tensor that has just those, or one that they are read or gathered from.
_Holder: TypeAlias = "Tensor | _Stored | BoxOfArranged"


class _Part(NamedTuple):
    """A box that is reduced here, and who has its elements, on each side."""

    box: Box
    holders: tuple[_Holder, ...]


class _Where(NamedTuple):
    """A device, and whether it reduces with float64."""

    device: Any
    float64: bool


_CPU = _Where(torch.device("cpu"), True)


class _Job(NamedTuple):
    """A row: the dtypes of its sides, its parts here, and the mesh of those that have others."""

    row: int
    shape: tuple[int, ...]
    dtypes: tuple[str, ...]
    where: _Where
    parts: list[_Part]
    mesh: Mesh | None

    @property
    def components(self) -> int:
        return max(ENCODINGS[dtype].components for dtype in self.dtypes)

    def chunks(self) -> Iterator[tuple[_Part, int, int]]:
        floats = CPU_CHUNK_FLOATS if self.where.device.type == "cpu" else CHUNK_FLOATS
        step = floats // self.components
        for part in self.parts:
            for start in range(0, part.box.numel, step):
                yield part, start, min(start + step, part.box.numel)


Partial_co = TypeVar("Partial_co", covariant=True)
Partial = TypeVar("Partial", DiffPartial, StatsPartial)


class _Kernel(Protocol[Partial_co]):
    @property
    def can_map(self) -> bool:
        """Whether ``reduce`` can be mapped over several chunks by torch."""

    def reduce(self, codes: Sequence[Tensor], dtypes: Sequence[str]) -> ReducedChunk: ...

    def partial(
        self,
        counts: list[int],
        sums: list[float],
        histogram: list[int] | None,
        dtypes: Sequence[str],
    ) -> Partial_co | None: ...


def diff(
    pairing: Pairing,
    a: Checkpoint,
    b: Checkpoint,
    *,
    options: DiffOptions,
    device: str | None,
    threads: int,
    processes: Processes,
    on_progress: Progress | None,
) -> Table:
    """The table of a diff, as ``_core.diff`` gives it.

    Every chunk is reduced on ``device``; None is where its tensors are. That and ``cpu`` leave
    pairs on the host to the core. Raises ValueError for tensors that cannot be reduced there.
    """
    wanted = _torch_device(device)
    pairs = pairing.pairs
    jobs = []
    for row, (index_a, index_b) in enumerate(pairs):
        sides = (_Side(a, index_a), _Side(b, index_b))
        if device == CORE and all(side.tensor is None for side in sides):
            continue
        job = _diff_job(row, sides, wanted, options)
        if job is not None:
            jobs.append(job)

    def kernel(where: _Where) -> _Kernel[DiffPartial]:
        if not where.float64:
            return SingleDiffKernel(
                Tables(where.device, torch.float32),
                options.atol,
                options.rtol,
                options.thresholds,
                options.histogram,
            )
        return DiffKernel(
            Tables(where.device, torch.float64),
            options.atol,
            options.rtol,
            options.cast,
            options.thresholds,
            options.histogram,
        )

    partials = _reduce(jobs, len(pairs), kernel, processes, on_progress, _index_of_diff)
    return diff_of_partials(
        pairing,
        partials,
        atol=options.atol,
        rtol=options.rtol,
        cast=options.cast,
        thresholds=options.thresholds,
        histogram=options.histogram,
        threads=threads,
    )


def stats(
    a: Checkpoint,
    named: Named,
    *,
    histogram: bool,
    device: str | None,
    threads: int,
    processes: Processes,
    on_progress: Progress | None,
) -> Table:
    """The table of stats, as ``_core.stats`` gives it; otherwise as :func:`diff`."""
    wanted = _torch_device(device)
    jobs = []
    rows = [index for index in range(len(a)) if named.keeps(index)]
    for row, index in enumerate(rows):
        side = _Side(a, index)
        if device == CORE and side.tensor is None:
            continue
        job = _stats_job(row, side, wanted)
        if job is not None:
            jobs.append(job)

    def kernel(where: _Where) -> _Kernel[StatsPartial]:
        if not where.float64:
            return SingleStatsKernel(Tables(where.device, torch.float32), histogram)
        return StatsKernel(Tables(where.device, torch.float64), histogram)

    partials = _reduce(jobs, len(rows), kernel, processes, on_progress, _index_of_stats)
    return stats_of_partials(
        a.manifest, partials, names=named.for_core, histogram=histogram, threads=threads
    )


def _torch_device(device: str | None) -> Any:
    """torch's object, with a number where the kind has several, as tensors have it.

    None is for every tensor where it is.
    """
    if device is None:
        return None
    return torch.empty(0, device="cpu" if device == TORCH_CPU else device).device


@cache
def has_float64(device: Any) -> bool:
    """Whether a device has float64: MPS has not, nor have some XPUs."""
    if device.type in ("cpu", "cuda"):
        # not to be asked of one whose memory is full
        return True
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError):
        return False
    return True


class _Side:
    """One tensor of a checkpoint, wherever it is."""

    def __init__(self, checkpoint: Checkpoint, index: int) -> None:
        self.name, self.dtype, shape, self.bytes, _ = checkpoint.manifest.tensor(index)
        self.shape = tuple(shape)
        self.tensor: Tensor | None = checkpoint.device_tensors.get(self.name)
        self.sharded = is_sharded(self.tensor)
        numel = whole(self.shape).numel
        self.stored = _Stored(
            checkpoint.manifest, index, self.shape, self.bytes // numel if numel else 0
        )

    @property
    def device(self) -> Any:
        """The device of the elements that this process has, None for those of a manifest."""
        if self.tensor is None:
            return None
        if self.sharded:
            return self.boxes[0].tensor.device if self.boxes else torch.device("cpu")
        return self.tensor.device

    def holder(self, box: Box) -> _Holder:
        """Who has a box of a tensor that is not spread over processes."""
        if self.tensor is None:
            return self.stored
        if isinstance(self.tensor, Arranged):
            return BoxOfArranged(self.tensor, box)
        part = self.tensor.detach()
        for dimension, (offset, size) in enumerate(zip(box.offsets, box.sizes, strict=True)):
            part = part.narrow(dimension, offset, size)
        return part

    @cached_property
    def boxes(self) -> list[Held]:
        """The boxes of a tensor that is spread over processes, if they are this one's."""
        return held_boxes(self.name, self.tensor)


def _where(device: Any, can_without: Callable[[], bool]) -> _Where:
    """The device; the CPU for what it cannot reduce without float64."""
    if has_float64(device):
        return _Where(device, float64=True)
    return _Where(device, float64=False) if can_without() else _CPU


def _diff_job(
    row: int, sides: tuple[_Side, _Side], device: Any, options: DiffOptions
) -> _Job | None:
    """How a pair is reduced; None if the core is to do it."""
    a, b = sides
    cast = options.cast

    def can_without() -> bool:
        return can_diff_single(
            (a.dtype, b.dtype), options.atol, options.rtol, cast, options.thresholds
        )

    where = _where(device or a.device or b.device or _CPU.device, can_without)
    if a.tensor is None and b.tensor is None:
        if device != where.device or not can_diff(a.dtype, b.dtype, cast):
            return None
    elif not can_diff(a.dtype, b.dtype, cast):
        raise ValueError(
            f"tensor {b.name!r}: {a.dtype} against {b.dtype}"
            f"{f' cast to {cast}' if cast else ''} is not reduced on a device; "
            "move it to the host first (tensor.cpu())"
        )
    mesh: Mesh | None = None
    if a.sharded and b.sharded:
        if not placed_alike(a.tensor, b.tensor):
            raise ValueError(
                f"tensor {b.name!r} is placed differently on the two sides; redistribute one of "
                "them first (tensor.redistribute(placements=...))"
            )
        mesh = mesh_of(a.tensor)
        parts = [
            _Part(of_a.box, (of_a.tensor, of_b.tensor))
            for of_a, of_b in zip(a.boxes, b.boxes, strict=True)
        ]
    elif a.sharded:
        mesh = mesh_of(a.tensor)
        parts = [_Part(held.box, (held.tensor, b.holder(held.box))) for held in a.boxes]
    elif b.sharded:
        mesh = mesh_of(b.tensor)
        parts = [_Part(held.box, (a.holder(held.box), held.tensor)) for held in b.boxes]
    else:
        box = whole(a.shape)
        parts = [_Part(box, (a.holder(box), b.holder(box)))]
    return _Job(row, a.shape, (a.dtype, b.dtype), where, parts, mesh)


def _stats_job(row: int, side: _Side, device: Any) -> _Job | None:
    """How a tensor is reduced; None if the core is to do it."""
    where = _where(device or side.device or _CPU.device, lambda: has_values(side.dtype))
    if side.tensor is None:
        if device != where.device or not can_describe(side.dtype):
            return None
    elif not can_describe(side.dtype):
        raise ValueError(
            f"tensor {side.name!r}: {side.dtype} is not reduced on a device; "
            "move it to the host first (tensor.cpu())"
        )
    mesh: Mesh | None = None
    if side.sharded:
        mesh = mesh_of(side.tensor)
        parts = [_Part(held.box, (held.tensor,)) for held in side.boxes]
    else:
        box = whole(side.shape)
        parts = [_Part(box, (side.holder(box),))]
    return _Job(row, side.shape, (side.dtype,), where, parts, mesh)


@dataclass(frozen=True, slots=True)
class _Reduced:
    """A partial, what row it is of, and where it stands among those of the row."""

    row: int
    #: Where the largest magnitude is in the tensor, which decides between equal ones.
    index: int
    box: Box
    start: int
    partial: Any


def _order(reduced: _Reduced) -> tuple[int, int, Box, int]:
    """An order of partials that is the same in every process, whoever has reduced which."""
    return reduced.row, reduced.index, reduced.box, reduced.start


def _reduce(
    jobs: Sequence[_Job],
    rows: int,
    kernel_of: Callable[[_Where], _Kernel[Partial]],
    processes: Processes,
    on_progress: Progress | None,
    moved: Callable[[Partial, _Job, Box, int], tuple[int, Partial]],
) -> list[list[Partial] | None]:
    """The partials of each row in their order, None for a row that has no job.

    Rows have the same numbers in all processes, which have agreed on them before.
    """
    partials: list[list[Partial] | None] = [None] * rows
    meshes = {}
    for job in jobs:
        partials[job.row] = []
        meshes[job.row] = job.mesh
    try:
        reduced = list(_reduce_here(jobs, kernel_of, on_progress, moved))
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryError(f"on the device: {str(error).splitlines()[0]}") from error
    if processes:
        own: dict[Any, list[_Reduced]] = {}
        for item in reduced:
            own.setdefault(meshes[item.row], []).append(item)
        reduced = own.pop(None, [])
        for everyones in processes.exchange(own).values():
            reduced += sorted(everyones, key=_order)
    for item in reduced:
        of_row = partials[item.row]
        assert of_row is not None
        of_row.append(item.partial)
    return partials


def _reduce_here(
    jobs: Sequence[_Job],
    kernel_of: Callable[[_Where], _Kernel[Partial]],
    on_progress: Progress | None,
    moved: Callable[[Partial, _Job, Box, int], tuple[int, Partial]],
) -> Iterator[_Reduced]:
    """Reduce what this process holds, device by device."""
    by_device: dict[_Where, list[_Job]] = {}
    for job in jobs:
        by_device.setdefault(job.where, []).append(job)
    total = sum(
        part.box.numel * sum(_element_bytes(dtype) for dtype in job.dtypes)
        for job in jobs
        for part in job.parts
    )
    done = 0
    for where, of_device in by_device.items():
        device = where.device
        kernel = kernel_of(where)
        waiting: list[_Waiting] = []
        alike = _Alike()
        with torch.no_grad(), ReadAhead(_requests(of_device), _largest(of_device), device) as files:
            for job in of_device:
                for part, start, stop in job.chunks():
                    codes = [
                        _codes(holder, ENCODINGS[dtype], start, stop, device, files)
                        for holder, dtype in zip(part.holders, job.dtypes, strict=True)
                    ]
                    if kernel.can_map and (stop - start) * job.components <= _SMALL_FLOATS:
                        if not alike.takes(job, stop - start):
                            waiting += alike.reduced(kernel)
                        alike.add(job, part, start, stop, codes)
                    else:
                        waiting += alike.reduced(kernel)
                        chunk = kernel.reduce(codes, job.dtypes)
                        waiting.append(_Waiting(job, part, start, stop, chunk))
                    del codes
                    files.release()
                    done += (stop - start) * sum(_element_bytes(dtype) for dtype in job.dtypes)
                    if on_progress is not None:
                        on_progress(done, total)
                    if len(waiting) >= _FETCHED:
                        yield from _fetched(waiting, kernel, kernel_of, moved)
                        waiting.clear()
            waiting += alike.reduced(kernel)
            yield from _fetched(waiting, kernel, kernel_of, moved)


def _element_bytes(dtype: str) -> int:
    return ENCODINGS[dtype].bits * ENCODINGS[dtype].components // 8


def _requests(jobs: Iterable[_Job]) -> Iterator[Request]:
    """What has to be read for these jobs, in the order in which it is wanted."""
    for job in jobs:
        for part, start, stop in job.chunks():
            for holder in part.holders:
                if isinstance(holder, _Stored):
                    yield holder.request(part.box, start, stop)


def _largest(jobs: Iterable[_Job]) -> int:
    """Bytes of the largest of them."""
    return max(
        (
            (stop - start) * holder.element_bytes
            for job in jobs
            for part, start, stop in job.chunks()
            if start == 0
            for holder in part.holders
            if isinstance(holder, _Stored)
        ),
        default=0,
    )


def _codes(
    holder: _Holder,
    encoding: Any,
    start: int,
    stop: int,
    device: Any,
    files: ReadAhead,
) -> Tensor:
    if isinstance(holder, _Stored):
        return files.take().view(encoding.code_dtype)
    return _held_codes(holder, encoding, start, stop, device)


def _held_codes(
    holder: Tensor | BoxOfArranged, encoding: Any, start: int, stop: int, device: Any
) -> Tensor:
    if isinstance(holder, BoxOfArranged):
        return holder.codes(start, stop, encoding, device)
    # resolved behind the cut: a conjugate of the whole would be a copy of it
    elements = elements_of(holder, start, stop).resolve_conj().resolve_neg()
    codes = codes_of(elements, encoding)
    return codes.to(device)


class _Waiting(NamedTuple):
    """A chunk whose results are on a device."""

    job: _Job
    part: _Part
    start: int
    stop: int
    chunk: ReducedChunk


class _Alike:
    """Small chunks of one length and of the same dtypes, which are reduced at once.

    A chunk takes some sixty operations, whose overhead is that of ten thousand elements. Mapped
    over rows of a matrix (:func:`torch.vmap`) they give each row what they give it alone.
    """

    def __init__(self) -> None:
        self._chunks: list[tuple[_Job, _Part, int, int]] = []
        self._codes: list[tuple[Tensor, ...]] = []

    def takes(self, job: _Job, length: int) -> bool:
        """Whether a chunk of that length can be reduced with those that are here."""
        if not self._chunks:
            return True
        first, _, start, stop = self._chunks[0]
        floats = len(self._chunks) * length * job.components
        return (
            first.dtypes == job.dtypes
            and stop - start == length
            and len(self._chunks) < _FETCHED
            and floats + length * job.components <= CPU_CHUNK_FLOATS
        )

    def add(self, job: _Job, part: _Part, start: int, stop: int, codes: Sequence[Tensor]) -> None:
        """Keep a chunk; its codes are copied, as buffers are filled again."""
        self._chunks.append((job, part, start, stop))
        self._codes.append(tuple(each.clone() for each in codes))

    def reduced(self, kernel: _Kernel[Any]) -> Iterator[_Waiting]:
        """Reduce those that are here, in their order, and keep none."""
        chunks, codes = self._chunks, self._codes
        self._chunks, self._codes = [], []
        if not chunks:
            return
        dtypes = chunks[0][0].dtypes

        def reduce(*of_sides: Tensor) -> tuple[Tensor, Tensor]:
            chunk = kernel.reduce(of_sides, dtypes)
            return chunk.counts, chunk.sums

        sides = [torch.stack(of_side) for of_side in zip(*codes, strict=True)]
        counts, sums = torch.vmap(reduce)(*sides)
        for number, chunk in enumerate(chunks):
            yield _Waiting(*chunk, ReducedChunk(counts[number], sums[number], None))


def _fetched(
    waiting: Sequence[_Waiting],
    kernel: _Kernel[Partial],
    kernel_of: Callable[[_Where], _Kernel[Partial]],
    moved: Callable[[Partial, _Job, Box, int], tuple[int, Partial]],
) -> Iterator[_Reduced]:
    """Bring the results of some chunks here, all at once, and make partials of them."""
    on_cpu = kernel_of(_CPU)
    for item, found in zip(waiting, _partials(waiting, kernel), strict=True):
        partial = found
        if partial is None:
            again = item._replace(chunk=_reduced_on_cpu(item, on_cpu))
            (partial,) = _partials([again], on_cpu)
        assert partial is not None
        index, partial = moved(partial, item.job, item.part.box, item.start)
        yield _Reduced(item.job.row, index, item.part.box, item.start, partial)


def _partials(waiting: Sequence[_Waiting], kernel: _Kernel[Partial]) -> Iterator[Partial | None]:
    """A partial of each chunk, None for one that is at risk."""
    if not waiting:
        return
    chunks = [item.chunk for item in waiting]
    counts = iter(torch.cat([chunk.counts for chunk in chunks]).cpu().tolist())
    sums = iter(torch.cat([chunk.sums for chunk in chunks]).cpu().tolist())
    histograms = [chunk.histogram for chunk in chunks if chunk.histogram is not None]
    bins = iter(torch.stack(histograms).cpu().tolist() if histograms else ())
    for item in waiting:
        chunk = item.chunk
        yield kernel.partial(
            [next(counts) for _ in range(chunk.counts.numel())],
            [next(sums) for _ in range(chunk.sums.numel())],
            None if chunk.histogram is None else next(bins),
            item.job.dtypes,
        )


def _reduced_on_cpu(item: _Waiting, kernel: _Kernel[Partial]) -> ReducedChunk:
    """A chunk once more, with float64; what it has of files is read again."""
    codes = []
    for holder, dtype in zip(item.part.holders, item.job.dtypes, strict=True):
        encoding = ENCODINGS[dtype]
        if isinstance(holder, _Stored):
            request = holder.request(item.part.box, item.start, item.stop)
            buffer = torch.empty(request.bytes, dtype=torch.uint8, device="cpu")
            request.fill(memoryview(buffer.numpy()))
            codes.append(buffer.view(encoding.code_dtype))
        else:
            codes.append(_held_codes(holder, encoding, item.start, item.stop, _CPU.device))
    with torch.no_grad():
        return kernel.reduce(codes, item.job.dtypes)


def _index_in_tensor(index: int, job: _Job, box: Box, start: int) -> int:
    """Where a float of a chunk is in the tensor, counted in floats."""
    element, component = divmod(index, job.components)
    return box.index_in(job.shape, start + element) * job.components + component


def _index_of_diff(
    partial: DiffPartial, job: _Job, box: Box, start: int
) -> tuple[int, DiffPartial]:
    if partial.largest is None:
        return -1, partial
    magnitude, index, value_a, value_b = partial.largest
    index = _index_in_tensor(index, job, box, start)
    return index, partial._replace(largest=(magnitude, index, value_a, value_b))


def _index_of_stats(
    partial: StatsPartial, job: _Job, box: Box, start: int
) -> tuple[int, StatsPartial]:
    if partial.extremes is None:
        return -1, partial
    low, high, largest, index = partial.extremes
    index = _index_in_tensor(index, job, box, start)
    return index, partial._replace(extremes=(low, high, largest, index))
