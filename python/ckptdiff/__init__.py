"""What changed between two model checkpoints: exactly, and in constant memory.

>>> import ckptdiff
>>> report = ckptdiff.diff("base", "tuned")
>>> report.sorted("rel_l2").head(5)
>>> report.by("layer").columns["rel_l2"]
"""

from ckptdiff._core import __version__
from ckptdiff.api import diff, open, stats  # noqa: A004 - reads as ckptdiff.open, like gzip.open
from ckptdiff.checkpoint import Checkpoint, Span, TensorRef
from ckptdiff.diff_report import DiffReport
from ckptdiff.errors import CheckpointNotFoundError, CheckpointReadError, InvalidCheckpointError
from ckptdiff.rows import Row
from ckptdiff.stats_report import StatsReport

__all__ = [
    "Checkpoint",
    "CheckpointNotFoundError",
    "CheckpointReadError",
    "DiffReport",
    "InvalidCheckpointError",
    "Row",
    "Span",
    "StatsReport",
    "TensorRef",
    "__version__",
    "diff",
    "open",
    "stats",
]
