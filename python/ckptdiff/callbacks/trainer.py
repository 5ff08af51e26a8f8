"""A callback for the Trainer of transformers that logs what :class:`Watcher` measures.

A callback is told neither the trainer nor its loggers. What it adds in ``on_log`` reaches only the
integrations that come after it in the list, and no ``log_history``. So this one is given the
trainer, as others that log are, and calls its ``log``: from there wandb, TensorBoard and
``log_history`` have the measures as they have the loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from ckptdiff.api import CheckpointLike
from ckptdiff.backends.torch.shards import is_sharded
from ckptdiff.callbacks.watcher import By, Watcher

__all__ = ["CkptdiffCallback"]


class CkptdiffCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed for us
    """Every ``every`` optimizer steps, logs relative update, cosine, changed, NaN and Inf.

    ``trainer.add_callback(CkptdiffCallback(trainer, every=100))``. The other arguments are those of
    :class:`~ckptdiff.callbacks.Watcher`, whose snapshot is taken when training begins, after a
    checkpoint that it resumes from was loaded. Of several processes the first logs; it alone
    measures, unless parameters are spread over the processes (FSDP2), which then all do.

    Raises ValueError as Watcher does, when training begins.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        every: int = 100,
        baseline: CheckpointLike | None = None,
        by: By = "module",
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        snapshot_dtype: torch.dtype | None = None,
        update_dtype: torch.dtype | None = torch.bfloat16,
        device: str | torch.device | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be 1 or more, not {every}")
        self._trainer = trainer
        self._every = every
        self._options: dict[str, Any] = {
            "baseline": baseline,
            "by": by,
            "include": include,
            "exclude": exclude,
            "snapshot_dtype": snapshot_dtype,
            "update_dtype": update_dtype,
            "device": device,
        }
        self._watcher: Watcher | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the snapshot, or open the baseline."""
        del args, control
        sharded = any(is_sharded(parameter) for parameter in kwargs["model"].parameters())
        if sharded or state.is_world_process_zero:
            self._watcher = Watcher(kwargs["model"], every=self._every, **self._options)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure and log, where it is time."""
        del args, kwargs
        if self._watcher is None or state.global_step % self._every:
            return
        measures = self._watcher.measure()
        if not state.is_world_process_zero:
            return
        # logging counts as the logging of this step, whose loss may not have been logged yet
        should_log = control.should_log
        self._trainer.log(measures)
        control.should_log = should_log

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let go of the snapshot."""
        del args, state, control, kwargs
        self._watcher = None
