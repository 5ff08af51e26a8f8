"""What a program calls: open a checkpoint, diff two, take stats of one.

Everything the command line does is done here or on the report that comes back; the CLI only parses
its arguments and prints.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, TypeAlias

from ckptdiff import _core
from ckptdiff.checkpoint import Checkpoint, TensorRef
from ckptdiff.formats import open_path
from ckptdiff.formats.options import OpenOptions
from ckptdiff.lazy import LazySequence
from ckptdiff.naming.rules import Named, Rules, apply_rules, unmatched
from ckptdiff.options import DiffOptions, StatsOptions, check_io, check_isa, check_threads
from ckptdiff.pairing import check_map, pair

if TYPE_CHECKING:
    from ckptdiff.diff_report import DiffReport
    from ckptdiff.naming.proposal import Proposal
    from ckptdiff.stats_report import StatsReport

__all__ = ["CheckpointLike", "diff", "open", "propose_map", "stats"]

# A path, an opened checkpoint, or tensors in memory by name (numpy arrays, torch tensors).
CheckpointLike: TypeAlias = str | PathLike[str] | Checkpoint | Mapping[str, object]

# Called with (bytes done, bytes in all); an exception it raises stops the run.
Progress: TypeAlias = Callable[[int, int], object]


def open(  # noqa: A001 - read as ckptdiff.open
    path: CheckpointLike, *, key: str | None = None, optimizer: bool = False
) -> Checkpoint:
    """Open a checkpoint: its headers are read and checked, its tensors are not.

    ``path`` is a file or directory of any format in docs/formats.md (safetensors, torch …), or a
    mapping of names to numpy arrays or torch tensors, which are not copied. An opened checkpoint
    comes back as it is.

    ``key`` selects a subtree of a format that nests dictionaries, by its dotted path (``model``).
    ``optimizer`` includes the optimizer's state, which is left out otherwise.

    Raises CheckpointNotFoundError (a FileNotFoundError) where there is none, InvalidCheckpointError
    (a ValueError) where a file breaks its format, CheckpointReadError (an OSError) where it cannot
    be read, TypeError for anything that is neither path nor mapping of arrays, and ValueError where
    there is no such key.
    """
    if key is not None and not isinstance(path, (str, bytes, PathLike)):
        raise ValueError(f"key {key!r}: only a path has keys to select from")
    if isinstance(path, Checkpoint):
        return path
    if isinstance(path, (str, bytes, PathLike)):
        return open_path(os.fsdecode(path), OpenOptions(key=key, optimizer=optimizer))
    if isinstance(path, Mapping):
        from ckptdiff.formats.memory import open_mapping

        return open_mapping(path)
    raise TypeError(
        f"a checkpoint is a path or a mapping of names to arrays, not {type(path).__name__}"
    )


def diff(
    a: CheckpointLike,
    b: CheckpointLike,
    *,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    rename: str | Iterable[str | tuple[str, str]] = (),
    map: str | PathLike[str] | None = "auto",  # noqa: A002 - what the command calls it
    atol: float = 0.0,
    rtol: float = 0.0,
    cast: str | None = None,
    thresholds: Iterable[float] = (),
    histogram: bool = False,
    threads: int = 0,
    isa: str | None = None,
    io: str = "auto",
    on_progress: Progress | None = None,
    key_a: str | None = None,
    key_b: str | None = None,
    optimizer: bool = False,
    force: bool = False,
) -> DiffReport:
    """Compare every tensor of ``a``, the baseline, with the one of the same name in ``b``.

    Shapes must agree, dtypes need not: values are decoded exactly and ``d = b - a``. Two NaN are
    equal, and so are +0 and -0. Sums run over the positions where both sides are finite; the
    others are counted. Tensors without a partner, of another shape or of a dtype that cannot be
    decoded are listed, never an error, unless they are all there is.

    Args:
        include: Globs; where any is given, only names that match one are compared.
        exclude: Globs of names that are not compared. ``*`` crosses dots.
        rename: ``REGEX=REPLACEMENT`` rules, or pairs of the two, applied in order to A's names
            before the map and the globs see them.
        map: How A's tensors that have no partner are brought under B's names, as docs/names.md has
            it: ``auto`` where both layouts are known, ``none``, the name of a map, or the path of
            a TOML file. A tied weight that one side does not store is compared as its twin, but
            with ``none``. :attr:`DiffReport.map` and ``remarks`` say what was done.
        atol: Absolute tolerance: a tensor is ``within_tolerance`` where
            ``|d| <= atol + rtol * |a|`` holds for each of its elements.
        rtol: Relative tolerance.
        cast: Round both sides to this dtype first, to nearest even: is B the cast of A?
        thresholds: Add a column ``above_T`` per threshold T: how many elements have ``|d| > T``.
        histogram: Keep a log2 histogram of ``|d|``, and add quantiles estimated from it.
        threads: How many threads work; 0 is one per core. Never changes a result.
        isa: Force an instruction-set level; None is the best. Never changes a result.
        io: How files are read: ``mapped`` in place, ``read`` into buffers, ``auto`` mapped where
            the system can and the file system is a local one. Never changes a result.
        on_progress: Called now and then with (bytes done, bytes in all).
        key_a: Which subtree of ``a`` is meant, where its format nests, as for :func:`open`.
        key_b: The same for ``b``.
        optimizer: Include optimizer state.
        force: Compare the tensors of one name and shape even where the configs beside both say
            that they are models of different architectures.

    Raises:
        ArchitectureMismatchError: The configs differ in a field that shapes the layers
            (:data:`ckptdiff.config.SHAPES`); a ValueError.
        ValueError: An option is out of range, two names collide after renaming, a map's file is
            none or does not fit, or the globs leave nothing to compare.
        FileNotFoundError: There is no map file at the path.
        CheckpointNotFoundError, InvalidCheckpointError, CheckpointReadError, TypeError: As
            :func:`open`; also while tensors are read.
    """
    # not needed to open a checkpoint
    from ckptdiff.coverage import unsupported_notes
    from ckptdiff.diff_report import DiffReport

    rules = Rules.of(include, exclude, rename)
    options = DiffOptions.checked(
        rules=rules,
        map=check_map(map),
        atol=atol,
        rtol=rtol,
        cast=cast,
        thresholds=thresholds,
        histogram=histogram,
        force=force,
    )
    check_threads(threads)
    check_isa(isa)
    check_io(io)
    checkpoint_a = open(a, key=key_a, optimizer=optimizer)
    checkpoint_b = open(b, key=key_b, optimizer=optimizer)
    # not needed to open a checkpoint
    from ckptdiff.config import compare_configs, refuse_other_architecture

    differences, config_notes = compare_configs(checkpoint_a.path, checkpoint_b.path)
    if not force:
        refuse_other_architecture(differences, checkpoint_a.path, checkpoint_b.path)
    sides = pair(checkpoint_a, checkpoint_b, rules, options.map)
    _refuse_empty_choice((sides.a, sides.named_a), (sides.b, sides.named_b))
    pairing = sides.pairing
    notes = [
        *config_notes,
        *sides.notes,
        *unsupported_notes(
            LazySequence(pairing.unsupported, lambda pair: _undecoded(sides.a, sides.b, pair))
        ),
    ]
    start = time.perf_counter()
    table = _core.diff(
        pairing,
        atol=options.atol,
        rtol=options.rtol,
        cast=options.cast,
        thresholds=options.thresholds,
        histogram=options.histogram,
        threads=threads,
        isa=isa,
        io=io,
        on_progress=on_progress,
    )
    return DiffReport(
        table,
        sides=sides,
        options=options,
        notes=tuple(notes),
        seconds=time.perf_counter() - start,
        config_differences=tuple(differences),
    )


def stats(
    a: CheckpointLike,
    *,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    histogram: bool = False,
    content_hash: bool = False,
    threads: int = 0,
    isa: str | None = None,
    io: str = "auto",
    on_progress: Progress | None = None,
    key: str | None = None,
    optimizer: bool = False,
) -> StatsReport:
    """Describe every tensor of a checkpoint: extremes, moments, norms and counts.

    Sums and extremes run over the finite elements; NaN and infinities are counted. The arguments
    and errors are those of :func:`diff` and :func:`open`; ``content_hash`` adds a column ``hash``
    that is equal for equal bytes, whatever the sharding.
    """
    from ckptdiff.coverage import unsupported_notes
    from ckptdiff.stats_report import StatsReport

    rules = Rules.of(include, exclude)
    options = StatsOptions(rules=rules, histogram=histogram, content_hash=content_hash)
    check_threads(threads)
    check_isa(isa)
    check_io(io)
    checkpoint = open(a, key=key, optimizer=optimizer)
    named = Named(None)
    if rules != Rules():
        named = apply_rules(checkpoint.names(), rules, ())
    notes = unmatched(rules, named)
    _refuse_empty_choice((checkpoint, named))
    unsupported = [i for i in checkpoint.manifest.unsupported() if named.keeps(i)]
    if unsupported:
        named = named.without_unsupported(unsupported, len(checkpoint))
        notes += unsupported_notes(LazySequence(unsupported, checkpoint.tensor_at))
    start = time.perf_counter()
    table = _core.stats(
        checkpoint.manifest,
        names=named.for_core,
        histogram=histogram,
        content_hash=content_hash,
        threads=threads,
        isa=isa,
        io=io,
        on_progress=on_progress,
    )
    return StatsReport(
        table,
        a=checkpoint,
        named=named,
        options=options,
        notes=tuple(notes),
        seconds=time.perf_counter() - start,
    )


def propose_map(
    a: CheckpointLike, b: CheckpointLike, *, threads: int = 0, io: str = "auto"
) -> Proposal:
    """Propose a map for tensors that have no partner, by their bytes, shapes and names.

    The text of the proposal is a TOML file for ``diff(map=...)``, to be read before it is used.

    Raises ValueError where nothing can be proposed, and what :func:`open` raises.
    """
    check_threads(threads)
    check_io(io)
    from ckptdiff.naming.proposal import propose_map as propose

    return propose(open(a), open(b), threads=threads, io=io)


def _undecoded(a: Checkpoint, b: Checkpoint, pair: tuple[int, int]) -> TensorRef:
    """The tensor of a pair whose dtype cannot be decoded, A's where it is both."""
    in_a, in_b = a.tensor_at(pair[0]), b.tensor_at(pair[1])
    return in_b if in_a.dtype in _core.dtype_names() else in_a


def _refuse_empty_choice(*sides: tuple[Checkpoint, Named]) -> None:
    """Raise where the globs leave no tensor on any side: success on nothing would be a lie."""
    tensors = sum(len(checkpoint) for checkpoint, _ in sides)
    left_out = sum(named.left_out for _, named in sides)
    if tensors and left_out == tensors:
        raise ValueError(f"include and exclude leave none of {tensors} tensors to look at")
