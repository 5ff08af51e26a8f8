"""Calls that several processes make together: they agree on what to do first, and fail together.

Where a side has tensors that processes hold parts of, each of these processes makes the same call.
A process that fails, wherever that is, would leave the others waiting for it, and one that was
called for other tensors would have its numbers added to those of the wrong ones. So the processes
of each mesh meet a fixed number of times in a call: with what they are about to compare, with what
they have found, and when they are done. Who fails goes on to the next meeting only to tell; who is
told raises, and goes to the meetings of its other meshes to pass it on.

Meshes are taken in an order that is the same in every process, so no two wait for each other. A
process whose sides have no such tensor at all is missed only when the group's timeout is over.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple, TypeAlias

from ckptdiff.checkpoint import Checkpoint

__all__ = ["Processes", "in_a_line", "together"]

#: What tells a mesh from others in every process: its shape, and the ranks in it.
Mesh: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]

#: What is to be compared, what was found, the end.
_MEETINGS = 3


class _Failure(NamedTuple):
    """Travels in the place of what a process that has failed has not got."""

    rank: int
    message: str


class Processes:
    """The processes that hold the tensors of a call; false where this one is alone."""

    def __init__(self, groups: Mapping[Mesh, tuple[Any, ...]]) -> None:
        self._groups = {mesh: groups[mesh] for mesh in sorted(groups)}
        self._to_meet = dict(self._groups)
        self._meetings_left = _MEETINGS
        self._failure: BaseException | None = None

    def __bool__(self) -> bool:
        return bool(self._groups)

    def agree(self, rows: Callable[[], Iterable[Any]]) -> None:
        """Raise ValueError, in every process, unless all have the same rows, in one order.

        Rows are what JSON can say. The first should say what options the call has.
        """
        if not self._groups:
            return
        own = [json.dumps(row) for row in rows()]
        rank = _rank()
        # a list of names is long and there are many processes: a digest is enough where all is well
        digest = hashlib.sha256("\n".join(own).encode()).hexdigest()
        digests = self._meet({mesh: [(rank, digest)] for mesh in self._groups})
        for mesh, of_mesh in digests.items():
            if mesh in self._to_meet and len({each for _, each in of_mesh}) > 1:
                first = of_mesh[0]
                other = next(each for each in of_mesh if each[1] != first[1])
                wanted = rank in (first[0], other[0])
                lists = self._gathered(mesh, [(rank, own)] if wanted else [])
                self._failure = self._failure or _difference(*lists)
                # all of them know
                del self._to_meet[mesh]
        self._raise_failure()

    def exchange(self, payloads: Mapping[Mesh, list[Any]]) -> dict[Mesh, list[Any]]:
        """The payloads of all processes of each mesh, joined; in one order in all of them."""
        received = self._meet(payloads)
        self._raise_failure()
        return received

    def finish(self) -> None:
        """Wait until the others are done, too."""
        self.exchange({})

    def tell(self, failure: BaseException) -> None:
        """Let everyone know who does not know yet."""
        self._failure = self._failure or failure
        while self._meetings_left and self._to_meet:
            self._meet({})

    def _meet(self, payloads: Mapping[Mesh, list[Any]]) -> dict[Mesh, list[Any]]:
        self._meetings_left -= 1
        received: dict[Mesh, list[Any]] = {}
        for mesh in tuple(self._to_meet):
            payload = payloads.get(mesh, [])
            if self._failure is not None:
                payload = [_Failure(_rank(), in_a_line(self._failure))]
            received[mesh] = self._gathered(mesh, payload)
            told = next((item for item in received[mesh] if isinstance(item, _Failure)), None)
            if told is not None:
                del self._to_meet[mesh]
                self._failure = self._failure or ValueError(
                    f"another process (rank {told.rank}) failed with {told.message}"
                )
        return received

    def _gathered(self, mesh: Mesh, payload: list[Any]) -> list[Any]:
        from ckptdiff.backends.torch.shards import gathered

        try:
            return gathered(self._groups[mesh], payload)
        except BaseException:
            # there is nobody left to talk to
            self._to_meet.clear()
            raise

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


@contextmanager
def together(*sides: object) -> Iterator[Processes]:
    """The processes that make a call for these sides; whatever happens inside, all hear of it.

    ``sides`` are as a caller gives them, and are not opened for this: what fails to open is a
    failure like any other.
    """
    processes = Processes(_groups_of(sides))
    if not processes:
        yield processes
        return
    try:
        yield processes
        processes.finish()
    except BaseException as failure:
        processes.tell(failure)
        raise


def _groups_of(sides: Iterable[object]) -> dict[Mesh, tuple[Any, ...]]:
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return {}
    from ckptdiff.backends.torch.shards import groups_of, is_sharded, mesh_of

    groups: dict[Mesh, tuple[Any, ...]] = {}
    for side in sides:
        if isinstance(side, Checkpoint):
            side = side.device_tensors
        if isinstance(side, Mapping):
            for tensor in side.values():
                if is_sharded(tensor):
                    mesh, own = mesh_of(tensor), groups_of(tensor)
                    # of two with the same ranks, each process is to take the same one
                    groups[mesh] = min(groups.get(mesh, own), own, key=_names_of)
    return groups


def _names_of(groups: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(group.group_name for group in groups)


def _rank() -> int:
    import torch.distributed

    return int(torch.distributed.get_rank())


def in_a_line(failure: BaseException) -> str:
    """How a failure of one process is told to the others."""
    return f"{type(failure).__name__}: {failure}"


def _difference(first: tuple[int, list[str]], other: tuple[int, list[str]]) -> ValueError:
    for of_first, of_other in zip_longest(first[1], other[1], fillvalue="nothing more"):
        if of_first != of_other:
            return ValueError(
                "every process is to compare the same tensors with the same options, but rank "
                f"{first[0]} has {of_first} where rank {other[0]} has {of_other}"
            )
    raise AssertionError("lists with different digests are equal")
