"""A checkpoint as a lazy mapping: which tensors there are and where their bytes lie.

A reader in :mod:`ckptdiff.formats` makes a manifest in the compiled core and wraps it in a
:class:`Checkpoint`. No tensor is read here, and a :class:`TensorRef` is built only when somebody
asks for it, so a checkpoint of 200,000 tensors costs no more Python objects than one of three.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ckptdiff._core import Manifest

__all__ = ["Checkpoint", "Span", "TensorRef"]


class Span(NamedTuple):
    """A run of bytes of one file; ``file`` is the empty string for a tensor in memory."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """What a checkpoint says about one tensor, without its values.

    ``dtype`` is the safetensors name (``BF16``), ``bytes`` the stored size, and the concatenated
    ``spans`` are the tensor's bytes; there are none for one whose elements lie apart, and for one
    of a kind that can only be listed. A packed dtype (``F4``) has the shape of its elements.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    spans: tuple[Span, ...]

    @property
    def numel(self) -> int:
        """Number of elements: 1 for a 0-d tensor; a complex number is one element."""
        return math.prod(self.shape)


class Checkpoint(Mapping[str, TensorRef]):
    """Tensors by name, in natural order of the names (``layers.2`` before ``layers.10``).

    Made by :func:`ckptdiff.open`. Two checkpoints compare equal only if they are the same object:
    whether they hold the same weights is what :func:`ckptdiff.diff` tells.
    """

    __slots__ = (
        "_device_tensors",
        "_format",
        "_manifest",
        "_notes",
        "_path",
        "_stored_names",
        "_tied",
    )

    def __init__(
        self,
        manifest: Manifest,
        *,
        path: str | None,
        format: str,  # noqa: A002
        stored_names: Mapping[str, str] | None = None,
        tied: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
        device_tensors: Mapping[str, object] | None = None,
    ) -> None:
        self._manifest = manifest
        self._path = path
        self._format = format
        self._stored_names: Mapping[str, str] = stored_names or {}
        self._tied = dict(tied or {})
        self._notes = tuple(notes)
        self._device_tensors = dict(device_tensors or {})

    def extended(
        self,
        *,
        manifest: Manifest | None = None,
        notes: Sequence[str] = (),
        tied: Mapping[str, str] | None = None,
        path: str | None = None,
    ) -> Checkpoint:
        """The same with more notes and ties, with a manifest that has more in it, or a path that
        stands for more.
        """
        return Checkpoint(
            self._manifest if manifest is None else manifest,
            path=self._path if path is None else path,
            format=self._format,
            stored_names=self._stored_names,
            tied={**self._tied, **(tied or {})},
            notes=(*self._notes, *notes),
        )

    @property
    def manifest(self) -> Manifest:
        """The core's description of the tensors, which the engine reads from."""
        return self._manifest

    @property
    def path(self) -> str | None:
        """The path as it was given; None for tensors in memory."""
        return self._path

    @property
    def config_path(self) -> str | None:
        """The file that has the model's configuration, None where there is none.

        ``config.json`` of Hugging Face and of OLMo-core, or ``config.yaml`` of OLMo's first
        generation, beside the tensors or, for OLMo-core, in the step's directory.
        """
        from ckptdiff.formats.beside import config_path

        return None if self._path is None else config_path(self._path)

    @property
    def format(self) -> str:
        """The format's name: ``safetensors``, ``torch``, ``memory`` …"""
        return self._format

    @property
    def has_stored_names(self) -> bool:
        """Whether some tensors are called otherwise in the file."""
        return bool(self._stored_names)

    def stored_name(self, name: str) -> str:
        """What the file calls the tensor ``name``; several experts can be in one tensor of it."""
        return self._stored_names.get(name, name)

    @property
    def tied(self) -> Mapping[str, str]:
        """Names of tensors that are the very bytes of another one, and that one's name."""
        return self._tied

    @property
    def device_tensors(self) -> Mapping[str, object]:
        """Those tensors in memory that torch alone can reach, by name: they lie on a device of
        their own, or are spread over processes. The manifest describes them, without their bytes.
        """
        return self._device_tensors

    @property
    def notes(self) -> tuple[str, ...]:
        """What the checkpoint holds beside these tensors, a sentence each."""
        return self._notes

    @property
    def metadata(self) -> dict[str, str]:
        """The format's free text pairs (safetensors ``__metadata__``); often empty."""
        return self._manifest.metadata

    @property
    def elements(self) -> int:
        """Number of elements of all tensors."""
        return self._manifest.elements

    @property
    def bytes(self) -> int:
        """Stored bytes of all tensors, headers not counted."""
        return self._manifest.bytes

    @property
    def files(self) -> tuple[str, ...]:
        """The files that hold the tensors; empty for tensors in memory."""
        return tuple(file for file in self._manifest.files if file)

    def names(self) -> list[str]:
        """The names in natural order."""
        return self._manifest.names()

    def deriving(
        self,
        items: Iterable[
            tuple[str, int]
            | tuple[
                str, Sequence[int], Sequence[tuple[int, int, Sequence[int], Sequence[int] | None]]
            ]
        ],
        origins: Mapping[str, str],
    ) -> Checkpoint:
        """A checkpoint of other tensors in the same bytes, as :meth:`Manifest.derived` makes them.

        ``origins`` gives the name here of each that is called otherwise there.
        """
        items = list(items)
        derived = copy.copy(self)
        derived._manifest = self._manifest.derived(items)
        derived._stored_names = origins
        if self._stored_names:
            # those that keep their names here may have others in the file
            derived._stored_names = dict(self._stored_names) | {
                name: self.stored_name(origin) for name, origin in origins.items()
            }
        if self._device_tensors:
            from ckptdiff.backends.derived import derived_tensors

            derived._device_tensors = derived_tensors(self._device_tensors, self._manifest, items)
        derived._tied = {
            name: twin for name, twin in self._tied.items() if {name, twin} <= derived.keys()
        }
        return derived

    def tensor_at(self, index: int, *, name: str | None = None) -> TensorRef:
        """The tensor at a position in natural order, under ``name`` if one is given.

        A report uses ``name`` to call a tensor what a rename rule made of it.
        """
        stored_name, dtype, shape, size, spans = self._manifest.tensor(index)
        return TensorRef(
            name=stored_name if name is None else name,
            dtype=dtype,
            shape=tuple(shape),
            bytes=size,
            spans=tuple(Span(*span) for span in spans),
        )

    def __getitem__(self, name: str) -> TensorRef:
        index = self._manifest.find(name)
        if index is None:
            raise KeyError(name)
        return self.tensor_at(index)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._manifest.find(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._manifest.names())

    def __len__(self) -> int:
        return len(self._manifest)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        from ckptdiff.render.units import human_bytes, human_count, plural

        where = "in memory" if self._path is None else repr(self._path)
        return (
            f"<Checkpoint {where}: {plural(len(self), 'tensor')}, "
            f"{human_count(self.elements)} elements, {human_bytes(self.bytes)}>"
        )
