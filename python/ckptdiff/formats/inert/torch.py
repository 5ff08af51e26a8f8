"""Stand-ins for what torch pickles: storages, dtypes, and the functions that rebuild tensors.

A tensor's parts are kept as the pickle has them and not looked at. The reader checks them, since it
knows the tensor's name, and can say which tensor is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ckptdiff.formats.inert.machine import Constructor, inert_class, inert_classes
from ckptdiff.formats.inert.plain import PLAIN

__all__ = [
    "TORCH",
    "TORCHSCRIPT",
    "DType",
    "Storage",
    "StorageType",
    "StoredTensor",
    "UnsupportedTensor",
    "sharing_shapes",
]


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """A torch dtype: its name, the safetensors name where there is one, and bytes per element.

    ``bytes`` is 0 where elements do not take whole bytes, and for dtypes of no known layout.
    """

    name: str
    safetensors: str | None
    bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class StorageType:
    """A storage class; ``dtype`` is None for the untyped one, whose elements are bytes."""

    name: str
    dtype: DType | None


class Storage:
    """Bytes that tensors are views of, as a persistent id names them.

    ``elements`` from the element ``first`` of the bytes that are kept under ``key``; ``offset`` and
    ``size`` are where these lie in the file, -1 until it has been found. A key can be used with
    several dtypes or parts: those share the place of the ``base``, the first of them.
    """

    __slots__ = ("base", "elements", "first", "key", "kind", "offset", "size", "views")

    def __init__(self, kind: StorageType, key: str, elements: int, first: int = 0) -> None:
        self.kind = kind
        self.key = key
        self.elements = elements
        self.first = first
        self.base = self
        self.offset = -1
        self.size = -1
        #: how many tensors are views of this key's bytes, once a reader has counted them
        self.views = 0

    @property
    def element_bytes(self) -> int:
        """Bytes of an element; 0 where several share a byte."""
        return 1 if self.kind.dtype is None else self.kind.dtype.bytes


class StoredTensor:
    """A view of a storage; ``dtype`` is None where it is the storage's. Nothing is checked."""

    __slots__ = ("dtype", "flags", "offset", "shape", "storage", "stride")

    def __init__(
        self,
        storage: object,
        offset: object,
        shape: object,
        stride: object,
        dtype: object = None,
        flags: object = None,
    ) -> None:
        self.storage = storage
        self.offset = offset
        self.shape = shape
        self.stride = stride
        self.dtype = dtype
        # {"conj": True} or {"neg": True}: the values are not quite those of the storage
        self.flags = flags


@dataclass(frozen=True, slots=True, eq=False)
class UnsupportedTensor:
    """A tensor that is no strided view of a storage: what it is, and the shape it claims."""

    what: str
    shape: object


def _dtypes() -> dict[str, DType]:
    known = {
        "float64": ("F64", 8), "float32": ("F32", 4), "float16": ("F16", 2),
        "bfloat16": ("BF16", 2), "complex64": ("C64", 8), "complex128": ("C128", 16),
        "int64": ("I64", 8), "int32": ("I32", 4), "int16": ("I16", 2), "int8": ("I8", 1),
        "uint64": ("U64", 8), "uint32": ("U32", 4), "uint16": ("U16", 2), "uint8": ("U8", 1),
        "bool": ("BOOL", 1), "float8_e4m3fn": ("F8_E4M3", 1), "float8_e5m2": ("F8_E5M2", 1),
        "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1), "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1),
        "float8_e8m0fnu": ("F8_E8M0", 1), "float4_e2m1fn_x2": ("F4", 1),
    }  # fmt: skip
    sizes = {
        "complex32": 4, "bcomplex32": 4, "bits8": 1, "bits16": 2, "bits1x8": 1, "bits2x4": 1,
        "bits4x2": 1, "qint8": 1, "quint8": 1, "qint32": 4, "quint4x2": 0, "quint2x4": 0,
    }  # fmt: skip
    sizes |= {f"{sign}{bits}": 0 for sign in ("int", "uint") for bits in range(1, 8)}
    dtypes = {name: DType(name, *layout) for name, layout in known.items()}
    return dtypes | {name: DType(name, None, size) for name, size in sizes.items()}


