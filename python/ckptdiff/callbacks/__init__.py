"""What a training run does to its weights, while it runs: for a plain loop and for transformers.

>>> watcher = ckptdiff.callbacks.Watcher(model, every=100)
>>> for batch in batches:
...     train(batch)
...     wandb.log(watcher.step())

>>> trainer.add_callback(ckptdiff.callbacks.CkptdiffCallback(trainer, every=100))
"""

from typing import TYPE_CHECKING

__all__ = ["CkptdiffCallback", "Watcher"]

if TYPE_CHECKING:
    from ckptdiff.callbacks.trainer import CkptdiffCallback
    from ckptdiff.callbacks.watcher import Watcher
else:
    # A loop of one's own needs no transformers, whose class CkptdiffCallback derives from.
    _HOMES = {"CkptdiffCallback": "trainer", "Watcher": "watcher"}

    def __getattr__(name):
        import importlib

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
