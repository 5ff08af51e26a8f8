"""Values of one tensor, decoded by the core: every dtype, cut anywhere, in one and many spans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ckptdiff import InvalidCheckpointError
from ckptdiff import open as open_checkpoint
from ckptdiff._core import Manifest

from tests.dtypes import DTYPES, scalars
from tests.gguf_writers import QUANTISED, dequantised, random_blocks, write_gguf
from tests.samples import prime_cycle, wild
from tests.writers import Tensor, write_file, write_sharded

# Around the kernel's block of 2048 and the pieces that are read at once.
SHAPES = ((0,), (12,), (2044,), (2048,), (2052,), (3, 70_000))

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda dtype: dtype.name)


def expected(tensor: Tensor) -> np.ndarray:
    """The values as float64, two for a complex number."""
    dtype = DTYPES[tensor.dtype]
    values = scalars(tensor.data, dtype)
    with np.errstate(invalid="ignore"):  # signalling NaN
        return values.astype(np.float64)


def read(manifest: Manifest, index: int, start: int, stop: int, floats: int) -> np.ndarray:
    data = manifest.values(index, start, stop)
    width = len(data) // max(floats, 1)
    assert width in (0, 4, 8)
    return np.frombuffer(data, "<f4" if width == 4 else "<f8")


@every_dtype
def test_every_value_of_every_dtype(dtype, tmp_path: Path) -> None:
    makers = (prime_cycle, lambda dtype, shape: wild(dtype, shape, seed=len(shape)))
    tensors = {
        f"t.{n}.{m}": maker(dtype, shape)
        for n, shape in enumerate(SHAPES)
        for m, maker in enumerate(makers)
    }
    path = write_file(tmp_path / "a.safetensors", tensors)
    checkpoint = open_checkpoint(path)
    for index, name in enumerate(checkpoint.names()):
        values = expected(tensors[name])
        elements = checkpoint[name].numel
        parts = dtype.components
        cuts = {0, 1, elements // 3, elements // 3 + 1, elements - 1, elements}
        cuts = sorted(cut for cut in cuts if 0 <= cut <= elements)
        for number, start in enumerate(cuts):
            for stop in cuts[number:]:
                floats = (stop - start) * parts
                found = read(checkpoint.manifest, index, start, stop, floats)
                np.testing.assert_array_equal(found, values[start * parts : stop * parts])


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_values_are_those_of_the_gguf_package(kind: str, tmp_path: Path) -> None:
    raw = {"w": (kind, random_blocks(kind, (40, 1024), 3, wild=False))}
    write_gguf(tmp_path / "a.gguf", raw)
    values = dequantised(kind, raw["w"][1]).reshape(-1)
    manifest = open_checkpoint(tmp_path / "a.gguf").manifest
    for start, stop in ((0, None), (0, 1), (1, 3), (255, 257), (1000, 40_000), (40_959, 40_960)):
        found = np.frombuffer(manifest.values(0, start, stop), "<f4")
        np.testing.assert_array_equal(found, values[start:stop])


def test_more_than_there_is_is_cut_and_no_tensor_is_an_error(tmp_path: Path) -> None:
    tensors = {"x": prime_cycle(DTYPES["F32"], (10,))}
    manifest = open_checkpoint(write_file(tmp_path / "a.safetensors", tensors)).manifest
    assert manifest.values(0, 8, 99) == tensors["x"].data[32:]
    assert manifest.values(0, 99, 8) == b""
    with pytest.raises(IndexError):
        manifest.values(1)


def test_sharding_changes_no_value(tmp_path: Path) -> None:
    tensors = {f"x.{n}": prime_cycle(DTYPES["BF16"], (n + 1, 40_000)) for n in range(4)}
    whole = open_checkpoint(write_file(tmp_path / "a.safetensors", tensors)).manifest
    sharded = open_checkpoint(write_sharded(tmp_path / "b", tensors, 3)).manifest
    for index in range(4):
        assert whole.values(index) == sharded.values(index)


def test_a_dtype_that_nobody_knows_is_named(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.safetensors", {"x": Tensor("F5_NEW", (2,), b"\0\0")})
    manifest = open_checkpoint(path).manifest
    with pytest.raises(InvalidCheckpointError, match=r"tensor \"x\".*F5_NEW"):
        manifest.values(0)


def test_a_file_that_shrank_meanwhile_is_one_line(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.safetensors", {"x": prime_cycle(DTYPES["F32"], (400_000,))})
    manifest = open_checkpoint(path).manifest
    with path.open("r+b") as file:
        file.truncate(500_000)
    with pytest.raises(OSError, match=r"tensor \"x\""):
        manifest.values(0)
