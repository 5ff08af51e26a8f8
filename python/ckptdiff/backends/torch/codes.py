"""Elements as codes and as values: what each dtype means, told without torch's own spelling of it.

A chunk is a one-dimensional tensor of *codes*: the elements' bits as signed integers of their
width, two per complex number. Codes come from a view of a tensor or of a file's bytes, so every
dtype of every torch version can be had, on devices that lack it too. ``values`` decodes them
exactly to float64; integers of 64 bits stay integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

__all__ = ["ENCODINGS", "Encoding", "Tables", "Tensor", "codes_of", "values"]

# torch is optional, and its types are those of whatever version is there
Tensor: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Encoding:
    """One dtype. ``bits`` are those of a code, of which a complex number has two."""

    name: str
    torch_name: str
    kind: str  # "float", "signed", "unsigned" or "bool"
    bits: int
    components: int = 1
    exponent_bits: int = 0
    mantissa_bits: int = 0
    bias: int = 0
    #: the largest finite value; of a float that has no other specials than NaN, not by the formula
    largest: float = 0.0
    has_infinity: bool = True

    @property
    def code_dtype(self) -> Any:
        """torch's signed integer of a code's width."""
        return getattr(torch, f"int{self.bits}")

    @property
    def torch_dtype(self) -> Any:
        """torch's dtype, None where this version has none."""
        return getattr(torch, self.torch_name, None)

    @property
    def is_float(self) -> bool:
        """Whether codes are those of floats; complex numbers are two of them."""
        return self.kind == "float"

    @property
    def is_wide_integer(self) -> bool:
        """Whether float64 does not hold every value."""
        return not self.is_float and self.bits == 64

    @property
    def smallest_normal(self) -> float:
        """The smallest positive normal value; 0 where there are no subnormals."""
        if not self.is_float or self.mantissa_bits == 0:
            return 0.0
        return 2.0 ** (1 - self.bias)

    @property
    def fnuz(self) -> bool:
        """Whether the code of -0 is the only NaN."""
        return self.name.endswith("FNUZ")


def _ieee(
    name: str, torch_name: str, exponent_bits: int, mantissa_bits: int, components: int = 1
) -> Encoding:
    bias = 2 ** (exponent_bits - 1) - 1
    return Encoding(
        name,
        torch_name,
        "float",
        1 + exponent_bits + mantissa_bits,
        components,
        exponent_bits,
        mantissa_bits,
        bias,
        (2.0 - 2.0**-mantissa_bits) * 2.0**bias,
    )


#: Every dtype that is reduced here, by its safetensors name.
ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding
    for encoding in (
        Encoding("BOOL", "bool", "bool", 8),
        Encoding("U8", "uint8", "unsigned", 8),
        Encoding("I8", "int8", "signed", 8),
        Encoding("U16", "uint16", "unsigned", 16),
        Encoding("I16", "int16", "signed", 16),
        Encoding("U32", "uint32", "unsigned", 32),
        Encoding("I32", "int32", "signed", 32),
        Encoding("U64", "uint64", "unsigned", 64),
        Encoding("I64", "int64", "signed", 64),
        _ieee("F16", "float16", 5, 10),
        _ieee("BF16", "bfloat16", 8, 7),
        _ieee("F32", "float32", 8, 23),
        _ieee("F64", "float64", 11, 52),
        _ieee("C64", "complex64", 8, 23, 2),
        _ieee("C128", "complex128", 11, 52, 2),
        Encoding("F8_E4M3", "float8_e4m3fn", "float", 8, 1, 4, 3, 7, 448.0, False),
        _ieee("F8_E5M2", "float8_e5m2", 5, 2),
        Encoding("F8_E4M3FNUZ", "float8_e4m3fnuz", "float", 8, 1, 4, 3, 8, 240.0, False),
        Encoding("F8_E5M2FNUZ", "float8_e5m2fnuz", "float", 8, 1, 5, 2, 16, 57344.0, False),
        Encoding("F8_E8M0", "float8_e8m0fnu", "float", 8, 1, 8, 0, 127, 2.0**127, False),
    )
}


def codes_of(chunk: Tensor, encoding: Encoding) -> Tensor:
    """The codes of a contiguous, one-dimensional tensor, in place."""
    if encoding.components == 2:
        chunk = torch.view_as_real(chunk).reshape(-1)
    return chunk.view(encoding.code_dtype)


class Tables:
    """The values of 8-bit floats by code, made once per run for its device."""

    def __init__(self, device: Any, dtype: Any) -> None:
        self._device = device
        self._dtype = dtype
        self._tables: dict[str, Tensor] = {}

    def of(self, encoding: Encoding) -> Tensor:
        """256 values, in the order of the codes as unsigned integers."""
        if encoding.name not in self._tables:
            values = [_value(encoding, code) for code in range(256)]
            table = torch.tensor(values, dtype=self._dtype, device=self._device)
            self._tables[encoding.name] = table
        return self._tables[encoding.name]


def _value(encoding: Encoding, code: int) -> float:
    """What a code of an 8-bit float means, by the definition of the encoding."""
    if encoding.name == "F8_E8M0":
        return float("nan") if code == 255 else 2.0 ** (code - encoding.bias)
    sign = -1.0 if code & 128 else 1.0
    mantissa = code & ((1 << encoding.mantissa_bits) - 1)
    exponent = (code & 127) >> encoding.mantissa_bits
    if encoding.fnuz:
        if code == 128:
            return float("nan")
    elif encoding.has_infinity:
        if exponent == (1 << encoding.exponent_bits) - 1:
            return float("nan") if mantissa else sign * float("inf")
    elif code & 127 == 127:
        return float("nan")
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - encoding.bias - encoding.mantissa_bits)
    return sign * (1 + mantissa / (1 << encoding.mantissa_bits)) * 2.0 ** (exponent - encoding.bias)


def values(codes: Tensor, encoding: Encoding, tables: Tables) -> Tensor:
    """The values of codes in float64, exact for every dtype but integers of 64 bits."""
    if encoding.kind == "bool":
        return (codes != 0).to(torch.float64)
    if encoding.kind == "signed":
        return codes.to(torch.float64)
    if encoding.kind == "unsigned":
        return unsigned(codes, encoding).to(torch.float64)
    if encoding.bits == 8:
        return tables.of(encoding).index_select(0, unsigned(codes, encoding))
    name = {16: encoding.torch_name, 32: "float32", 64: "float64"}[encoding.bits]
    return codes.view(getattr(torch, name)).to(torch.float64)


def unsigned(codes: Tensor, encoding: Encoding) -> Tensor:
    """Codes of up to 32 bits as the integers they are without a sign."""
    wider = torch.int64 if encoding.bits == 32 else torch.int32
    return codes.to(wider) & ((1 << encoding.bits) - 1)