_DTYPES = _dtypes()

_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool", "ComplexDouble": "complex128", "ComplexFloat": "complex64",
    "QInt8": "qint8", "QInt32": "qint32", "QUInt8": "quint8", "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4",
}  # fmt: skip


def _tensor_v2(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    requires_grad: object = None,
    hooks: object = None,
    flags: object = None,
) -> StoredTensor:
    del requires_grad, hooks
    return StoredTensor(storage, offset, shape, stride, None, flags)


def _tensor_v3(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    requires_grad: object,
    hooks: object,
    dtype: object,
    flags: object = None,
) -> StoredTensor:
    del requires_grad, hooks
    return StoredTensor(storage, offset, shape, stride, dtype, flags)


def _quantised(
    storage: object, offset: object, shape: object, *others: object
) -> UnsupportedTensor:
    del offset, others
    dtype = storage.kind.dtype if isinstance(storage, Storage) else None
    return UnsupportedTensor(f"quantised ({dtype.name if dtype else 'untyped'})", shape)


def _sparse(layout: object, data: object) -> UnsupportedTensor:
    kind = layout if isinstance(layout, str) else "sparse"
    shape: object = ()
    if isinstance(data, tuple) and len(data) > 2:
        # indices, values, size for coo; two sorts of indices, values, size for the others
        shape = data[2] if "coo" in kind else data[-1]
    return UnsupportedTensor(kind.removeprefix("torch.")[:40], shape)


def _meta(dtype: object, shape: object, *others: object) -> UnsupportedTensor:
    del dtype, others
    return UnsupportedTensor("on the meta device, without values", shape)


def _wrapper(cls: object, dtype: object, shape: object, *others: object) -> UnsupportedTensor:
    del cls, dtype, others
    return UnsupportedTensor("a tensor subclass", shape)


def _nested(*parts: object) -> UnsupportedTensor:
    del parts
    return UnsupportedTensor("a nested tensor", ())


def _from_numpy(data: object, *others: object) -> UnsupportedTensor:
    del data, others
    return UnsupportedTensor("of another device, kept as a numpy array", ())


def _first(value: object, *others: object) -> object:
    del others
    return value


def _from_type(function: object, kind: object, arguments: object, state: object) -> object:
    """A tensor with attributes of its own, or of a subclass: the tensor in it."""
    del kind, state
    if not isinstance(function, Constructor) or function.name not in _REBUILDING:
        raise TypeError("not made by a function that rebuilds tensors")
    if not isinstance(arguments, tuple):
        raise TypeError("arguments that are no tuple")
    return function.make(*arguments)


def _size(items: object = ()) -> tuple[object, ...]:
    if not isinstance(items, (tuple, list)):
        raise TypeError("no sizes")
    return tuple(items)


def _layout(name: object) -> object:
    if not isinstance(name, str):
        raise TypeError("no layout")
    return name


_REBUILDING: dict[str, object] = {
    name: Constructor(name, make)
    for name, make in (
        ("torch._utils._rebuild_tensor", _tensor_v2),
        ("torch._utils._rebuild_tensor_v2", _tensor_v2),
        ("torch._utils._rebuild_tensor_v3", _tensor_v3),
        ("torch._utils._rebuild_parameter", _first),
        ("torch._utils._rebuild_parameter_with_state", _first),
        ("torch._utils._rebuild_device_tensor_from_cpu_tensor", _first),
        ("torch._utils._rebuild_device_tensor_from_numpy", _from_numpy),
        ("torch._utils._rebuild_xla_tensor", _from_numpy),
        ("torch._utils._rebuild_qtensor", _quantised),
        ("torch._utils._rebuild_sparse_tensor", _sparse),
        ("torch._utils._rebuild_meta_tensor_no_storage", _meta),
        ("torch._utils._rebuild_wrapper_subclass", _wrapper),
        ("torch._utils._rebuild_nested_tensor", _nested),
    )
}

