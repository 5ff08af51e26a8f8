"""Watch a model that two processes hold parts of, over gloo; each rank writes what it measured.

Run as ``python -m tests.distributed_watchers FOLDER CASES``; the folder has ``model.safetensors``.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ckptdiff
import torch
from ckptdiff.callbacks import Watcher
from safetensors.torch import load_file
from torch import nn


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)


class Model(nn.Module):
    """Two layers, and a frozen embedding."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, width)
        self.embed.weight.requires_grad_(False)
        self.layers = nn.ModuleList(Layer(width) for _ in range(2))


def disturb(model: nn.Module, seed: int, scale: float = 1e-3) -> None:
    """Add the same noise to the trainable parameters, wherever their elements are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = scale * torch.randn(parameter.shape, generator=generator)
                parameter.add_(like(noise.to(parameter.dtype), parameter))


#: Odd, so that one process has more rows than the other.
WIDTH = 13

#: What is asked of a watcher.
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"by": "tensor"},
    "bfloat16": {"by": "module", "snapshot_dtype": torch.bfloat16},
    "globs": {"by": "layer", "include": "*.weight", "update_dtype": None},
    "baseline": {"by": "tensor"},
}


def measured(model: nn.Module, folder: Path, way: str) -> dict[str, Any]:
    """Three measurements of a model that begins as the file, and the bytes that are kept."""
    load(model, folder)
    options = dict(WAYS[way])
    if way == "baseline":
        options["baseline"] = folder / "model.safetensors"
    watcher = Watcher(model, every=1, **options)
    logs = []
    for step in range(3):
        disturb(model, step)
        if step == 1:
            poison(model)
        logs.append(watcher.step())
    return {"logs": logs, "bytes": watcher.bytes_kept}


def load(model: nn.Module, folder: Path) -> None:
    values = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(like(values[name], parameter))


def poison(model: nn.Module) -> None:
    """A NaN in the first row of each matrix, an infinity in the last."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dim() == 2:
                whole = torch.zeros(parameter.shape)
                whole[0, 1], whole[-1, 0] = math.nan, math.inf
                parameter.add_(like(whole, parameter))


def like(value: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
    if not hasattr(parameter, "placements"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


def mesh_of(*shape: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", shape, mesh_dim_names=("data", "tensor")[: len(shape)])


def distributed(model: Model, placements: Callable[[nn.Parameter], Any], mesh: Any) -> Model:
    from torch.distributed.tensor import distribute_tensor

    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            value = distribute_tensor(parameter.detach(), mesh, placements(parameter))
            setattr(module, name, nn.Parameter(value, requires_grad=parameter.requires_grad))
    return model


def fully_sharded() -> Model:
    """FSDP2, layer by layer."""
    from torch.distributed.fsdp import fully_shard

    model = Model(WIDTH)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh_of(2))
    fully_shard(model, mesh=mesh_of(2))
    return model


def columns() -> Model:
    """Tensor parallelism over columns, whose elements lie apart in the baseline; biases whole."""
    from torch.distributed.tensor import Replicate, Shard

    return distributed(
        Model(WIDTH), lambda p: [Shard(1) if p.dim() == 2 else Replicate()], mesh_of(2)
    )


def replicated() -> Model:
    """Equal copies in both processes, of which one is measured."""
    from torch.distributed.tensor import Replicate

    return distributed(Model(WIDTH), lambda p: [Replicate()], mesh_of(2))


def two_dimensions() -> Model:
    """A mesh with two groups, over which sums are merged in turn."""
    from torch.distributed.tensor import Replicate, Shard

    return distributed(Model(WIDTH), lambda p: [Shard(0), Replicate()], mesh_of(2, 1))


CASES: dict[str, Callable[[], Model]] = {
    case.__name__: case for case in (fully_sharded, columns, replicated, two_dimensions)
}


def failure(folder: Path, rank: int) -> dict[str, str]:
    """The second rank's baseline is cut off when it is to be measured against."""
    own = folder / f"baseline.{rank}.safetensors"
    shutil.copy(folder / "model.safetensors", own)
    watcher = Watcher(fully_sharded(), every=1, baseline=ckptdiff.open(own))
    if rank == 1:
        with own.open("r+b") as file:
            file.truncate(2000)
    try:
        watcher.step()
    except (ValueError, OSError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    for case in sys.argv[2].split(","):
        results = {way: measured(CASES[case](), folder, way) for way in WAYS}
        (folder / f"{case}.{rank}.json").write_text(json.dumps(results))
        torch.distributed.barrier()
    (folder / f"failure.{rank}.json").write_text(json.dumps(failure(folder, rank)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
