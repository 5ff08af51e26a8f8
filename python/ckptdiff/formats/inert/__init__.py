"""Pickles, read as data: nothing they name is imported, nothing they call is run.

:func:`unpickle` follows the opcodes of a pickle. A global that it refers to is looked up in a
table that the reader gives, which holds inert stand-ins of this package; any other is refused by
name. :data:`PLAIN` has what Python and numpy put in checkpoints, :data:`TORCH` what torch does. A
format adds classes of its own with :func:`inert_classes`.
"""

from ckptdiff.formats.inert.machine import (
    Constructor,
    ForbiddenGlobalError,
    IdentityKey,
    InertObject,
    PickleCutOffError,
    Unpickled,
    inert_class,
    inert_classes,
    unpickle,
)
from ckptdiff.formats.inert.plain import PLAIN
from ckptdiff.formats.inert.torch import (
    TORCH,
    TORCHSCRIPT,
    DType,
    Storage,
    StorageType,
    StoredTensor,
    UnsupportedTensor,
    sharing_shapes,
)

__all__ = [
    "PLAIN",
    "TORCH",
    "TORCHSCRIPT",
    "Constructor",
    "DType",
    "ForbiddenGlobalError",
    "IdentityKey",
    "InertObject",
    "PickleCutOffError",
    "Storage",
    "StorageType",
    "StoredTensor",
    "Unpickled",
    "UnsupportedTensor",
    "inert_class",
    "inert_classes",
    "sharing_shapes",
    "unpickle",
]