_QUANTISATIONS = (
    "per_tensor_affine",
    "per_tensor_symmetric",
    "per_channel_affine",
    "per_channel_symmetric",
    "per_channel_affine_float_qparams",
)

_TENSOR_KINDS = tuple(
    f"{module}.{kind}Tensor"
    for module in ("torch", "torch.cuda")
    for kind in (
        "BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short",
    )
)  # fmt: skip

#: Full name -> stand-in, for :func:`ckptdiff.formats.inert.unpickle`.
TORCH: dict[str, object] = {
    **_REBUILDING,
    "torch._tensor._rebuild_from_type": Constructor("torch._tensor._rebuild_from_type", _from_type),
    "torch._tensor._rebuild_from_type_v2": Constructor(
        "torch._tensor._rebuild_from_type_v2", _from_type
    ),
    "torch.Size": Constructor("torch.Size", _size),
    "torch.serialization._get_layout": Constructor("torch.serialization._get_layout", _layout),
    **inert_classes(
        "torch.Tensor",
        "torch.device",
        "torch.nn.parameter.Buffer",
        "torch.nn.parameter.Parameter",
        "torch._C.Generator",
        *_TENSOR_KINDS,
        *(f"torch.{scheme}" for scheme in _QUANTISATIONS),
    ),
    **{f"torch.{name}": dtype for name, dtype in _DTYPES.items()},
    **{
        f"{module}.{kind}Storage": StorageType(f"{kind}Storage", _DTYPES[dtype])
        for module in ("torch", "torch.cuda", "torch.storage")
        for kind, dtype in _STORAGES.items()
    },
    **{
        f"{module}.UntypedStorage": StorageType("UntypedStorage", None)
        for module in ("torch", "torch.storage")
    },
}


class _SharedShapes:
    """Makes tensors whose equal shapes and strides are one object: most have one of a few.

    Only a few are kept. The hashes of tuples can be chosen, and looking one up among many of the
    same hash is slow.
    """

    _AT_MOST = 64

    def __init__(self) -> None:
        self._kept: dict[object, object] = {}

    def tensor(
        self, storage: object, offset: object, shape: object, stride: object, *others: object
    ) -> StoredTensor:
        return _tensor_v2(storage, offset, self._shared(shape), self._shared(stride), *others)

    def _shared(self, shape: object) -> object:
        if not isinstance(shape, tuple) or len(shape) > 4:
            return shape
        if not all(type(size) is int for size in shape):
            return shape
        if len(self._kept) < self._AT_MOST:
            return self._kept.setdefault(shape, shape)
        return self._kept.get(shape, shape)


def sharing_shapes(known: Mapping[str, object]) -> dict[str, object]:
    """The stand-ins for one file: its tensors of equal shape share the tuple."""
    name = "torch._utils._rebuild_tensor_v2"
    return {**known, name: Constructor(name, _SharedShapes().tensor)}


_SCRIPT = {
    f"torch.jit._pickle.{name}": Constructor(f"torch.jit._pickle.{name}", _first)
    for name in (
        "build_boollist",
        "build_doublelist",
        "build_intlist",
        "build_tensor_from_id",
        "build_tensorlist",
        "restore_type_tag",
    )
}


class _TorchScript(Mapping[str, object]):
    """What a TorchScript archive refers to: torch's, and its own classes, under ``__torch__``."""

    def __init__(self) -> None:
        self._known = PLAIN | TORCH | _SCRIPT

    def __getitem__(self, name: str) -> object:
        found = self._known.get(name)
        if found is not None:
            return found
        if name.startswith("__torch__."):
            return inert_class(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


#: All stand-ins for the data.pkl of a TorchScript archive.
TORCHSCRIPT: Mapping[str, object] = _TorchScript()
