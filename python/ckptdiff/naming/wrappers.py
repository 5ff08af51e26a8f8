"""What training wrappers put around a parameter's name, and the name without it.

``DataParallel`` and ``DistributedDataParallel`` put ``module.`` in front, ``torch.compile``
``_orig_mod.`` and FSDP and activation checkpointing ``_fsdp_wrapped_module.`` and
``_checkpoint_wrapped_module.`` anywhere, a trainer or a model class ``model.`` in front. None of it
says which parameter is meant.
"""

from __future__ import annotations

__all__ = ["without_wrappers"]

_ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_IN_FRONT = ("module.", "model.", "base_model.")


def without_wrappers(name: str) -> str:
    """The name without the components that wrappers add.

    >>> without_wrappers("module.model.layers.0._orig_mod.mlp.up_proj.weight")
    'layers.0.mlp.up_proj.weight'
    """
    if "_orig_mod." in name or "_wrapped_module." in name:
        for wrapper in _ANYWHERE:
            # a component, not the end of one
            name = ("." + name).replace("." + wrapper, ".").removeprefix(".")
    while name.startswith(_IN_FRONT):
        name = name.partition(".")[2]
    return name
