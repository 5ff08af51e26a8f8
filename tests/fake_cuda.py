"""CUDA's streams, events and pinned memory on the CPU, as unkind as their rules allow.

What is queued on a stream runs as late as it can: when somebody waits for an event behind it. So a
buffer that is filled again before its copy has been waited for is copied as it is then, a stream
that was not told to wait for a copy reads what was there before, and memory of a tensor that is let
go is handed out again at once, unless ``record_stream`` has said who else is reading it.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tests.spectra import Array

_LOCK = threading.RLock()


class Stream:
    def __init__(self, device: Any) -> None:
        assert device.type == "cuda"
        self.queued = self.done = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def put(self, work: Callable[[], None]) -> None:
        with _LOCK:
            self._waiting.append(work)
            self.queued += 1

    def run_until(self, position: int) -> None:
        with _LOCK:
            while self.done < position:
                self._waiting.popleft()()
                self.done += 1

    def synchronize(self) -> None:
        self.run_until(self.queued)

    def wait_event(self, event: Event) -> None:
        self.put(event.synchronize)


class Event:
    stream: Stream | None = None

    def record(self, stream: Stream) -> None:
        self.stream, self.position = stream, stream.queued

    def synchronize(self) -> None:
        assert self.stream is not None, "it was never recorded"
        self.stream.run_until(self.position)


class Block:
    """Memory of the device, of the stream that asked for it."""

    def __init__(self, size: int, stream: Stream) -> None:
        self.data = np.zeros(size, np.uint8)
        self.stream = stream
        self.used_until: list[tuple[Stream, int]] = []


class Cuda:
    """``torch.cuda`` of one device, with its caching allocator."""

    def __init__(self) -> None:
        self.device = SimpleNamespace(type="cuda", index=0)
        self.default = self._current = Stream(self.device)
        self.free: list[Block] = []
        self.blocks = 0
        self.OutOfMemoryError = torch.cuda.OutOfMemoryError
        self.Event = Event
        self.Stream = Stream

    def current_stream(self, device: Any) -> Stream:
        assert device is self.device
        return self._current

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self._current = self._current, stream
        yield
        self._current = before

    def allocate(self, size: int) -> Block:
        for block in self.free:
            if (
                len(block.data) >= size
                and block.stream is self._current
                and all(stream.done >= position for stream, position in block.used_until)
            ):
                self.free.remove(block)
                return block
        self.blocks += 1
        return Block(-(-size // 512) * 512, self._current)

    def empty(self, size: int, *, pin_memory: bool = False, **options: Any) -> Any:
        return (
            Pinned(np.zeros(size, np.uint8), self) if pin_memory else torch.empty(size, **options)
        )


class Pinned:
    """A tensor of the host."""

    def __init__(self, data: Array, cuda: Cuda) -> None:
        self._data = data
        self._cuda = cuda

    def numpy(self) -> Array:
        return self._data

    def __getitem__(self, part: slice) -> Pinned:
        return Pinned(self._data[part], self._cuda)

    def to(self, device: Any, *, non_blocking: bool = False) -> Moved:
        assert device is self._cuda.device
        block = self._cuda.allocate(len(self._data))
        source, target = self._data, block.data[: len(self._data)]
        stream = self._cuda.current_stream(device)
        stream.put(lambda: np.copyto(target, source))
        if not non_blocking:
            stream.synchronize()
        return Moved(block, target, self._cuda)


class Moved:
    """A tensor of the device, whose memory is given back when the last reference goes."""

    def __init__(self, block: Block, data: Array, cuda: Cuda) -> None:
        self.data = data
        self._streams: list[Stream] = []
        weakref.finalize(self, self._let_go, block, self._streams, cuda)

    def record_stream(self, stream: Stream) -> None:
        self._streams.append(stream)

    @staticmethod
    def _let_go(block: Block, streams: list[Stream], cuda: Cuda) -> None:
        block.used_until = [(stream, stream.queued) for stream in streams]
        cuda.free.append(block)


class Torch:
    """torch, but for what is of CUDA."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.empty = cuda.empty

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
