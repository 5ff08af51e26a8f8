"""Bounds of what a small file can make a reader do, and paths that are no files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ckptdiff
import numpy as np
import pytest
from ckptdiff.errors import InvalidCheckpointError
from ckptdiff.formats.inert import ForbiddenGlobalError, unpickle
from ckptdiff.formats.inert.torch import TORCHSCRIPT
from ckptdiff.formats.torch_file import _storage_loader
from safetensors.numpy import save_file


def looked_up(name: str, times: int) -> bytes:
    """A pickle of a list of that class of ``__torch__``, looked up so often."""
    module, text = b"\x8c\x09__torch__", name.encode()
    named = b"X" + len(text).to_bytes(4, "little") + text
    return b"\x80\x04]" + (module + named + b"\x93a") * times + b"."


def test_a_class_of_torchscript_is_made_once() -> None:
    value = unpickle(looked_up("Net", 3), source="x", known=TORCHSCRIPT).value
    assert isinstance(value, list)
    assert len(value) == 3
    assert len(set(map(id, value))) == 1


def test_a_name_of_a_class_has_a_length_that_names_have() -> None:
    with pytest.raises(ForbiddenGlobalError, match=r"^x: the pickle refers to __torch__\.aaa"):
        unpickle(looked_up("a" * 50_000, 1), source="x", known=TORCHSCRIPT)


def test_a_storages_key_is_short() -> None:
    float_storage = TORCHSCRIPT["torch.FloatStorage"]
    load = _storage_loader({})
    load(("storage", float_storage, "17", "cpu", 4))
    with pytest.raises(ValueError, match="a storage key of 60,000 characters"):
        load(("storage", float_storage, "1" * 60_000, "cpu", 4))


def test_a_pipe_in_a_directory_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(InvalidCheckpointError, match=r"x\.npz: expected a regular file"):
        ckptdiff.open(tmp_path)


def test_shards_that_disagree_on_the_rank_of_a_tensor(tmp_path: Path) -> None:
    for rank, shape in ((1, (2, 3)), (2, (2,))):
        offsets = {"a": {"saved_offsets": [0] * len(shape)}}
        save_file(
            {"a": np.zeros(shape, np.float32)},
            tmp_path / f"shard-{rank:05}-model-00001-of-00001.safetensors",
            {"DCP_SHARDING_INFO": json.dumps(offsets)},
        )
    with pytest.raises(InvalidCheckpointError, match="tensor 'a' has pieces of different"):
        ckptdiff.open(tmp_path)


@pytest.mark.parametrize("other", [None, "model-00002-of-00002.bin"])
def test_a_lone_part_is_no_whole_checkpoint(other: str | None, tmp_path: Path) -> None:
    part = tmp_path / "model-00001-of-00002.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, part)
    if other is not None:
        save_file({"b": np.zeros(3, np.float32)}, tmp_path / other)
    with pytest.raises(InvalidCheckpointError, match="is part 1 of 2, and there is no index"):
        ckptdiff.open(tmp_path)
    assert len(ckptdiff.open(part)) == 1
