"""Which format a path is of: told by a look at it, and by no more readers than that leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import ckptdiff
import numpy as np
import pytest
import torch
from ckptdiff import formats
from ckptdiff.formats import FORMATS, Format
from ckptdiff.formats.options import OpenOptions
from safetensors.numpy import save_file

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
