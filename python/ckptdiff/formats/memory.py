"""Tensors in memory: a mapping of names to numpy arrays or torch tensors, described, not copied.

The core reads such a tensor where it lies, by address, shape and byte strides, so a transposed or
sliced view needs no copy. torch is never imported: a torch tensor can only exist where somebody
else has imported it. ml_dtypes is not needed either, its dtypes are told by their names. A tensor
on a device, or spread over processes (DTensor), is described without an address, and kept for
:mod:`ckptdiff.backends.torch`. What cannot be read in place (sparse, quantised, byte-swapped) is
refused by name.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ckptdiff._core import Manifest
from ckptdiff.checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy

__all__ = ["ModuleState", "open_mapping", "open_state"]

# (name, dtype, shape, byte strides, address or None), as Manifest.from_memory takes it
_Description = tuple[str, str, Sequence[int], Sequence[int], int | None]

# numpy's and torch's spelling of a dtype -> the safetensors name. Both spell most alike.
_DTYPES: dict[str, str] = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "complex128": "C128",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}

# torch packs two 4-bit floats in a byte, as safetensors does.
_TORCH_PACKED_F4 = "float4_e2m1fn_x2"

# ml_dtypes keeps each of these in a byte of its own, which no safetensors dtype means.
_ML_DTYPES_UNPACKED = ("float4_", "float6_", "int4", "uint4", "int2", "uint2", "int1", "uint1")


def open_mapping(tensors: Mapping[str, object]) -> Checkpoint:
    """Describe a mapping of names to numpy arrays, numpy scalars or torch tensors.

    The arrays must not be written to while a diff or stats of the checkpoint runs.

    Raises TypeError for a key that is no string, for a value that is no array, and for a dtype,
    device or layout whose elements cannot be read in place; the message names the tensor.
    """
    owners: list[object] = []
    descriptions: list[_Description] = []
    elsewhere: dict[str, object] = {}
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"tensor names must be strings, not {type(name).__name__}: {name!r}")
        owner, description = _describe(name, value)
        owners.append(owner)
        descriptions.append(description)
        if description[-1] is None:
            elsewhere[name] = owner
    return Checkpoint(
        Manifest.from_memory(descriptions, owners),
        path=None,
        format="memory",
        device_tensors=elsewhere,
    )


class ModuleState(dict[str, object]):
    """The state dict of a torch module, which can have more in it than tensors."""


def open_state(state: ModuleState) -> Checkpoint:
    """Describe a module's state: as a mapping, but what has no elements to compare is left out.

    That is what ``get_extra_state`` of some module gives, and the packed weights of quantised ones.
    The checkpoint has a note of each.
    """
    tensors: dict[str, object] = {}
    notes = []
    torch = sys.modules["torch"]
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            notes.append(f"{name!r} of the module is left out: a {type(value).__name__}, no tensor")
        elif getattr(value, "is_quantized", False):
            notes.append(f"{name!r} of the module is left out: it is quantised")
        else:
            tensors[name] = value
    opened = open_mapping(tensors)
    return Checkpoint(
        opened.manifest,
        path=None,
        format=opened.format,
        notes=notes,
        device_tensors=opened.device_tensors,
    )


def _describe(name: str, value: object) -> tuple[object, _Description]:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _describe_torch(name, value)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, numpy.generic):
            value = numpy.asarray(value)
        if isinstance(value, numpy.ndarray):
            return value, _describe_numpy(name, value)
    hint = "; flatten nested mappings to dotted names" if isinstance(value, Mapping) else ""
    kind = type(value).__name__
    raise TypeError(f"tensor {name!r} is a {kind}, neither a numpy array nor a torch tensor{hint}")


def _describe_numpy(name: str, array: numpy.ndarray[Any, Any]) -> _Description:
    if hasattr(array, "mask"):
        raise TypeError(f"tensor {name!r} is a masked array; fill it first (array.filled())")
    spelling = array.dtype.name
    if not array.dtype.isnative:
        raise TypeError(
            f"tensor {name!r} has byte-swapped elements ({array.dtype.str}); "
            "convert it first (array.astype(array.dtype.newbyteorder('=')))"
        )
    dtype = _DTYPES.get(spelling)
    if dtype is None:
        if spelling.startswith(_ML_DTYPES_UNPACKED):
            raise TypeError(
                f"tensor {name!r} has dtype {spelling}, which keeps one element per byte in memory "
                "where checkpoints pack them; convert it first (array.astype('float32'))"
            )
        raise TypeError(f"tensor {name!r} has dtype {spelling}, which no checkpoint format has")
    address: int = array.__array_interface__["data"][0]
    return name, dtype, array.shape, array.strides, address


def _describe_torch(name: str, tensor: Any) -> tuple[object, _Description]:
    """Describe a torch tensor; the first item keeps its memory alive."""
    spelling = str(tensor.dtype).removeprefix("torch.")
    if _is_spread(tensor):
        return tensor, _describe_elsewhere(name, tensor, spelling)
    tensor = tensor.detach()
    if tensor.is_quantized:
        raise TypeError(f"tensor {name!r} is quantised; dequantise it first (tensor.dequantize())")
    if str(tensor.layout) != "torch.strided":
        layout = str(tensor.layout).removeprefix("torch.")
        raise TypeError(f"tensor {name!r} is {layout}; make it dense first (tensor.to_dense())")
    if tensor.device.type == "meta":
        raise TypeError(f"tensor {name!r} is on the meta device and holds no values")
    if tensor.device.type != "cpu":
        return tensor, _describe_elsewhere(name, tensor, spelling)
    if tensor.is_conj():
        tensor = tensor.resolve_conj()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    try:
        address = tensor.data_ptr()
    except RuntimeError:
        # what a fake or wrapper tensor answers
        address = 0
    if address == 0 and tensor.numel() > 0:
        raise TypeError(f"tensor {name!r} ({type(tensor).__name__}) has no memory of its own")
    shape = tuple(tensor.shape)
    if spelling == _TORCH_PACKED_F4:
        return tensor, _describe_packed_f4(name, tensor, shape, address)
    dtype = _DTYPES.get(spelling)
    if dtype is None:
        raise TypeError(f"tensor {name!r} has dtype {spelling}, which no checkpoint format has")
    size = tensor.element_size()
    strides = tuple(stride * size for stride in tensor.stride())
    return tensor, (name, dtype, shape, strides, address)


def _is_spread(tensor: Any) -> bool:
    """Whether processes have a part of the tensor each; nobody has one without its module."""
    if "torch.distributed.tensor" not in sys.modules and not hasattr(tensor, "local_shards"):
        return False
    from ckptdiff.backends.torch.shards import is_sharded

    return is_sharded(tensor)


def _describe_elsewhere(name: str, tensor: Any, spelling: str) -> _Description:
    dtype = _DTYPES.get(spelling)
    if dtype is None:
        hint = "; move it to the host first (tensor.cpu())" if spelling == _TORCH_PACKED_F4 else ""
        raise TypeError(
            f"tensor {name!r} has dtype {spelling}, which is not reduced where it is{hint}"
            if hint
            else f"tensor {name!r} has dtype {spelling}, which no checkpoint format has"
        )
    shape = tuple(tensor.size())
    return name, dtype, shape, (0,) * len(shape), None


def _describe_packed_f4(
    name: str, tensor: Any, shape: tuple[int, ...], address: int
) -> _Description:
    """Two elements to a byte: the last dimension counts twice, and no stride can express half.

    So only contiguous tensors are taken, and the core does not look at the strides.
    """
    if not shape:
        raise TypeError(f"tensor {name!r} is a 0-d packed tensor, whose element count is unclear")
    if not tensor.is_contiguous():
        raise TypeError(
            f"tensor {name!r} is packed and not contiguous; copy it first (tensor.contiguous())"
        )
    return name, "F4", (*shape[:-1], shape[-1] * 2), tensor.stride(), address
