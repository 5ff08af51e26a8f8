"""Mutations of what the other fuzz targets do not reach: indexes, shards, encoded names, states.

Each target is one reader. A mutation ends in a report or in one line that names the file, never in
anything else. ``CKPTDIFF_FUZZ_SECONDS`` says how long each is run, a second by default.
"""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import ckptdiff
import numpy as np
import torch
from ckptdiff.formats.olmo_core import train_state
from safetensors.numpy import save_file

from tests.mutations import count_mutations
from tests.writers import tensor, write_sharded

OURS = (
    ckptdiff.CheckpointNotFoundError,
    ckptdiff.InvalidCheckpointError,
    ckptdiff.CheckpointReadError,
)
#: In a second, on a machine that does much else.
AT_LEAST = 20


def fuzz(path: Path, file: Path, originals: Sequence[bytes], use: Callable[[Path], object]) -> None:
    """Write mutations of ``originals`` to ``file``, and ``use`` the checkpoint at ``path``."""

    def attempt(content: bytes) -> None:
        file.write_bytes(content)
        try:
            use(path)
        except OURS as error:
            message = str(error)
            assert "\n" not in message
            assert str(path) in message or file.name in message, message

    assert count_mutations(originals, attempt) > AT_LEAST


def described(path: Path) -> object:
    checkpoint = ckptdiff.open(path, optimizer=True)
    unsupported = checkpoint.manifest.unsupported()
    if unsupported and len(unsupported) == len(checkpoint):
        return None
    return ckptdiff.stats(checkpoint, threads=1)


def test_many_mutations_of_a_safetensors_index(tmp_path: Path) -> None:
    tensors = {name: tensor([1.0, 2.0]) for name in ("a", "b", "c", "d")}
    path = write_sharded(tmp_path / "checkpoint", tensors, 2)
    index = path / "model.safetensors.index.json"
    fuzz(path, index, [index.read_bytes()], described)


def test_many_mutations_of_a_shard(tmp_path: Path) -> None:
    tensors = {name: tensor([1.0, 2.0]) for name in ("a", "b", "c", "d")}
    path = write_sharded(tmp_path / "checkpoint", tensors, 2)
    shard = path / "model-00002-of-00002.safetensors"
    fuzz(path, shard, [shard.read_bytes()], described)


def test_many_mutations_of_a_torch_index(tmp_path: Path) -> None:
    names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    for name, key in zip(names, "ab", strict=True):
        torch.save({key: torch.ones(2)}, tmp_path / name)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": dict(zip("ab", names, strict=True))})
    )
    fuzz(tmp_path, index, [index.read_bytes()], described)


def test_many_mutations_of_the_shards_of_ranks(tmp_path: Path) -> None:
    """The second of two files with half a matrix each, its header and DCP_SHARDING_INFO."""
    for rank, origin in ((1, 0), (2, 3)):
        info = {"w": {"saved_offsets": [origin, 0]}, "v": {"saved_offsets": [2 * origin]}}
        save_file(
            {"w": np.ones((3, 4), np.float32), "v": np.ones(6, np.float16)},
            tmp_path / f"shard-{rank:05}-model-00001-of-00001.safetensors",
            metadata={"DCP_SHARDING_INFO": json.dumps(info)},
        )
    shard = tmp_path / "shard-00002-model-00001-of-00001.safetensors"
    fuzz(tmp_path, shard, [shard.read_bytes()], described)


def test_many_mutations_of_encoded_names(tmp_path: Path) -> None:
    """The pickle in a name is changed, and its base64 is right; then that is changed as well."""
    path = tmp_path / "model.safetensors"
    keys = [("transformer", "wte.weight"), ("state", 17, "exp_avg")]
    pickles = [pickle.dumps((key, False), 4) for key in keys]

    def write(name: str) -> bytes:
        header = json.dumps({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
        return len(header.encode()).to_bytes(8, "little") + header.encode() + bytes(8)

    def attempt(content: bytes) -> None:
        path.write_bytes(write(base64.urlsafe_b64encode(content).decode()))
        try:
            described(path)
        except OURS as error:
            message = str(error)
            assert "\n" not in message
            assert str(path) in message

    assert count_mutations(pickles, attempt) > AT_LEAST
    encoded = [base64.urlsafe_b64encode(one).decode() for one in pickles]
    fuzz(path, path, [write(name) for name in encoded], described)


def test_many_mutations_of_a_trainers_state(tmp_path: Path) -> None:
    state = {
        "global_step": 7,
        "global_train_tokens_seen": 57_344,
        "data_loader": {"tokens_processed": 57_344, "dataset_type": "fsl"},
        "rng": {"torch": torch.random.get_rng_state(), "numpy": np.random.get_state()},
    }
    originals = []
    for new in (True, False):
        torch.save(state, tmp_path / "train.pt", _use_new_zipfile_serialization=new)
        originals.append((tmp_path / "train.pt").read_bytes())

    def use(path: Path) -> object:
        found = train_state(str(path))
        assert all(isinstance(value, (int, float, str)) for value in found.values())
        return found

    fuzz(tmp_path, tmp_path / "train.pt", originals, use)


def test_many_mutations_of_an_optimizer_beside_weights(tmp_path: Path) -> None:
    """Its groups and shapes are held against the weights, to name parameters."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    parameters = list(model.parameters())
    groups = [[p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim < 2]]
    optimizer = torch.optim.AdamW([{"params": group} for group in groups])
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    file = tmp_path / "optimizer.pt"
    torch.save(optimizer.state_dict(), file, _use_new_zipfile_serialization=False)
    fuzz(tmp_path, file, [file.read_bytes()], described)
