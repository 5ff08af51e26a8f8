"""Diff tensors that two processes hold parts of, over gloo; each rank writes what it has got.

Run as ``python -m tests.distributed_diffs FOLDER CASE``; the folder has ``a.safetensors`` and
``b.safetensors``, whose tensors are those of :mod:`tests.distributed_writers` and slightly others.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import ckptdiff
import torch
from ckptdiff import _core
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor

from tests.distributed_writers import RANKS, SHARDED_ON, network

State = dict[str, torch.Tensor]


def placement_of(name: str) -> Placement:
    dimension = SHARDED_ON.get(name)
    return Replicate() if dimension is None else Shard(dimension)


def distributed(state: State) -> State:
    mesh = init_device_mesh("cpu", (RANKS,))
    return {
        name: distribute_tensor(value, mesh, [placement_of(name)]) for name, value in state.items()
    }


class Bytes:
    """How many bytes this rank was to read or reduce."""

    total = 0

    def __call__(self, done: int, total: int) -> None:
        self.total = total


def both_sharded(folder: Path, bytes_here: Bytes) -> Any:
    a, b = (distributed(load_file(folder / f"{side}.safetensors")) for side in "ab")
    return ckptdiff.diff(a, b, histogram=True, thresholds=[0.0], on_progress=bytes_here)


def against_a_file(folder: Path, bytes_here: Bytes) -> Any:
    b = distributed(load_file(folder / "b.safetensors"))
    return ckptdiff.diff(
        folder / "a.safetensors", b, histogram=True, thresholds=[0.0], on_progress=bytes_here
    )


def against_whole_tensors(folder: Path, bytes_here: Bytes) -> Any:
    a = distributed(load_file(folder / "a.safetensors"))
    b = load_file(folder / "b.safetensors")
    return ckptdiff.diff(a, b, histogram=True, thresholds=[0.0], on_progress=bytes_here)


def strided_shards(folder: Path, bytes_here: Bytes) -> Any:
    """Rows dealt by turns, as FSDP over tensor parallelism can have it, on a mesh of 2 x 1."""
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import _StridedShard

    mesh = init_device_mesh("cpu", (RANKS, 1), mesh_dim_names=("data", "tensor"))
    state: State = {}
    for name, value in load_file(folder / "b.safetensors").items():
        placement = _StridedShard(0, split_factor=2)
        pieces, _ = placement._split_tensor(value, RANKS, with_padding=False, contiguous=True)
        state[name] = DTensor.from_local(
            pieces[torch.distributed.get_rank()], mesh, [placement, Replicate()],
            run_check=False, shape=value.shape, stride=value.stride(),
        )  # fmt: skip
    return ckptdiff.diff(
        folder / "a.safetensors", state, histogram=True, thresholds=[0.0], on_progress=bytes_here
    )


def stats(folder: Path, bytes_here: Bytes) -> Any:
    a = distributed(load_file(folder / "a.safetensors"))
    return ckptdiff.stats(a, histogram=True, on_progress=bytes_here)


def fully_sharded(folder: Path, bytes_here: Bytes) -> Any:
    """A live FSDP2 module against the file it was saved to before a step."""
    from safetensors.torch import save_file
    from torch.distributed.fsdp import fully_shard

    model = network()
    path = folder / "before.safetensors"
    if torch.distributed.get_rank() == 0:
        save_file(model.state_dict(), path)
    torch.distributed.barrier()
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return ckptdiff.diff(path, model, on_progress=bytes_here)


def sharded_tensors(folder: Path, bytes_here: Bytes) -> Any:
    """What FSDP's first version puts in its sharded state dicts."""
    from torch.distributed._shard.sharded_tensor import init_from_local_shards
    from torch.distributed._shard.sharded_tensor.shard import Shard as LocalShard

    rank = torch.distributed.get_rank()
    state: dict[str, Any] = {}
    for name, value in load_file(folder / "b.safetensors").items():
        half = (value.shape[0] + 1) // 2
        start, stop = (0, half) if rank == 0 else (half, value.shape[0])
        offsets = [start] + [0] * (value.dim() - 1)
        shards = []
        if stop > start:
            shards.append(
                LocalShard.from_tensor_and_offsets(value[start:stop].clone(), offsets, rank)
            )
        state[name] = init_from_local_shards(shards, *value.shape)
    return ckptdiff.diff(
        folder / "a.safetensors", state, histogram=True, thresholds=[0.0], on_progress=bytes_here
    )


def placed_differently(folder: Path, bytes_here: Bytes) -> Any:
    mesh = init_device_mesh("cpu", (RANKS,))
    value = load_file(folder / "a.safetensors")["model.both.weight"]
    a, b = ({"w": distribute_tensor(value, mesh, [Shard(dimension)])} for dimension in (0, 1))
    return ckptdiff.diff(a, b)


def one_rank_fails(folder: Path, bytes_here: Bytes) -> Any:
    """The second rank's file is cut off while it is read: no rank may wait for ever."""
    path = folder / "a.safetensors"
    b = distributed(load_file(folder / "b.safetensors"))
    if torch.distributed.get_rank() == 1:
        opened = ckptdiff.open(folder / "short.safetensors")
        with (folder / "short.safetensors").open("r+b") as file:
            file.truncate(100)
        return ckptdiff.diff(opened, b)
    return ckptdiff.diff(path, b)


def _rank() -> int:
    return int(torch.distributed.get_rank())


def _pair(folder: Path) -> tuple[State, State]:
    whole = load_file(folder / "a.safetensors")
    return whole, distributed(load_file(folder / "b.safetensors"))


