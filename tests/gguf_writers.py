"""GGUF files: by the gguf package as llama.cpp's converter uses it, and byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from numpy.typing import NDArray

from tests.writers import Tensor

Arrays = Mapping[str, NDArray[np.generic]]

#: Every type whose elements share a scale that the package decodes.
QUANTISED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
             "MXFP4")  # fmt: skip
#: Where F16 scales stand in a block.
SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
          "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
          "MXFP4": ()}  # fmt: skip

#: Types that safetensors has too.
PLAIN = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")


def blocks_of(kind: str, count: int) -> tuple[int, int]:
    """How many blocks ``count`` elements are, and the bytes of one."""
    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    assert count % elements == 0, (kind, count)
    return count // elements, size


def random_blocks(kind: str, shape: tuple[int, ...], seed: int, *, wild: bool) -> NDArray[np.uint8]:
    """Valid blocks, as bytes by rows; any bytes at all where ``wild``, else ordinary weights."""
    rng = np.random.default_rng(seed)
    count, size = blocks_of(kind, int(np.prod(shape)))
    raw = rng.integers(0, 256, (count, size), dtype=np.uint8)
    special = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00,
                        0x7E00, 0xFE01, 0x3C00], "<u2")  # fmt: skip
    for position in SCALES[kind]:
        if wild:
            codes = np.where(
                rng.random(count) < 0.5,
                rng.choice(special, count),
                raw[:, position : position + 2].copy().view("<u2")[:, 0],
            )
        else:
            codes = rng.normal(0, 0.01, count).astype("<f2").view("<u2")
        raw[:, position : position + 2] = codes.astype("<u2")[:, None].view(np.uint8)
    if kind == "MXFP4" and not wild:
        raw[:, 0] = 120 + raw[:, 0] % 4
    rows = int(np.prod(shape[:-1]))
    return raw.reshape(*shape[:-1], count * size // rows)


def dequantised(kind: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the gguf package makes of blocks."""
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(raw, GGMLQuantizationType[kind])


def as_float32(values: NDArray[np.float32]) -> Tensor:
    return Tensor("F32", values.shape, np.ascontiguousarray(values).tobytes())


def add(writer: GGUFWriter, name: str, kind: str, values: NDArray[np.generic]) -> None:
    """Add a tensor: ``values`` are the blocks' bytes of a quantised type, else the elements."""
    quantisation = GGMLQuantizationType[kind]
    writer.add_tensor(name, values, raw_dtype=quantisation if values.dtype == np.uint8 else None)


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf(
    path: Path,
    tensors: Mapping[str, tuple[str, NDArray[np.generic]]],
    *,
    architecture: str = "none",
    settle: Callable[[GGUFWriter], None] = lambda writer: None,
    **options: int,
) -> Path:
    """A file of tensors, each a (type, values) as :func:`add` takes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture, **options)
    settle(writer)
    for name, (kind, values) in tensors.items():
        add(writer, name, kind, values)
    finish(writer)
    return path


def plain(tensor: Tensor) -> tuple[str, NDArray[np.generic]]:
    """A tensor as :func:`write_gguf` takes it."""
    scalars = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4",
               "I64": "<i8"}  # fmt: skip
    if tensor.dtype == "BF16":
        # the package knows no array of bfloat16: bytes by rows, as of a quantised type
        return "BF16", np.frombuffer(tensor.data, np.uint8).reshape(*tensor.shape[:-1], -1)
    array = np.frombuffer(tensor.data, scalars[tensor.dtype]).reshape(tensor.shape)
    return tensor.dtype, array


# -- byte by byte ---------------------------------------------------------------------------------


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def uint32(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def array(key: str, kind: int, count: int, items: bytes = b"") -> bytes:
    return text(key) + struct.pack("<IIQ", 9, kind, count) + items


class Info(NamedTuple):
    """What a header says of a tensor; ``dimensions`` with the fastest first."""

    name: str | bytes = "w"
    dimensions: Sequence[int] = (2,)
    kind: int = 0
    offset: int = 0
    rank: int | None = None

    def packed(self) -> bytes:
        rank = len(self.dimensions) if self.rank is None else self.rank
        head = text(self.name) + struct.pack("<I", rank)
        head += b"".join(struct.pack("<Q", size) for size in self.dimensions)
        return head + struct.pack("<IQ", self.kind, self.offset)


def write_raw_gguf(
    path: Path,
    infos: Sequence[Info] = (Info(),),
    pairs: Sequence[bytes] = (),
    data: bytes = struct.pack("<2f", 1, 2),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensor_count: int | None = None,
    pair_count: int | None = None,
    alignment: int = 32,
) -> Path:
    """A file of these parts, whose counts can be made to lie."""
    tensors = len(infos) if tensor_count is None else tensor_count
    count = len(pairs) if pair_count is None else pair_count
    head = magic + struct.pack("<IQQ", version, tensors, count)
    head += b"".join(pairs) + b"".join(info.packed() for info in infos)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + bytes(-len(head) % alignment) + data)
    return path
