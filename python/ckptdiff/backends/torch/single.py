"""Floats where there is no float64 (MPS, some XPUs): bits, pairs of float32, and trees of them.

Such devices may take subnormals for zeros, in comparisons too (Metal does), so what is counted or
compared is told from the bits of float32, as integers. A difference or product is kept as a *pair*
of float32, the rounded result and what rounding left out, which are found without error:

- a sum by Knuth's TwoSum (The Art of Computer Programming, volume 2, 4.2.2),
- a product by Dekker's, with heads of 12 bits cut off by a mask ("A floating-point technique for
  extending the available precision", Numerische Mathematik 18, 1971).

Pairs are added in trees, rows of 1024 at a time, the left-out parts beside them; the sums of the
rows go to the host, which adds them in float64. Each operation is one of torch's own, so no
compiler sees enough to simplify them away. Integers are never given to ``abs``, which on MPS went
through float32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence

import torch

from ckptdiff.backends.torch.codes import ENCODINGS, Encoding, Tables, Tensor

__all__ = [
    "INFINITY_BITS",
    "LARGEST_BITS",
    "SIGN",
    "bits_of",
    "exponent_of",
    "first_index",
    "float_bits",
    "float_of",
    "folded",
    "has_values",
    "in_order",
    "is_at_risk",
    "power_of_two",
    "rows_of",
    "two_product",
    "two_sum",
    "value_in_order",
]

Pair = tuple[Tensor, Tensor]

#: Terms of a tree.
_ROW = 1024

SIGN = -(2**31)
LARGEST_BITS = 2**31 - 1
INFINITY_BITS = 0x7F800000

#: Integers up to here are float32.
_LARGEST_INTEGER = 2**24

#: Exponents of the largest magnitude of a chunk between which nothing overflows, and what is lost
#: below is nothing beside it.
_LEAST, _MOST = -60, 125

#: The bits of the head of a product's factor.
_HEAD = -(2**12)


def has_values(dtype: str) -> bool:
    """Whether float32 holds the values of a dtype, integers of up to 24 bits, as normal numbers."""
    encoding = ENCODINGS.get(dtype)
    if encoding is None or encoding.name == "F8_E8M0":
        return False
    return encoding.bits < 64 or not encoding.is_float


def bits_of(codes: Tensor, encoding: Encoding, tables: Tables) -> Pair:
    """The bits of the values in float32, and whether any is an integer that is no float32."""
    none = torch.zeros((), dtype=torch.bool, device=codes.device)
    if not encoding.is_float:
        beyond = None
        if encoding.kind == "bool":
            integers = codes != 0
        elif encoding.bits <= 16:
            integers = codes.to(torch.int32)
            if encoding.kind == "unsigned":
                integers = integers & ((1 << encoding.bits) - 1)
        else:
            # without a sign, what looks negative is larger still
            lowest = -_LARGEST_INTEGER if encoding.kind == "signed" else 0
            beyond = (codes > _LARGEST_INTEGER) | (codes < lowest)
            integers = torch.where(beyond, 0, codes)
        bits = integers.to(torch.float32).view(torch.int32)
        return bits, none if beyond is None else beyond.any()
    if encoding.bits == 32:
        return codes, none
    if encoding.bits == 8:
        table = tables.of(encoding).view(torch.int32)
        return table.index_select(0, codes.to(torch.int32) & 0xFF), none
    wide = codes.to(torch.int32)
    if encoding.name == "BF16":
        return wide << 16, none
    return _bits_of_half(wide), none


def _bits_of_half(codes: Tensor) -> Tensor:
    """F16 to F32, whose exponents have a bias that is larger by 112."""
    exponent = codes & 0x7C00
    bits = ((codes & 0x7FFF) << 13) + (112 << 23)
    bits = torch.where(exponent == 0x7C00, bits + (112 << 23), bits)
    subnormal = ((codes & 0x3FF).to(torch.float32) * 2.0**-24).view(torch.int32)
    # the codes are signed, so their sign bit stands where that of 32 bits is, too
    return torch.where(exponent == 0, subnormal, bits) | (codes & SIGN)


def in_order(bits: Tensor) -> Tensor:
    """Bits as integers in the order of the values, both zeros as 0."""
    return torch.where(bits < 0, SIGN - bits, bits)


def value_in_order(order: Tensor) -> Tensor:
    """The float32 of what :func:`in_order` made."""
    return torch.where(order < 0, SIGN - order, order).view(torch.float32)


def float_bits(value: float) -> int:
    """The bits of a Python float that is a float32."""
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    return int(bits)


def float_of(bits: int) -> float:
    """The value of bits; their sign may be that of an integer of any width."""
    (value,) = struct.unpack("<f", struct.pack("<I", bits & 0xFFFFFFFF))
    return float(value)


def first_index(where: Tensor) -> Tensor:
    """The first index at which something is true; torch promises no order of equals."""
    positions = torch.arange(where.numel(), dtype=torch.int32, device=where.device)
    return torch.where(where, positions, where.numel() - 1).amin()


def exponent_of(largest: Tensor) -> Tensor:
    """What to scale a chunk by whose largest magnitude has these bits."""
    exponent = (largest >> 23) - 127
    return torch.where(largest <= 0, 0, exponent).clamp(_LEAST, _MOST)


def is_at_risk(largest: Tensor) -> Tensor:
    """Whether a chunk whose largest magnitude has these bits is beyond what is safe to scale."""
    low, high = float_bits(2.0**_LEAST), float_bits(2.0 ** (_MOST + 1))
    return ((largest > 0) & (largest < low)) | (largest >= high)


def power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent in float32."""
    return ((exponent + 127) << 23).view(torch.float32)


def two_sum(a: Tensor, b: Tensor) -> Pair:
    """a + b, and what its rounding left out."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def two_product(a: Tensor, b: Tensor) -> Pair:
    """a * b, and what its rounding left out."""
    product = a * b
    head_a, head_b = _head(a), _head(b)
    tail_a, tail_b = a - head_a, b - head_b
    left = head_a * head_b - product
    left = left + head_a * tail_b
    left = left + tail_a * head_b
    return product, left + tail_a * tail_b


def _head(values: Tensor) -> Tensor:
    return (values.view(torch.int32) & _HEAD).view(torch.float32)


def rows_of(pairs: Iterable[Pair], count: int, size: int) -> Tensor:
    """The sums of rows of each of ``count`` vectors of ``size`` pairs, for :func:`folded`.

    The vectors are taken one by one, so that a generator need not hold them all.
    """
    rows = -(-size // _ROW)
    heads = tails = None
    for number, (head, tail) in enumerate(pairs):
        if heads is None or tails is None:
            heads, tails = (head.new_zeros((count, rows * _ROW)) for _ in range(2))
        heads[number, :size] = head
        tails[number, :size] = tail
    assert heads is not None
    assert tails is not None
    heads, tails = (part.view(count, rows, _ROW) for part in (heads, tails))
    width = _ROW
    while width > 1:
        width //= 2
        tails = tails[..., :width] + tails[..., width:]
        heads, left = two_sum(heads[..., :width], heads[..., width:])
        tails = tails + left
    return torch.cat([heads.reshape(-1), tails.reshape(-1)])


def folded(sums: Sequence[float], count: int) -> list[float]:
    """The totals of ``count`` vectors from the sums of their rows."""
    rows = len(sums) // (2 * count)
    tails = rows * count
    return [
        math.fsum((*sums[at : at + rows], *sums[tails + at : tails + at + rows]))
        for at in range(0, tails, rows)
    ]
