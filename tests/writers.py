"""Write safetensors files from raw bytes: any dtype, any layout, and broken ones.

Nothing here uses the safetensors library, which refuses half of what the tests need.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.dtypes import DTYPES, encode


class Tensor(NamedTuple):
    """A tensor as it stands in a file: ``data`` is little-endian, C order, packed."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


Tensors = Mapping[str, Tensor]


def tensor(values: NDArray[np.generic] | Sequence[float], dtype: str = "F32") -> Tensor:
    """Round real or complex values to ``dtype``."""
    array = np.asarray(values)
    shape = array.shape
    if dtype == "C64":
        array = array.astype(np.complex64).reshape(-1).view(np.float32)
    return Tensor(dtype, shape, encode(array.reshape(-1), DTYPES[dtype]))


def header_entry(dtype: str, shape: Sequence[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def header_of(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> dict[str, object]:
    """The header of these tensors laid out in order, without holes."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = header_entry(dtype, shape, offset, offset + len(data))
        offset += len(data)
    return header


def write_raw(path: Path, header: bytes, data: bytes = b"", *, length: int | None = None) -> Path:
    """The three parts of a file as they are; ``length`` overrides the true header length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header) if length is None else length))
        file.write(header)
        file.write(data)
    return path


def write_file(
    path: Path,
    tensors: Tensors,
    *,
    metadata: Mapping[str, str] | None = None,
    pad_to: int = 8,
    misalign: int = 0,
) -> Path:
    """A valid file; the data begins ``misalign`` bytes after a multiple of ``pad_to``."""
    header = json.dumps(header_of(tensors, metadata), ensure_ascii=False).encode()
    header += b" " * (-(8 + len(header)) % pad_to + misalign)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)))
        file.write(header)
        for entry in tensors.values():
            file.write(entry.data)
    return path


def write_index(folder: Path, weight_map: Mapping[str, object], total_size: int = 0) -> Path:
    path = folder / "model.safetensors.index.json"
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(weight_map)}
    path.write_text(json.dumps(index))
    return path


def write_sharded(
    folder: Path, tensors: Tensors, shards: int = 3, *, order: Iterable[str] | None = None
) -> Path:
    """A sharded directory as Hugging Face names its files; tensors are dealt round-robin."""
    names = list(tensors if order is None else order)
    folder.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, object] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        held = names[shard::shards]
        write_file(folder / file, {name: tensors[name] for name in held}, misalign=shard)
        weight_map |= dict.fromkeys(held, file)
    write_index(folder, weight_map, sum(len(entry.data) for entry in tensors.values()))
    return folder


def write_hub_snapshot(root: Path, folder: Path, revision: str = "0123abcd" * 5) -> Path:
    """The files of ``folder`` moved into the Hub cache's layout: symbolic links into blobs."""
    repository = root / "models--org--name"
    blobs = repository / "blobs"
    snapshot = repository / "snapshots" / revision
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = blobs / f"{number:064x}"
        file.rename(blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def write_sparse(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16") -> Path:
    """A valid file whose data is one hole: reads as zeros, takes no space on disk."""
    header: dict[str, object] = {}
    offset = 0
    for name, shape in shapes.items():
        size = DTYPES[dtype].nbytes(prod(shape))
        header[name] = header_entry(dtype, shape, offset, offset + size)
        offset += size
    write_raw(path, json.dumps(header).encode())
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + offset)
    return path
