"""``ckptdiff.spectrum``: pairs tensors as a diff does, and takes the spectrum of each matrix."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any, TypeAlias

from ckptdiff import _core
from ckptdiff.api import CheckpointLike, refuse_empty_choice
from ckptdiff.api import open as open_checkpoint
from ckptdiff.checkpoint import Checkpoint, TensorRef
from ckptdiff.naming.rules import Named, Rules, apply_rules, unmatched
from ckptdiff.render.units import human_bytes
from ckptdiff.report import NotCompared, not_compared
from ckptdiff.spectra.arithmetic import MakeMatrix, make_matrix_on
from ckptdiff.spectra.experts import Experts
from ckptdiff.spectra.matrices import EXPERTS, MatrixRef, matrices_of
from ckptdiff.spectra.options import Method, SpectrumOptions
from ckptdiff.spectra.report import SpectrumReport
from ckptdiff.spectra.row import SpectrumRow
from ckptdiff.spectra.run import Side, spectrum_row

__all__ = ["spectrum"]

Progress: TypeAlias = Callable[[int, int], object]

_COMPLEX = ("C64", "C128")


def spectrum(
    a: CheckpointLike,
    b: CheckpointLike | None = None,
    *,
    k: int = 16,
    method: Method = "auto",
    oversampling: int = 10,
    iterations: int = 4,
    angles: int = 8,
    experts: str | Iterable[str] = EXPERTS,
    device: str = "cpu",
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    rename: str | Iterable[str | tuple[str, str]] = (),
    key_a: str | None = None,
    key_b: str | None = None,
    optimizer: bool = False,
    on_progress: Progress | None = None,
) -> SpectrumReport:
    """Singular values of every matrix of ``a``, or of ``b - a``, and what they say.

    One matrix at a time is in memory. The columns of the result are those of
    :class:`~ckptdiff.spectra.row.SpectrumRow`, which docs/spectrum.md explains.

    Args:
        a: The checkpoint, or the baseline. Tensors of two dimensions are matrices, weights of
            convolutions are (out, in · kernel), and vectors are left out.
        b: The other one; spectra are then of the differences, tensor by tensor of the same name.
        k: How many of the largest singular values are given.
        method: ``exact`` computes all singular values, ``randomised`` the largest ``k`` with bounds
            on their errors, from which fewer columns follow; ``auto`` is exact where the smaller
            side of a matrix has at most 2048 rows or columns.
        oversampling: Random vectors beside ``k``; more make bounds tighter.
        iterations: How often they are multiplied by the matrix and its transpose again; as well.
        angles: The dimension of the leading subspaces of A and B between which principal angles are
            taken; 0 for none. They cost a randomised run of either matrix.
        experts: Globs of names; a tensor of three dimensions that one matches is a matrix per
            expert, and so is one of two that has them one below the other, as OLMo-core keeps
            them, where the layer's router or the config says how many they are.
        device: ``cpu`` is numpy; ``cuda``, ``cuda:N``, ``xpu``, ``mps`` and ``torch:cpu`` multiply
            in torch; ``auto`` is the first accelerator that is there, else ``cpu``.
        include, exclude, rename, key_a, key_b, optimizer: As for :func:`ckptdiff.diff`.
        on_progress: Called after each matrix with (bytes of tensors done, bytes in all).

    Raises:
        ValueError: An option is out of range, the device is not there, or nothing is left to look
            at.
        MemoryError: A matrix, or its Gram matrix, does not fit; the message names it.
        CheckpointNotFoundError, InvalidCheckpointError, CheckpointReadError, TypeError: As
            :func:`ckptdiff.diff`.
    """
    rules = Rules.of(include, exclude, rename)
    options = SpectrumOptions(
        rules=rules,
        k=k,
        method=method,
        oversampling=oversampling,
        iterations=iterations,
        angles=angles,
        experts=(experts,) if isinstance(experts, str) else tuple(experts),
    )
    make = make_matrix_on(device)
    checkpoint_a = open_checkpoint(a, key=key_a, optimizer=optimizer)
    checkpoint_b = None if b is None else open_checkpoint(b, key=key_b, optimizer=optimizer)
    start = time.perf_counter()
    work = _Work(checkpoint_a, checkpoint_b, options)
    rows = tuple(_rows(work, options, make, on_progress))
    return SpectrumReport(
        a=checkpoint_a,
        b=checkpoint_b,
        options=options,
        matrices=rows,
        not_compared=tuple(work.not_compared),
        notes=tuple(work.notes),
        seconds=time.perf_counter() - start,
        bytes_read=work.bytes,
        shown=rows,
    )


class _Work:
    """Which matrices there are to look at, of which sides, and what is left out and why."""

    def __init__(self, a: Checkpoint, b: Checkpoint | None, options: SpectrumOptions) -> None:
        rules = options.rules
        named_a = Named(None)
        if rules != Rules():
            named_a = apply_rules(a.names(), rules, rules.renames)
        self.not_compared: list[NotCompared] = list(not_compared("a", named_a, a))
        self._experts = options.experts
        self._taken_whole: list[str] = []
        self._stacks = [Experts(side) for side in (a, b) if side is not None]
        self.items: list[tuple[MatrixRef, Side, Side | None]] = []
        self.bytes = 0
        pairs: Iterable[tuple[int, int | None]]
        if b is None:
            self.notes = unmatched(rules, named_a)
            refuse_empty_choice((a, named_a))
            pairs = ((index, None) for index in range(len(a)) if named_a.keeps(index))
        else:
            named_b = Named(None)
            if rules.include or rules.exclude:
                named_b = apply_rules(b.names(), rules, ())
            self.notes = unmatched(rules, named_a, named_b)
            refuse_empty_choice((a, named_a), (b, named_b))
            self.not_compared += not_compared("b", named_b, b)
            pairing = _core.Pairing(a.manifest, b.manifest, named_a.for_core, named_b.for_core)
            # where there is no pair that can be decoded, the others are among the pairs, too
            pairs = sorted({*pairing.pairs, *pairing.unsupported}, key=itemgetter(1))
            self._unpaired(pairing, a, b, named_a)
        for index_a, index_b in pairs:
            self._add(a, index_a, b, index_b, named_a)
        self._note_on_those_taken_whole()

    def _unpaired(self, pairing: _core.Pairing, a: Checkpoint, b: Checkpoint, named: Named) -> None:
        def name(index: int) -> str:
            return _name(a, index, named)

        reasons = (
            ("a", "only_in_a", map(name, pairing.only_in_a)),
            ("b", "only_in_b", (b.tensor_at(index).name for index in pairing.only_in_b)),
            ("a", "shape_mismatch", (name(index) for index, _ in pairing.shape_mismatch)),
        )
        for side, reason, names in reasons:
            self.not_compared += [NotCompared(side, left_out, reason) for left_out in names]

    def _add(
        self, a: Checkpoint, index_a: int, b: Checkpoint | None, index_b: int | None, named: Named
    ) -> None:
        tensor = a.tensor_at(index_a)
        name = _name(a, index_a, named)
        sides = [_side(a, index_a, tensor)]
        size = tensor.bytes
        if b is not None and index_b is not None:
            other = b.tensor_at(index_b)
            name = other.name
            sides.append(_side(b, index_b, other))
            size += other.bytes
        count = None
        if len(tensor.shape) == 2 and self._experts:
            count = self._count(a.tensor_at(index_a).name, name)
        matrices = list(matrices_of(name, tensor.shape, self._experts, count))
        reason = _unfit({side.dtype for side in sides}, matrices)
        if reason is not None:
            self.not_compared.append(NotCompared("a", name, reason))
            return
        self.bytes += size
        for matrix in matrices:
            self.items.append((matrix, sides[0], sides[1] if len(sides) > 1 else None))

    def _count(self, *names: str) -> int | None:
        """How many experts a tensor of two dimensions has, by the side that tells."""
        for stacks, own_name in zip(self._stacks, names, strict=False):
            count = stacks.count(own_name)
            if count is not None:
                return count
        if self._stacks[0].are_stacked(names[0]):
            self._taken_whole.append(names[0])
        return None

    def _note_on_those_taken_whole(self) -> None:
        if self._taken_whole:
            first, *others = self._taken_whole
            self.notes.append(
                f"tensor {first!r}{f' (and {len(others)} more)' if others else ''} is taken as one "
                "matrix: no router and no config tells how many experts it has"
            )


def _rows(
    work: _Work, options: SpectrumOptions, make: MakeMatrix, on_progress: Progress | None
) -> Iterator[SpectrumRow]:
    elements = sum(matrix.elements for matrix, _, _ in work.items)
    done = 0
    for matrix, a, b in work.items:
        where = f"matrix {matrix.name!r} of {matrix.rows} × {matrix.columns}"
        smaller = min(matrix.rows, matrix.columns)
        exact = options.is_exact(matrix.rows, matrix.columns)
        # the matrix, and where it is exact its Gram matrix and LAPACK's copy of that
        held = matrix.elements * (4 if b is None else 8) + (16 * smaller**2 if exact else 0)
        _refuse_more_than_there_is(where, held)
        try:
            row = spectrum_row(matrix, a, b, options, make)
        except (MemoryError, RuntimeError, ValueError) as error:
            # those of numpy and those of torch, which is not imported for their names
            kind = type(error).__name__
            if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
                raise MemoryError(f"{where}: {_first_line(error)}") from error
            if kind == "LinAlgError":
                raise ValueError(f"{where}: {_first_line(error)}") from error
            raise
        yield row
        done += matrix.elements
        if on_progress is not None:
            on_progress(work.bytes * done // elements, work.bytes)


def _side(checkpoint: Checkpoint, index: int, tensor: TensorRef) -> Side:
    """Where a tensor's values come from. Raises ValueError for one that processes share."""
    held: Any = checkpoint.device_tensors.get(tensor.name)
    if held is not None:
        # torch is there, as it has made the tensor
        from ckptdiff.backends.torch.shards import is_sharded

        if is_sharded(held):
            raise ValueError(
                f"tensor {tensor.name!r} is spread over processes, and a spectrum is of whole "
                "matrices; gather it first (tensor.full_tensor())"
            )
    return Side(checkpoint.manifest, index, tensor.dtype, held)


def _refuse_more_than_there_is(where: str, needed: int) -> None:
    """Raise MemoryError for what the machine cannot hold: the system may promise it, and then kill.

    A sparse file can hold a tensor of any size.
    """
    try:
        there_is = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return
    if needed > there_is:
        raise MemoryError(f"{where} takes {human_bytes(needed)}, there are {human_bytes(there_is)}")


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _unfit(dtypes: set[str], matrices: list[MatrixRef]) -> str | None:
    """Why a tensor has no spectrum, None if it has one."""
    if not matrices:
        return "not_a_matrix"
    if not dtypes.isdisjoint(_COMPLEX):
        return "complex"
    return None if dtypes.issubset(_core.dtype_names()) else "unsupported_dtype"


def _name(checkpoint: Checkpoint, index: int, named: Named) -> str:
    names = named.names
    renamed = None if names is None else names[index]
    return checkpoint.tensor_at(index).name if renamed is None else renamed
