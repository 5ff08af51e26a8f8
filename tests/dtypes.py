"""The dtypes of the safetensors format, decoded independently of the package.

numpy and ml_dtypes know every scalar; the two packed kinds are unpacked here, bit by bit:
F4 holds the earlier element in the lower half of a byte, F6 holds element ``i`` in the bits
``6 i .. 6 i + 6`` of the little-endian bit string.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Kind = Literal["bool", "unsigned", "signed", "float", "complex"]


@dataclass(frozen=True)
class Dtype:
    """One dtype: ``bits`` per element as stored, ``scalar`` the numpy type of one component."""

    name: str
    bits: int
    kind: Kind
    scalar: np.dtype

    @property
    def is_integer(self) -> bool:
        return self.kind in ("bool", "unsigned", "signed")

    @property
    def is_complex(self) -> bool:
        return self.kind == "complex"

    @property
    def components(self) -> int:
        """Numbers per element: two for complex, one otherwise."""
        return 2 if self.is_complex else 1

    @property
    def component_bits(self) -> int:
        return self.bits // self.components

    @property
    def code_type(self) -> np.dtype:
        """The unsigned integer that holds the bit pattern of one component."""
        return np.dtype(f"<u{max(1, self.component_bits // 8)}")

    @property
    def granule(self) -> int:
        """A tensor's length must be a multiple of this to end on a byte boundary."""
        return {4: 2, 6: 4}.get(self.bits, 1)

    def nbytes(self, numel: int) -> int:
        assert numel * self.bits % 8 == 0, (self.name, numel)
        return numel * self.bits // 8


DTYPES: dict[str, Dtype] = {
    dtype.name: dtype
    for dtype in (
        Dtype("BOOL", 8, "bool", np.dtype("?")),
        Dtype("U8", 8, "unsigned", np.dtype("<u1")),
        Dtype("I8", 8, "signed", np.dtype("<i1")),
        Dtype("U16", 16, "unsigned", np.dtype("<u2")),
        Dtype("I16", 16, "signed", np.dtype("<i2")),
        Dtype("U32", 32, "unsigned", np.dtype("<u4")),
        Dtype("I32", 32, "signed", np.dtype("<i4")),
        Dtype("U64", 64, "unsigned", np.dtype("<u8")),
        Dtype("I64", 64, "signed", np.dtype("<i8")),
        Dtype("F16", 16, "float", np.dtype("<f2")),
        Dtype("BF16", 16, "float", np.dtype(ml_dtypes.bfloat16)),
        Dtype("F32", 32, "float", np.dtype("<f4")),
        Dtype("F64", 64, "float", np.dtype("<f8")),
        Dtype("C64", 64, "complex", np.dtype("<f4")),
        Dtype("F8_E4M3", 8, "float", np.dtype(ml_dtypes.float8_e4m3fn)),
        Dtype("F8_E5M2", 8, "float", np.dtype(ml_dtypes.float8_e5m2)),
        Dtype("F8_E4M3FNUZ", 8, "float", np.dtype(ml_dtypes.float8_e4m3fnuz)),
        Dtype("F8_E5M2FNUZ", 8, "float", np.dtype(ml_dtypes.float8_e5m2fnuz)),
        Dtype("F8_E8M0", 8, "float", np.dtype(ml_dtypes.float8_e8m0fnu)),
        Dtype("F4", 4, "float", np.dtype(ml_dtypes.float4_e2m1fn)),
        Dtype("F6_E2M3", 6, "float", np.dtype(ml_dtypes.float6_e2m3fn)),
        Dtype("F6_E3M2", 6, "float", np.dtype(ml_dtypes.float6_e3m2fn)),
    )
}

FLOATS = tuple(dtype for dtype in DTYPES.values() if dtype.kind == "float")
INTEGERS = tuple(dtype for dtype in DTYPES.values() if dtype.is_integer)


def codes(data: bytes, dtype: Dtype) -> NDArray[np.unsignedinteger]:
    """The bit pattern of every component, in order, as unsigned integers."""
    if dtype.bits % 8 == 0:
        return np.frombuffer(data, dtype.code_type)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    weights = (1 << np.arange(dtype.bits)).astype(np.uint8)
    return bits.reshape(-1, dtype.bits) @ weights


def pack(patterns: NDArray[np.unsignedinteger], dtype: Dtype) -> bytes:
    """The bytes of these bit patterns: the inverse of :func:`codes`."""
    patterns = np.asarray(patterns)
    if dtype.bits % 8 == 0:
        return patterns.astype(dtype.code_type).tobytes()
    bits = (patterns.astype(np.uint8)[:, None] >> np.arange(dtype.bits)) & 1
    return np.packbits(bits.ravel(), bitorder="little").tobytes()


def scalars(data: bytes, dtype: Dtype) -> NDArray[np.generic]:
    """Every component as its numpy scalar type; any non-zero byte of a BOOL is true."""
    if dtype.kind == "bool":
        return np.frombuffer(data, np.uint8) != 0
    return codes(data, dtype).view(dtype.scalar)


def encode(values: NDArray[np.generic], dtype: Dtype) -> bytes:
    """Round real numbers (components, for complex) to the dtype and pack them."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.ascontiguousarray(np.asarray(values).astype(dtype.scalar))
    return pack(rounded.view(dtype.code_type), dtype)


def largest_finite(dtype: Dtype) -> int | float:
    """The largest finite value of a dtype."""
    if dtype.kind == "bool":
        return 1
    if dtype.is_integer:
        return int(np.iinfo(dtype.scalar).max)
    return float(ml_dtypes.finfo(dtype.scalar).max)


def smallest_normal(dtype: Dtype) -> float:
    """The smallest positive normal value of a float dtype; below it lie the subnormals."""
    return float(ml_dtypes.finfo(dtype.scalar).smallest_normal)
