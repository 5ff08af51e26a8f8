"""Many checkpoints of one training run: their order, what moved, and what to say of it.

``ckptdiff.series`` is this package and, called, :func:`ckptdiff.api.series`. It has to be both:
whoever imports a module of a package makes that package an attribute of the one around it, in the
place of a function of the same name.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptdiff.series.report import SeriesReport


class _CallablePackage(ModuleType):
    """This package, which can be called."""

    def __call__(self, *arguments: Any, **options: Any) -> SeriesReport:
        """Read a series, as :func:`ckptdiff.api.series` says."""
        from ckptdiff.api import series

        return series(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage
