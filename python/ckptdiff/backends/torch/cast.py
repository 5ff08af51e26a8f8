"""Rounding to a float dtype as the core does it: to nearest, ties to even, straight from the value.

torch's own conversions from float64 to 16 and 8 bits go through float32 and round twice, and some
saturate where others overflow. So values are rounded here to the target's grid in float64, which is
exact up to that one rounding, and torch only stores what it can store exactly.
"""

from __future__ import annotations

import torch

from ckptdiff.backends.torch.arithmetic import power_of_two, unsigned_floats
from ckptdiff.backends.torch.codes import Encoding, Tables, Tensor, values

__all__ = ["cast"]


def cast(codes: Tensor, source: Encoding, target: Encoding, tables: Tables) -> Tensor:
    """The codes of ``target`` nearest to the values of these codes.

    What exceeds the largest finite value becomes Inf, or NaN where the dtype has no Inf. A NaN
    keeps its sign where the target has one for it, and its payload in 32 and 64 bits.
    """
    if source.name == target.name:
        return codes
    if source.is_wide_integer:
        exact = _rounded_to_odd(codes, source) if target.bits < 64 else _nearest(codes, source)
    else:
        exact = values(codes, source, tables)
    if target.bits >= 32:
        rounded = exact if target.bits == 64 else exact.to(torch.float32)
        rounded = rounded.view(target.code_dtype)
        if not source.is_float:
            return rounded
        return torch.where(torch.isnan(exact), _nan_codes(codes, source, target), rounded)
    return _small_codes(exact, codes, source, target)


def _small_codes(exact: Tensor, codes: Tensor, source: Encoding, target: Encoding) -> Tensor:
    """Codes of 16 or 8 bits, put together from sign, exponent and mantissa."""
    finite = torch.isfinite(exact)
    magnitude = torch.where(finite, exact, 0.0).abs()
    lowest = 1 - target.bias
    # the biased exponent of float64, which for its subnormals is below that of any target
    exponent = ((magnitude.view(torch.int64) >> 52) & 0x7FF) - 1023
    exponent = exponent.clamp(min=lowest, max=target.bias + 2)
    step = power_of_two(exponent - target.mantissa_bits)
    # beyond the target's range the steps are too small and too many, which is as good
    steps = torch.round((magnitude / step).clamp(max=2.0**53)).to(torch.int64)
    # the implicit one carries into the exponent field, as does a mantissa that rounds up
    code = ((exponent - lowest) << target.mantissa_bits) + steps
    all_ones = (1 << (target.bits - 1)) - 1
    sign_bit = 1 << (target.bits - 1)
    if target.fnuz:
        infinity = not_a_number = sign_bit
        largest = all_ones
    elif target.has_infinity:
        infinity = all_ones ^ ((1 << target.mantissa_bits) - 1)
        not_a_number = infinity | (1 << (target.mantissa_bits - 1))
        largest = infinity - 1
    else:
        infinity = not_a_number = all_ones
        largest = all_ones - 1
    code = torch.where(~finite | (code > largest), infinity, code)
    code = torch.where(torch.isnan(exact), not_a_number, code)
    negative = _is_negative(codes, source)
    if target.fnuz:
        negative = negative & (code != 0) & (code != not_a_number)
    code = torch.where(negative, code | sign_bit, code)
    # to the signed integer of the same bits
    code = torch.where(code >= sign_bit, code - 2 * sign_bit, code)
    return code.to(target.code_dtype)


def _nan_codes(codes: Tensor, source: Encoding, target: Encoding) -> Tensor:
    """What NaNs of these codes become: quiet, with their payload, which not all devices keep."""
    payload = torch.zeros_like(codes, dtype=torch.int64)
    if source.has_infinity:  # without it, there is but one NaN of a sign
        payload = codes.to(torch.int64) & ((1 << source.mantissa_bits) - 1)
        shift = target.mantissa_bits - source.mantissa_bits
        payload = payload << shift if shift >= 0 else payload >> -shift
    exponent = (1 << target.exponent_bits) - 1
    quiet = (exponent << target.mantissa_bits) | (1 << (target.mantissa_bits - 1))
    # the sign bit of a signed integer is its lowest value
    sign = torch.where(_is_negative(codes, source), -(1 << (target.bits - 1)), 0)
    return (payload | quiet | sign).to(target.code_dtype)


def _is_negative(codes: Tensor, source: Encoding) -> Tensor:
    """Whether the sign is minus, of NaN and zeros too, which arithmetic would not tell."""
    if source.kind in ("unsigned", "bool") or source.name == "F8_E8M0":
        return torch.zeros_like(codes, dtype=torch.bool)
    return codes < 0


def _nearest(codes: Tensor, source: Encoding) -> Tensor:
    """The nearest float64 of 64-bit integers."""
    if source.kind == "signed":
        return codes.to(torch.float64)
    return unsigned_floats(codes)


def _rounded_to_odd(codes: Tensor, source: Encoding) -> Tensor:
    """64-bit integers as float64 with the last bit set where they are not exact.

    Rounding the result to fewer bits is the same as rounding the integer (Boldo & Melquiond,
    "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
    """
    negative = codes < 0 if source.kind == "signed" else torch.zeros_like(codes, dtype=torch.bool)
    magnitude = torch.where(negative, -codes, codes)
    # 53 bits hold what is below; above, eleven bits and more can go, as no target has so many
    small = (magnitude >= 0) & (magnitude < 2**53)
    kept = magnitude & ~0x7FF
    odd = kept | torch.where((magnitude & 0x7FF) != 0, 0x800, 0)
    magnitude = torch.where(small, magnitude, odd)
    value = unsigned_floats(magnitude)
    return torch.where(negative, -value, value)
