"""Test data: bit patterns of every dtype, with the awkward ones in, and pairs that differ a bit."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from tests.dtypes import DTYPES, Dtype, codes, encode, pack
from tests.writers import Tensor

#: Lengths around every lane, lane group and block of the kernels, and the smallest.
LENGTHS = (
    0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257,
    511, 512, 513, 1023, 1024, 1025, 2047, 2048, 2049,
)  # fmt: skip
CHUNK = 2**20

PRIME = 251


def fitting(length: int, *dtypes: Dtype) -> int:
    """The next length at which a tensor of each dtype ends on a byte boundary."""
    granule = max(dtype.granule for dtype in dtypes)
    return -(-length // granule) * granule


def special_codes(dtype: Dtype) -> NDArray[np.uint64]:
    """Both zeros, the ends of the subnormals and of the finite values, infinities and NaNs."""
    bits = dtype.component_bits
    if dtype.kind == "bool":
        return np.array([0, 1], np.uint64)
    if dtype.is_integer:
        top = 1 << (bits - 1)
        values = [0, 1, 2, top - 1, top, top + 1, 2 * top - 1, 2 * top - 2]
        return np.array(values, np.uint64)
    mantissa = {"F16": 10, "BF16": 7, "F32": 23, "C64": 23, "F64": 52}.get(dtype.name, 2)
    sign = 1 << (bits - 1)
    top = sign - 1
    infinity = top & ~((1 << mantissa) - 1)
    positive = [
        0, 1, 2, (1 << mantissa) - 1, 1 << mantissa, (1 << mantissa) + 1, infinity - 1, infinity,
        infinity + 1, top - 1, top,
    ]  # fmt: skip
    return np.array([p | s for p in positive for s in (0, sign)], np.uint64)


def random_codes(dtype: Dtype, count: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    """Patterns drawn evenly, so that every exponent occurs."""
    if dtype.kind == "bool":
        return rng.integers(0, 2, count, np.uint64)
    if dtype.name == "F64":
        # Magnitudes below 2**1022: their differences stay finite. Overflow has tests of its own.
        exponents = rng.integers(0, 2045, count, np.uint64) << np.uint64(52)
        mantissas = rng.integers(0, 1 << 52, count, np.uint64)
        return exponents | mantissas | (rng.integers(0, 2, count, np.uint64) << np.uint64(63))
    return rng.integers(0, 1 << dtype.component_bits, count, np.uint64, endpoint=False)


def ordinary_codes(dtype: Dtype, count: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    """What weights look like: a normal distribution, or small integers."""
    if dtype.kind == "bool":
        return rng.integers(0, 2, count, np.uint64)
    if dtype.is_integer:
        low = -3 if dtype.kind == "signed" else 0
        values = rng.integers(low, 4, count)
        return values.astype(dtype.scalar).view(dtype.code_type).astype(np.uint64)
    values = rng.normal(0, 1, count)
    if dtype.name == "F8_E8M0":
        values = np.abs(values)
    with np.errstate(all="ignore"):
        rounded = values.astype(dtype.scalar)
    return rounded.view(dtype.code_type).astype(np.uint64)


def prime_cycle(dtype: Dtype, shape: tuple[int, ...]) -> Tensor:
    """Small integers with a prime period, so that no lane sees the same value twice in a row."""
    count = prod(shape) * dtype.components
    cycle = (np.arange(count) % PRIME) % {4: 5, 6: 8, 8: 16}.get(dtype.component_bits, PRIME)
    if dtype.kind == "bool":
        cycle %= 2
    values = 2.0 ** (cycle % 7) if dtype.name == "F8_E8M0" else cycle
    return Tensor(dtype.name, shape, encode(values, dtype))


def wild(dtype: Dtype, shape: tuple[int, ...], seed: int) -> Tensor:
    """Any pattern anywhere: NaN, Inf, subnormals and extremes are common."""
    rng = np.random.default_rng(seed)
    count = prod(shape) * dtype.components
    specials = rng.choice(special_codes(dtype), count)
    kind = rng.integers(0, 3, count)
    mixed = np.select(
        [kind == 0, kind == 1],
        [random_codes(dtype, count, rng), ordinary_codes(dtype, count, rng)],
        specials,
    )
    return Tensor(dtype.name, shape, pack(mixed, dtype))


def tame(dtype: Dtype, shape: tuple[int, ...], seed: int) -> Tensor:
    """Ordinary finite weights."""
    rng = np.random.default_rng(seed)
    return Tensor(
        dtype.name, shape, pack(ordinary_codes(dtype, prod(shape) * dtype.components, rng), dtype)
    )


def perturbed(tensor: Tensor, seed: int, share: float = 0.3) -> Tensor:
    """The same tensor with a share of its components replaced or one of their bits flipped."""
    dtype = DTYPES[tensor.dtype]
    rng = np.random.default_rng(seed)
    patterns = codes(tensor.data, dtype).astype(np.uint64)
    if dtype.kind == "bool":
        flipped = patterns ^ np.uint64(1)
    else:
        bit = rng.integers(0, min(dtype.component_bits, 62), patterns.size, np.uint64)
        flipped = patterns ^ (np.uint64(1) << bit)
    replaced = np.where(
        rng.random(patterns.size) < 0.5, flipped, random_codes(dtype, patterns.size, rng)
    )
    changed = np.where(rng.random(patterns.size) < share, replaced, patterns)
    return Tensor(tensor.dtype, tensor.shape, pack(changed, dtype))
