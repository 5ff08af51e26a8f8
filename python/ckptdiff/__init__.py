"""What changed between two model checkpoints: exactly, and in constant memory.

>>> import ckptdiff
>>> report = ckptdiff.diff("base", "tuned")
>>> report.sorted("rel_l2").head(5)
>>> report.by("layer").columns["rel_l2"]
"""

from typing import TYPE_CHECKING

__all__ = [
    "ArchitectureMismatchError",
    "Checkpoint",
    "CheckpointNotFoundError",
    "CheckpointReadError",
    "DiffReport",
    "InvalidCheckpointError",
    "MixReport",
    "Row",
    "SeriesReport",
    "Span",
    "SpectrumReport",
    "StatsReport",
    "TensorRef",
    "TrainingPosition",
    "__version__",
    "diff",
    "mix",
    "open",
    "position_of",
    "propose_map",
    "series",
    "spectrum",
    "stats",
]

if TYPE_CHECKING:
    from ckptdiff._core import __version__
    from ckptdiff.api import diff, mix, open, propose_map, series, stats  # noqa: A004 - like gzip.open
    from ckptdiff.checkpoint import Checkpoint, Span, TensorRef
    from ckptdiff.diff_report import DiffReport
    from ckptdiff.dynamics.report import SeriesReport
    from ckptdiff.errors import (
        ArchitectureMismatchError,
        CheckpointNotFoundError,
        CheckpointReadError,
        InvalidCheckpointError,
    )
    from ckptdiff.mix_report import MixReport
    from ckptdiff.position import TrainingPosition, position_of
    from ckptdiff.rows import Row
    from ckptdiff.spectra.api import spectrum
    from ckptdiff.spectra.report import SpectrumReport
    from ckptdiff.stats_report import StatsReport
else:
    # Names are imported when they are asked for (PEP 562): the command line, which is inside this
    # package, answers --help and Ctrl-C before the core and the renderers are there.
    _HOMES = {
        "_core": ("__version__",),
        "api": ("diff", "mix", "open", "propose_map", "series", "stats"),
        "checkpoint": ("Checkpoint", "Span", "TensorRef"),
        "diff_report": ("DiffReport",),
        "errors": (
            "ArchitectureMismatchError",
            "CheckpointNotFoundError",
            "CheckpointReadError",
            "InvalidCheckpointError",
        ),
        "mix_report": ("MixReport",),
        "position": ("TrainingPosition", "position_of"),
        "rows": ("Row",),
        "dynamics.report": ("SeriesReport",),
        "spectra.api": ("spectrum",),
        "spectra.report": ("SpectrumReport",),
        "stats_report": ("StatsReport",),
    }

    def __getattr__(name):
        import importlib

        for home, names in _HOMES.items():
            if name in names:
                value = getattr(importlib.import_module(f"ckptdiff.{home}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
