"""Writes safetensors files of bf16 tensors with numpy alone, for the demo.

The format is a little-endian u64, the length of a JSON header; the header, which gives each tensor
its dtype, shape and byte range; and the bytes. The safetensors package is no run-time dependency.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

__all__ = ["bfloat16_bits", "write_sharded"]


def bfloat16_bits(values: NDArray[numpy.float32]) -> NDArray[numpy.uint16]:
    """The bit patterns of ``values`` in bfloat16, rounded to nearest, ties to even.

    bfloat16 is the upper half of float32. Adding 0x7fff, and one more where the last kept bit is
    set, carries into the upper half exactly where rounding goes up. NaN becomes a quiet NaN, which
    the carry could otherwise turn into infinity.
    """
    import numpy

    bits = numpy.ascontiguousarray(values, dtype=numpy.float32).view(numpy.uint32)
    rounded = (bits + numpy.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return numpy.where(numpy.isnan(values), 0x7FC0, rounded).astype(numpy.uint16)


def write_sharded(
    directory: str, tensors: Mapping[str, NDArray[numpy.float32]], shards: int
) -> None:
    """Write ``tensors`` as bf16 into ``shards`` files of about one size, with their index."""
    names = list(tensors)
    total = sum(tensors[name].size for name in names)
    parts: list[list[str]] = [[] for _ in range(shards)]
    before = 0
    for name in names:
        parts[min(shards - 1, before * shards // total)].append(name)
        before += tensors[name].size
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        file_name = f"model-{number:05}-of-{shards:05}.safetensors"
        _write_file(os.path.join(directory, file_name), tensors, part)
        weight_map.update(dict.fromkeys(part, file_name))
    index = {"metadata": {"total_size": 2 * total}, "weight_map": weight_map}
    with open(
        os.path.join(directory, "model.safetensors.index.json"), "w", encoding="utf-8"
    ) as file:
        json.dump(index, file, indent=2)


def _write_file(
    path: str, tensors: Mapping[str, NDArray[numpy.float32]], names: Sequence[str]
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        size = 2 * tensors[name].size
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header).encode()
    # padded with spaces, so that the tensors begin at a multiple of 8
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in names:
            file.write(bfloat16_bits(tensors[name]).astype("<u2").tobytes())