def other_choice_in_one_rank(folder: Path, bytes_here: Bytes) -> Any:
    """Its rows would be counted with others of the same number."""
    exclude = "model.both.weight" if _rank() == 1 else ()
    return ckptdiff.diff(*_pair(folder), exclude=exclude)


def one_more_tensor_in_one_rank(folder: Path, bytes_here: Bytes) -> Any:
    a, b = _pair(folder)
    if _rank() == 1:
        a["aux"] = b["aux"] = torch.zeros(3)
    return ckptdiff.diff(a, b)


def one_tensor_less_in_one_rank(folder: Path, bytes_here: Bytes) -> Any:
    a, b = _pair(folder)
    if _rank() == 1:
        del a["model.columns.weight"]
    return ckptdiff.diff(a, b)


def other_options_in_one_rank(folder: Path, bytes_here: Bytes) -> Any:
    return ckptdiff.diff(*_pair(folder), atol=0.5 * _rank())


def plain_in_one_rank(folder: Path, bytes_here: Bytes) -> Any:
    a, b = _pair(folder)
    if _rank() == 1:
        b["model.both.weight"] = load_file(folder / "b.safetensors")["model.both.weight"]
    return ckptdiff.diff(a, b)


def other_choice_of_stats(folder: Path, bytes_here: Bytes) -> Any:
    return ckptdiff.stats(_pair(folder)[1], include="*both*" if _rank() else "*rows*")


def no_file_for_one_rank(folder: Path, bytes_here: Bytes) -> Any:
    return ckptdiff.diff(folder / f"{'az'[_rank()]}.safetensors", _pair(folder)[1])


def bad_option_in_one_rank(folder: Path, bytes_here: Bytes) -> Any:
    return ckptdiff.diff(*_pair(folder), threads=-_rank())


def progress_stops_one_rank(folder: Path, bytes_here: Bytes) -> Any:
    def stop(done: int, total: int) -> None:
        if _rank() == 1:
            raise KeyError("stop")

    return ckptdiff.diff(*_pair(folder), on_progress=stop)


def one_rank_fails_at_the_end(folder: Path, bytes_here: Bytes) -> Any:
    """When the partials are merged, and the others are about to return."""
    pair = _pair(folder)
    failure = OSError("the disk is gone") if _rank() == 1 else None
    with mock.patch(
        "ckptdiff.backends.torch.run.diff_of_partials",
        side_effect=failure,
        wraps=_core.diff_of_partials,
    ):
        return ckptdiff.diff(*pair)


def spectrum(folder: Path, bytes_here: Bytes) -> Any:
    return ckptdiff.spectrum(_pair(folder)[1])


def meshes_in_any_order(folder: Path, bytes_here: Bytes) -> Any:
    """Each rank has its sides' tensors in another order, on three meshes of the same ranks."""
    whole, b = _pair(folder)
    b["model.columns.weight"] = distribute_tensor(
        load_file(folder / "b.safetensors")["model.columns.weight"],
        init_device_mesh("cpu", (RANKS,)),
        [Shard(1)],
    )
    mesh = init_device_mesh("cpu", (RANKS, 1), mesh_dim_names=("data", "tensor"))
    b["model.rows.weight"] = distribute_tensor(
        load_file(folder / "b.safetensors")["model.rows.weight"], mesh, [Shard(0), Replicate()]
    )
    if _rank() == 1:
        b = dict(reversed(b.items()))
    return ckptdiff.diff(whole, b, histogram=True, thresholds=[0.0], on_progress=bytes_here)


def nccl(folder: Path, case: str) -> None:
    """A case of tensors on a GPU each, over nccl."""
    rank = int(os.environ["RANK"])
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl", device_id=torch.device("cuda", rank))
    mesh = init_device_mesh("cuda", (RANKS,))
    a, b = (
        {
            name: distribute_tensor(value.cuda(), mesh, [placement_of(name)])
            for name, value in load_file(folder / f"{side}.safetensors").items()
        }
        for side in "ab"
    )
    counter = Bytes()
    report = ckptdiff.diff(a, b, histogram=True, thresholds=[0.0], on_progress=counter)
    result = {"report": report.to_json(), "bytes": counter.total}
    (folder / f"{case}.{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


CASES: dict[str, Callable[[Path, Bytes], Any]] = {
    function.__name__: function
    for function in (
        both_sharded,
        against_a_file,
        against_whole_tensors,
        strided_shards,
        stats,
        fully_sharded,
        sharded_tensors,
        placed_differently,
        one_rank_fails,
        other_choice_in_one_rank,
        one_more_tensor_in_one_rank,
        one_tensor_less_in_one_rank,
        other_options_in_one_rank,
        plain_in_one_rank,
        other_choice_of_stats,
        no_file_for_one_rank,
        bad_option_in_one_rank,
        progress_stops_one_rank,
        one_rank_fails_at_the_end,
        meshes_in_any_order,
        spectrum,
    )
}


def main() -> None:
    folder = Path(sys.argv[1])
    if len(sys.argv) > 3:
        nccl(folder, sys.argv[2])
        return
    # a rank that waits in vain is to fail here, and not in half an hour
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=120))
    for case in sys.argv[2].split(","):
        counter = Bytes()
        try:
            result = {"report": CASES[case](folder, counter).to_json(), "bytes": counter.total}
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        rank = torch.distributed.get_rank()
        (folder / f"{case}.{rank}.json").write_text(json.dumps(result))
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
