"""Stand-ins for what Python, numpy and training frameworks leave in checkpoints beside tensors.

Most of it is only carried along: an :class:`InertObject` that nobody looks into. Dictionaries of
every kind become ``dict``, sets ``list``, numpy's scalars numbers, because ``ls`` shows those.
"""

from __future__ import annotations

import struct

from ckptdiff.formats.inert.machine import Constructor, InertObject, inert_classes

__all__ = ["PLAIN"]

# numpy's code of a scalar -> struct's; the array protocol's letters and sizes.
_SCALARS = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip
_SCALAR_BYTES_AT_MOST = 8


def _mapping(*arguments: object) -> dict[object, object]:
    """A dictionary from a dictionary or from pairs; a defaultdict's factory comes before."""
    content = arguments[-1] if arguments else None
    if isinstance(content, dict):
        return content
    if not isinstance(content, list):
        return {}
    made: dict[object, object] = {}
    for key, value in content:
        if not isinstance(key, str):
            raise TypeError("a key that is no text")
        made[key] = value
    return made


def _sequence(*arguments: object) -> list[object]:
    content = arguments[0] if arguments else []
    if not isinstance(content, list):
        raise TypeError("not a list")
    return content


def _complex(real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def _reconstructor(called: object, base: object, state: object) -> object:
    """copyreg's way to make an object without its constructor."""
    del base, state
    if not isinstance(called, Constructor):
        raise TypeError("not a class")
    return called.make()


def _numpy_scalar(dtype: object, content: object = None) -> object:
    """The number, where it is one; numpy writes it as the scalar's bytes."""
    whole = InertObject("numpy scalar", (dtype, content))
    if isinstance(content, InertObject) and content.kind == "_codecs.encode":
        text = content.arguments[0]
        if not isinstance(text, str) or len(text) > _SCALAR_BYTES_AT_MOST:
            return whole
        content = text.encode("latin-1")
    if not isinstance(dtype, InertObject) or not isinstance(content, bytes):
        return whole
    code = dtype.arguments[0] if dtype.arguments else None
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    if not isinstance(code, str) or code not in _SCALARS:
        return whole
    if struct.calcsize(_SCALARS[code]) != len(content):
        raise ValueError(f"{len(content)} bytes for a scalar {code}")
    value: object = struct.unpack((">" if order == ">" else "<") + _SCALARS[code], content)[0]
    return value


_MAPPINGS = (
    "builtins.dict",
    "collections.Counter",
    "collections.OrderedDict",
    "collections.defaultdict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning_utilities.core.apply_func.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)

_SEQUENCES = ("builtins.frozenset", "builtins.list", "builtins.set", "collections.deque")

_NUMPY_CORES = ("numpy.core", "numpy._core")

_OBJECTS = (
    "_codecs.encode",
    "_io.BytesIO",
    "argparse.Namespace",
    "builtins.bool",
    "builtins.bytearray",
    "builtins.bytes",
    "builtins.float",
    "builtins.int",
    "builtins.object",
    "builtins.range",
    "builtins.slice",
    "builtins.str",
    "builtins.tuple",
    # Python 2's names, which protocol 2 has for range and others
    "builtins.long",
    "builtins.unicode",
    "builtins.xrange",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "datetime.timezone",
    "decimal.Decimal",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
    "megatron.core.enums.ModelType",
    "megatron.core.transformer.enums.AttnBackend",
    "megatron.model.enums.ModelType",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.random._pickle.__bit_generator_ctor",
    "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__randomstate_ctor",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.EnumNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "types.SimpleNamespace",
    "typing.Any",
    "uuid.UUID",
    *(f"{core}.multiarray._reconstruct" for core in _NUMPY_CORES),
    *(f"{core}.numeric._frombuffer" for core in _NUMPY_CORES),
    *(
        f"numpy.dtypes.{kind}DType"
        for kind in (
            "Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64",
            "Float16", "Float32", "Float64", "Complex64", "Complex128", "Str", "Bytes", "Object",
        )
    ),
)  # fmt: skip

#: Full name -> stand-in, for :func:`ckptdiff.formats.inert.unpickle`.
PLAIN: dict[str, object] = {
    **inert_classes(*_OBJECTS),
    **{name: Constructor(name, _mapping) for name in _MAPPINGS},
    **{name: Constructor(name, _sequence) for name in _SEQUENCES},
    **{
        f"{core}.multiarray.scalar": Constructor(f"{core}.multiarray.scalar", _numpy_scalar)
        for core in _NUMPY_CORES
    },
    "builtins.complex": Constructor("builtins.complex", _complex),
    "copyreg._reconstructor": Constructor("copyreg._reconstructor", _reconstructor),
}
