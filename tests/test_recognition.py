"""Which format a path is of: told by a look at it, and by no more readers than that leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import ckptdiff
import gguf
import numpy as np
import pytest
import torch
from ckptdiff import formats
from ckptdiff.formats import FORMATS, Format
from ckptdiff.formats.options import OpenOptions
from safetensors.numpy import save_file

from tests.cli import assert_one_line_of_trouble, invoke

READERS = {f"ckptdiff.formats.{candidate.module}" for candidate in FORMATS}


def readers_imported_for(path: Path) -> set[str]:
    """The readers that opening ``path`` imports, and ``inert`` where pickles are read."""
    code = (
        "import sys, ckptdiff; ckptdiff.open(sys.argv[1]);"
        "print(*(name for name in sys.modules if name.startswith('ckptdiff.formats.')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    found = set(run.stdout.split()) & (READERS | {"ckptdiff.formats.inert"})
    return {name.rpartition(".")[2] for name in found}


def test_a_reader_is_imported_where_it_may_be_needed(tmp_path: Path) -> None:
    """A safetensors file needs no reader of pickles; nor does an array."""
    arrays = {"w": np.arange(4, dtype=np.float32)}
    save_file(arrays, tmp_path / "model.safetensors")
    assert readers_imported_for(tmp_path / "model.safetensors") <= {
        "olmo",  # which begins the same way
        "safetensors",
        "safetensors_shards",
    }
    assert "inert" not in readers_imported_for(tmp_path)
    np.save(tmp_path / "one.npy", arrays["w"])
    assert readers_imported_for(tmp_path / "one.npy") == {"numpy"}
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt")
    assert readers_imported_for(tmp_path / "model.pt") == {"torch", "inert"}


@pytest.mark.parametrize("name", ["model.safetensors", "one.npy", "several.npz", "model.pt"])
def test_content_decides_and_not_the_name(name: str, tmp_path: Path) -> None:
    arrays = {"w": np.arange(4, dtype=np.float32)}
    path = tmp_path / name
    if name.endswith(".safetensors"):
        save_file(arrays, path)
    elif name.endswith(".npz"):
        np.savez(path, **arrays)
    elif name.endswith(".npy"):
        np.save(path, arrays["w"])
    else:
        torch.save({"w": torch.arange(4.0)}, path)
    expected = ckptdiff.open(path).format
    renamed = path.rename(tmp_path / "without-a-suffix")
    assert ckptdiff.open(renamed).format == expected


WEIGHTS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "v": np.arange(4, dtype=np.int64)}
SUFFIXES = (".safetensors", ".bin", ".pt", ".npz", ".npy", ".gguf", ".ckpt", ".h5", "")


def write_as(kind: str, path: Path, tensors: Mapping[str, Any] = WEIGHTS) -> Path:
    """Write by the format's own library, to a path of any name."""
    if kind == "safetensors":
        save_file(dict(tensors), path)
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **tensors)
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, tensors["w"])
    elif kind == "gguf":
        writer = gguf.GGUFWriter(path, "")
        for name, value in tensors.items():
            writer.add_tensor(name, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        as_torch = {name: torch.from_numpy(value) for name, value in tensors.items()}
        torch.save(as_torch, path, _use_new_zipfile_serialization=kind == "torch")
    return path


KINDS = {
    "safetensors": "safetensors",
    "npz": "numpy",
    "npy": "numpy",
    "gguf": "gguf",
    "torch": "torch",
    "legacy torch": "torch",
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_content_under_any_name(kind: str, tmp_path: Path) -> None:
    """As a file, and as the only one of a directory with what else is in such a directory."""
    tensors = {"tensor": WEIGHTS["w"]} if kind == "npy" else WEIGHTS
    for suffix in SUFFIXES:
        folder = tmp_path / f"folder{suffix}"
        folder.mkdir()
        path = write_as(kind, folder / f"model{suffix}")
        (folder / "config.json").write_text('{"model_type": "unheard-of"}')
        torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pt")
        for opened in (path, folder):
            checkpoint = ckptdiff.open(opened)
            assert checkpoint.format == KINDS[kind], suffix
            assert checkpoint.path == str(opened)
            assert ckptdiff.diff(checkpoint, tensors).exit_status == 0
        assert any("optimizer.pt is left out" in note for note in checkpoint.notes), suffix


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("name", ["model.jit", "weights", "model.ts"])
def test_a_directory_with_one_file_that_is_a_checkpoint(name: str, tmp_path: Path) -> None:
    if name == "weights":
        torch.save({"weight": torch.ones(2, 3)}, tmp_path / name)
    else:
        torch.jit.script(torch.nn.Linear(3, 2, bias=False)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("hello")
    assert set(ckptdiff.open(tmp_path)) == {"weight"}
    write_as("safetensors", tmp_path / "another")
    outcome = invoke("ls", tmp_path)
    assert_one_line_of_trouble(outcome, "2 checkpoints", name, "another", "name the file")


INDEXES = ("pytorch_model.bin.index.json", "model.safetensors.index.json", "renamed.json", "index")


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize(
    "kinds",
    [("torch", "torch"), ("safetensors", "safetensors"), ("torch", "safetensors"),
     ("legacy torch", "safetensors"), ("safetensors", "torch")],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_an_index_by_its_map_and_each_shard_by_its_content(
    index: str, kinds: tuple[str, str], suffix: str, tmp_path: Path
) -> None:
    weight_map = {}
    for number, (kind, name) in enumerate(zip(kinds, WEIGHTS, strict=True), 1):
        shard = f"model-{number:05}-of-00002{suffix}"
        write_as(kind, tmp_path / shard, {name: WEIGHTS[name], "stale": WEIGHTS["w"]})
        weight_map[name] = shard
    (tmp_path / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    paths = [tmp_path / index]
    if index.endswith(f"{suffix}.index.json"):
        paths.append(tmp_path)
    for path in paths:
        report = ckptdiff.diff(path, WEIGHTS)
        assert report.exit_status == 0
        assert len(report) == 2
    weight_map["gone"] = weight_map["v"]
    (tmp_path / index).write_text(json.dumps({"weight_map": weight_map}))
    assert_one_line_of_trouble(invoke("ls", paths[0]), index, "gone")


def test_a_usual_file_of_other_content_is_what_the_directory_is(tmp_path: Path) -> None:
    """OLMo's first generation with ``model.pt`` written as safetensors: not ``train.pt``."""
    write_as("safetensors", tmp_path / "model.pt")
    torch.save({"global_step": 3, "rng": torch.ones(3)}, tmp_path / "train.pt")
    torch.save({"w": torch.ones(3)}, tmp_path / "optim.pt")
    assert set(ckptdiff.open(tmp_path)) == set(WEIGHTS)


def test_what_is_no_checkpoint_is_told_which_formats_there_are(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "old.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    names = [candidate.name for candidate in FORMATS]
    with pytest.raises(ckptdiff.InvalidCheckpointError) as text:
        ckptdiff.open(tmp_path / "notes.txt")
    with pytest.raises(ckptdiff.InvalidCheckpointError, match="an HDF5 file") as hdf5:
        ckptdiff.open(tmp_path / "old.h5")
    with pytest.raises(ckptdiff.CheckpointNotFoundError, match=r"found old\.h5") as folder:
        ckptdiff.open(tmp_path)
    for message in (str(text.value), str(hdf5.value), str(folder.value)):
        assert "\n" not in message
        assert all(name in message for name in names), message


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ckptdiff.InvalidCheckpointError, match="neither a regular file"):
        ckptdiff.open(tmp_path / "pipe.safetensors")


# How a format is added.


def test_the_reader_that_contributing_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    reader_code, line = (part.split("```")[0] for part in text.split("```python\n")[1:3])
    reader = ModuleType("ckptdiff.formats.vec1")
    exec(compile(reader_code, "CONTRIBUTING.md", "exec"), reader.__dict__)
    added: Format = eval(line, {"Format": Format})
    monkeypatch.setitem(sys.modules, "ckptdiff.formats.vec1", reader)
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, added))

    path = tmp_path / "vector"
    path.write_bytes(b"VEC1" + np.arange(5, dtype=np.float32).tobytes())
    checkpoint = ckptdiff.open(path)
    assert checkpoint.format == "vec1"
    assert ckptdiff.diff(checkpoint, {"vector": np.arange(5, dtype=np.float32)}).exit_status == 0
    assert not reader.can_open(str(tmp_path))
    with pytest.raises(ValueError, match="nothing nested"):
        reader.open_checkpoint(str(path), OpenOptions(key="x"))
    path.write_bytes(b"VEC1abc")
    with pytest.raises(ckptdiff.InvalidCheckpointError, match="vector"):
        ckptdiff.open(path)
