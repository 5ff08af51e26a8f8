"""Bytes of files on their way to a device: pinned buffers, filled ahead by a thread of their own.

The requests are known beforehand and are answered in their order. While the device reduces what it
has, the thread reads the next ones (the core reads without the GIL), and on CUDA each filled buffer
is copied on a stream of its own. A buffer is filled again only when what was made of it is no
longer needed: when its copy is done, or, on the CPU, where tensors are views of the buffers, when
the reader is told so.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch

from ckptdiff._core import Manifest
from ckptdiff.backends.torch.codes import Tensor

__all__ = ["ReadAhead", "Request"]

#: Two chunks of both sides that are being reduced, and two that are being read.
_BUFFERS = 8

#: Chunks of which copies may lie on a device.
_CHUNKS_QUEUED = 4


@dataclass(frozen=True, slots=True)
class Request:
    """Runs of elements of a tensor of a manifest, and how many bytes they have."""

    manifest: Manifest
    index: int
    runs: Sequence[tuple[int, int]]
    element_bytes: int

    @property
    def bytes(self) -> int:
        """Bytes of all runs."""
        return sum(stop - start for start, stop in self.runs) * self.element_bytes

    def fill(self, buffer: memoryview) -> None:
        """Read the runs into a buffer of their size."""
        position = 0
        for start, stop in self.runs:
            end = position + (stop - start) * self.element_bytes
            self.manifest.read_into(self.index, start, stop, buffer[position:end])
            position = end


class _Buffer:
    """Memory of the host, and what must have happened before it is filled again."""

    def __init__(self, size: int, *, pinned: bool) -> None:
        # whatever torch's default device is
        self.tensor: Tensor = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned)
        self.view = memoryview(self.tensor.numpy())
        self.copied: Any = None

    def fill(self, request: Request) -> None:
        if self.copied is not None:
            self.copied.synchronize()
            self.copied = None
        request.fill(self.view[: request.bytes])


class ReadAhead:
    """Answers requests in their order, within a ``with`` block; the iterator is walked ahead."""

    def __init__(self, requests: Iterator[Request], largest: int, device: Any) -> None:
        self._requests = requests
        self._device = device
        cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if cuda else None
        self._free: queue.SimpleQueue[_Buffer] = queue.SimpleQueue()
        for _ in range(_BUFFERS if largest else 0):
            self._free.put(_Buffer(largest, pinned=cuda))
        self._held: list[_Buffer] = []
        self._reduced: deque[Any] = deque()
        self._unfinished = 0
        self._filling: queue.SimpleQueue[tuple[_Buffer, Request, Future[None]]]
        self._filling = queue.SimpleQueue()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="ckptdiff-read")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reader.shutdown(cancel_futures=True)

    def _read_ahead(self) -> None:
        while not self._free.empty():
            request = next(self._requests, None)
            if request is None:
                return
            buffer = self._free.get()
            future = self._reader.submit(buffer.fill, request)
            self._filling.put((buffer, request, future))

    def take(self) -> Tensor:
        """The bytes of the next request, on the device; valid until :meth:`release` is called.

        Raises what the core raises where they cannot be read.
        """
        self._read_ahead()
        buffer, request, future = self._filling.get_nowait()
        future.result()
        filled = buffer.tensor[: request.bytes]
        if self._device.type == "cpu":
            self._held.append(buffer)
            return filled
        if self._stream is None:
            moved = filled.to(self._device)
        else:
            moved = self._copied_on_stream(buffer, filled)
        self._free.put(buffer)
        self._read_ahead()
        return moved

    def _copied_on_stream(self, buffer: _Buffer, filled: Tensor) -> Tensor:
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            moved = filled.to(self._device, non_blocking=True)
            buffer.copied = torch.cuda.Event()
            buffer.copied.record(self._stream)
        current.wait_event(buffer.copied)
        # its memory is the other stream's, and is not handed out again before this one is past it
        moved.record_stream(current)
        return moved

    def release(self) -> None:
        """Everything taken so far is being reduced, and on the CPU has been."""
        for buffer in self._held:
            self._free.put(buffer)
        self._held.clear()
        if self._stream is not None:
            # the host runs ahead of the device: no more than these chunks wait there
            reduced = torch.cuda.Event()
            reduced.record(torch.cuda.current_stream(self._device))
            self._reduced.append(reduced)
            if len(self._reduced) > _CHUNKS_QUEUED:
                self._reduced.popleft().synchronize()
        elif self._device.type == "mps":
            # its allocator takes more memory where what was freed is still to be read
            self._unfinished += 1
            if self._unfinished == _CHUNKS_QUEUED:
                torch.mps.synchronize()
                self._unfinished = 0
        self._read_ahead()
