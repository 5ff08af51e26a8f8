"""Write distributed checkpoints with torch itself, in several processes over gloo.

Run as ``python -m tests.distributed_writers FOLDER WRITER``; each process is one rank. The tensors
are made from the seed of their name, so that a test knows them without reading anything.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import torch

RANKS = 2
SHAPES = {
    "model.rows.weight": (13, 6),
    "model.columns.weight": (5, 11),
    "model.both.weight": (7, 9),
    "model.middle.weight": (3, 10, 4),
    "model.one_row.weight": (1, 8),
    "model.replicated.bias": (17,),
    "optim.state.rows.weight.exp_avg": (13, 6),
}
SHARDED_ON = {
    "model.rows.weight": 0,
    "model.columns.weight": 1,
    "model.middle.weight": 1,
    "model.one_row.weight": 0,
    "optim.state.rows.weight.exp_avg": 0,
}


def value_of(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    dtype = torch.float32 if name.startswith("optim") else torch.bfloat16
    return torch.randn(SHAPES[name], generator=generator).to(dtype)


def write_in_processes(folder: Path, what: str) -> None:
    """Start ``RANKS`` processes that write ``what`` (a function below) into ``folder``."""
    run_in_processes("tests.distributed_writers", folder, what)


def run_in_processes(module: str, folder: Path, what: str, *more: str) -> None:
    """Start ``RANKS`` processes of a module that does ``what`` in ``folder``, one rank each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, str(folder), what, *more],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(RANKS),
                "LOCAL_WORLD_SIZE": str(RANKS),
                "NUM_NODES": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors[-3000:]
    finally:
        # where one failed, the others may wait for it for ever
        for process in processes:
            process.kill()
            process.communicate()


def sharded_state(folder: Path) -> dict[str, object]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    del folder
    mesh = init_device_mesh("cpu", (RANKS,))
    state: dict[str, object] = {}
    for name in SHAPES:
        dimension = SHARDED_ON.get(name)
        placement = Replicate() if dimension is None else Shard(dimension)
        state[name] = distribute_tensor(value_of(name), mesh, [placement])
    return state


def plain(folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save({**sharded_state(folder), "step": 1234}, checkpoint_id=folder)


def several_files(folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save(
        {**sharded_state(folder), "step": 1234},
        storage_writer=dcp.FileSystemWriter(folder, thread_count=3),
    )


def file_per_item(folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save(
        {**sharded_state(folder), "step": 1234},
        storage_writer=dcp.FileSystemWriter(folder, single_file_per_rank=False),
    )


def without_collectives(folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save(
        {**sharded_state(folder), "step": 1234},
        storage_writer=dcp.FileSystemWriter(folder),
        use_collectives=False,
    )


def hugging_face(folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save(
        sharded_state(folder),
        storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True),
    )


def hugging_face_consolidated(folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save(
        sharded_state(folder),
        storage_writer=dcp.HuggingFaceStorageWriter(
            str(folder), save_distributed=True, enable_consolidation=True
        ),
    )


def network() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.GELU(), torch.nn.Linear(5, 3))


def trained(model: torch.nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in range(2):
        torch.manual_seed(step)
        loss = model(torch.randn(4, 7)).square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def fully_sharded(folder: Path) -> None:
    """FSDP2, and the state_dict of model and optimizer that torchtitan saves."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (RANKS,))
    model = network()
    fully_shard(model, mesh=mesh)
    optimizer = trained(model)
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optim": state}, checkpoint_id=folder)


def olmo_core(folder: Path) -> None:
    """What OLMo-core's trainer writes for its weights and optimizer."""
    from olmo_core.distributed.checkpoint import save_model_and_optim_state
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (RANKS,))
    model = network()
    fully_shard(model, mesh=mesh)
    optimizer = trained(model)
    save_model_and_optim_state(folder, model, optimizer)


WRITERS = {
    function.__name__: function
    for function in (
        plain,
        several_files,
        file_per_item,
        without_collectives,
        hugging_face,
        hugging_face_consolidated,
        fully_sharded,
        olmo_core,
    )
}


def main() -> None:
    folder, what = sys.argv[1:]
    torch.distributed.init_process_group("gloo")
    WRITERS[what](Path(folder))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
