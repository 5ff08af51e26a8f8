"""What a program calls: open a checkpoint, diff two, take stats of one.

Everything the command line does is done here or on the report that comes back; the CLI only parses
its arguments and prints.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from ckptdiff import _core
from ckptdiff.backends import devices
from ckptdiff.backends.processes import Processes, together
from ckptdiff.checkpoint import Checkpoint, TensorRef
from ckptdiff.formats import open_path
from ckptdiff.formats.options import OpenOptions
from ckptdiff.lazy import LazySequence
from ckptdiff.naming.rules import Named, Rules, apply_rules, unmatched
from ckptdiff.options import DiffOptions, StatsOptions, check_io, check_isa, check_threads

if TYPE_CHECKING:
    import torch

    from ckptdiff.config import ConfigDifference
    from ckptdiff.diff_report import DiffReport
    from ckptdiff.dynamics.report import SeriesReport
    from ckptdiff.mix_report import MixReport
    from ckptdiff.naming.proposal import Proposal
    from ckptdiff.pairing import Sides
    from ckptdiff.stats_report import StatsReport

__all__ = [
    "CheckpointLike",
    "diff",
    "mix",
    "open",
    "propose_map",
    "refuse_empty_choice",
    "series",
    "stats",
]

# A path, an opened checkpoint, or tensors in memory: by name (numpy arrays, torch tensors on any
# device), or those of a torch module.
CheckpointLike: TypeAlias = (
    "str | PathLike[str] | Checkpoint | Mapping[str, object] | torch.nn.Module"
)

# Called with (bytes done, bytes in all); an exception it raises stops the run.
Progress: TypeAlias = Callable[[int, int], object]


def open(  # noqa: A001 - read as ckptdiff.open
    path: CheckpointLike, *, key: str | None = None, optimizer: bool = False
) -> Checkpoint:
    """Open a checkpoint: its headers are read and checked, its tensors are not.

    ``path`` is a file or directory of any format in docs/formats.md (safetensors, torch …), or a
    mapping of names to numpy arrays or torch tensors, which are not copied, or a torch module,
    which stands for its state dict. An opened checkpoint comes back as it is.

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
    path = _state_of(path)
    if isinstance(path, Mapping):
        from ckptdiff.formats.memory import ModuleState, open_mapping, open_state

        return open_state(path) if isinstance(path, ModuleState) else open_mapping(path)
    raise TypeError(
        f"a checkpoint is a path or a mapping of names to arrays, not {type(path).__name__}"
    )


def _state_of(path: CheckpointLike) -> CheckpointLike:
    """The state dict of a torch module, anything else as it is."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(path, torch.nn.Module):
        from ckptdiff.formats.memory import ModuleState

        return ModuleState(path.state_dict())
    return path


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
    device: str | None = None,
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
        isa: Force an instruction-set level: portable, avx2, avx512 or neon, if it is there;
            None is the best. Never changes a result.
        io: How files are read: ``mapped`` in place, ``read`` into buffers, ``auto`` mapped where
            the system can and the file system is a local one. Never changes a result.
        on_progress: Called now and then with (bytes done, bytes in all).
        key_a: Which subtree of ``a`` is meant, where its format nests, as for :func:`open`.
        key_b: The same for ``b``.
        optimizer: Include optimizer state.
        force: Compare the tensors of one name and shape even where the configs beside both say
            that they are models of different architectures.
        device: Where to reduce: ``cpu`` with the core's kernels, ``cuda``, ``cuda:1``, ``xpu``,
            ``mps`` with torch, ``auto`` the first of those that is there, ``torch:cpu`` with torch
            on the CPU. None is where the tensors are, and the core for all that is on the host.
            Sums can differ in their last digits from one device to another, nothing else does.

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
    from ckptdiff.pairing import check_map, pair

    a, b = _state_of(a), _state_of(b)
    with together(a, b) as processes:
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
        if device is not None:
            device = devices.resolved(device)
        checkpoint_a = open(a, key=key_a, optimizer=optimizer)
        checkpoint_b = open(b, key=key_b, optimizer=optimizer)
        differences, config_notes = _compared_configs(checkpoint_a.path, checkpoint_b.path)
        if differences and not force:
            from ckptdiff.config import refuse_other_architecture

            refuse_other_architecture(differences, checkpoint_a.path, checkpoint_b.path)
        sides = pair(checkpoint_a, checkpoint_b, rules, options.map)
        refuse_empty_choice((sides.a, sides.named_a), (sides.b, sides.named_b))
        pairing = sides.pairing
        notes = [
            *config_notes,
            *_left_out(checkpoint_a),
            *_left_out(checkpoint_b),
            *sides.notes,
            *unsupported_notes(
                LazySequence(pairing.unsupported, lambda pair: _undecoded(sides.a, sides.b, pair))
            ),
        ]
        processes.agree(lambda: _compared(sides, options))
        backend = _torch_backend(device, processes, sides.a, sides.b)
        start = time.perf_counter()
        if backend is not None:
            table = backend.diff(
                pairing,
                sides.a,
                sides.b,
                options=options,
                device=device,
                threads=threads,
                processes=processes,
                on_progress=on_progress,
            )
        else:
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


def _compared_configs(
    path_a: str | None, path_b: str | None
) -> tuple[list[ConfigDifference], list[str]]:
    """Where the configs differ, and what could not be read; nothing where there are none."""
    from ckptdiff.formats.beside import has_config

    if not any(path is not None and has_config(path) for path in (path_a, path_b)):
        return [], []
    # it knows every config and schedule, and takes as long to import as a small diff
    from ckptdiff.config import compare_configs

    return compare_configs(path_a, path_b)


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
    device: str | None = None,
) -> StatsReport:
    """Describe every tensor of a checkpoint: extremes, moments, norms and counts.

    Sums and extremes run over the finite elements; NaN and infinities are counted. The arguments
    and errors are those of :func:`diff` and :func:`open`; ``content_hash`` adds a column ``hash``
    that is equal for equal bytes, whatever the sharding; only the core, on the host, can tell it.
    """
    from ckptdiff.coverage import unsupported_notes
    from ckptdiff.stats_report import StatsReport

    a = _state_of(a)
    with together(a) as processes:
        rules = Rules.of(include, exclude)
        options = StatsOptions(rules=rules, histogram=histogram, content_hash=content_hash)
        check_threads(threads)
        check_isa(isa)
        check_io(io)
        if device is not None:
            device = devices.resolved(device)
        checkpoint = open(a, key=key, optimizer=optimizer)
        named = Named(None)
        if rules != Rules():
            named = apply_rules(checkpoint.names(), rules, ())
        notes = [*_left_out(checkpoint), *unmatched(rules, named)]
        refuse_empty_choice((checkpoint, named))
        unsupported = [i for i in checkpoint.manifest.unsupported() if named.keeps(i)]
        if unsupported:
            named = named.without_unsupported(unsupported, len(checkpoint))
            notes += unsupported_notes(LazySequence(unsupported, checkpoint.tensor_at))
        backend = _torch_backend(device, processes, checkpoint)
        if backend is not None and content_hash:
            raise ValueError(
                "a content hash is taken on the host only: leave out --device or --hash"
            )
        processes.agree(lambda: _described(checkpoint, named, options))
        start = time.perf_counter()
        if backend is not None:
            table = backend.stats(
                checkpoint,
                named,
                histogram=histogram,
                device=device,
                threads=threads,
                processes=processes,
                on_progress=on_progress,
            )
        else:
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


def mix(
    target: CheckpointLike,
    parts: Iterable[CheckpointLike],
    *,
    map: str = "auto",  # noqa: A002 - as that of diff
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    threads: int = 0,
    isa: str | None = None,
    io: str = "auto",
    on_progress: Progress | None = None,
    key: str | None = None,
    optimizer: bool = False,
) -> MixReport:
    """Tell what ``target`` is made of: which combination of ``parts`` comes nearest to it.

    Least-squares coefficients for each tensor and in total, and whether the target is exactly the
    mean of the parts, taken in float32 and rounded. Everything is read twice, and of three or four
    parts once more where they are summed in another order than that given. ``map="auto"`` brings
    the parts under the target's names where they are stored in another layout, ``"none"`` leaves
    names as they are. The other arguments and errors are those of :func:`diff` and :func:`open`.

    Raises ValueError for no parts, and where there is no tensor that the target and all parts have,
    too, and InvalidCheckpointError for a target of a dtype that nothing is rounded to, such as a
    quantised one.
    """
    from ckptdiff.mix_order import compared_with_mean
    from ckptdiff.mix_report import MixReport
    from ckptdiff.pairing import named_as
    from ckptdiff.suggest import unknown

    rules = Rules.of(include, exclude)
    check_threads(threads)
    check_isa(isa)
    check_io(io)
    if map not in ("auto", "none"):
        raise ValueError(unknown("map", map, ("auto", "none")))
    if isinstance(parts, (str, bytes, PathLike, Mapping)):
        raise TypeError("parts is a sequence of checkpoints, not one")
    opened = [open(part, key=key, optimizer=optimizer) for part in parts]
    if not opened:
        raise ValueError("there are no parts that the target could be made of")
    whole = open(target, key=key, optimizer=optimizer)
    refuse_elsewhere("mix", whole, *opened)
    whole, opened, remarks = named_as(whole, opened, map)
    checkpoints = [*opened, whole]
    named = [Named(None) for _ in checkpoints]
    if rules != Rules():
        named = [apply_rules(checkpoint.names(), rules, ()) for checkpoint in checkpoints]
    notes = unmatched(rules, *named)
    refuse_empty_choice(*zip(checkpoints, named, strict=True))
    names = [of_one.for_core for of_one in named]
    start = time.perf_counter()
    run = _core.series(
        [checkpoint.manifest for checkpoint in checkpoints],
        names,
        # all hang on the first part
        [-1] + [0] * (len(checkpoints) - 1),
        # a residual is what hardly anything is left of
        precision="double",
        threads=threads,
        isa=isa,
        io=io,
        on_progress=on_progress and (lambda done, total: on_progress(done, 2 * total)),
    )
    if run.not_common and not run.names:
        where = "the target" if whole.path is None else whole.path
        raise ValueError(
            f"{where}: none of its {len(whole):,} tensors is in every part under one name, in one "
            "shape and of a dtype that is decoded: there is nothing to compare"
        )
    means = compared_with_mean(
        checkpoints,
        names,
        threads=threads,
        isa=isa,
        io=io,
        on_progress=on_progress and (lambda done, total: on_progress(total + done, 2 * total)),
    )
    return MixReport(
        target=checkpoints[-1],
        parts=checkpoints[:-1],
        rules=rules,
        map_choice=map,
        run=run,
        means=means,
        remarks=remarks,
        notes=notes,
        seconds=time.perf_counter() - start,
    )


def series(
    checkpoints: CheckpointLike | Iterable[CheckpointLike] | Mapping[str, CheckpointLike] = (),
    *,
    lists: str | PathLike[str] | Iterable[str | PathLike[str]] = (),
    order: str = "position",
    map: str = "auto",  # noqa: A002 - as that of diff
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    threads: int = 0,
    isa: str | None = None,
    io: str = "auto",
    on_progress: Progress | None = None,
    key: str | None = None,
    optimizer: bool = False,
) -> SeriesReport:
    """Read the checkpoints of a training run once each, and tell how its weights moved.

    The tensors that all of them have under one name and in one shape are compared; a checkpoint of
    another architecture, or one that cannot be read, is reported and left out.

    Args:
        checkpoints: A directory of checkpoints (which may lie in directories for stages and
            ingredients), or several paths, each a checkpoint or such a directory. Tensors in memory
            come as a mapping of labels to checkpoints; a label such as
            ``stage2-ingredient1-step1000`` tells where training stood.
        lists: CSV files with the columns of OLMo's published lists (``Step``, ``Checkpoint
            Directory``, and where there are such, ``Stage``, ``Ingredient`` and ``Tokens Seen``).
        order: ``position`` orders by stage, ingredient and step, updates being taken along the
            branches; ``given`` keeps the order, each checkpoint following the one before it.
        map: ``auto`` maps the names of OLMo, OLMo-core and Hugging Face to those that most of the
            checkpoints have; ``none`` leaves them.
        include: As for :func:`diff`.
        exclude: As for :func:`diff`.
        threads: As for :func:`diff`.
        isa: As for :func:`diff`.
        io: As for :func:`diff`.
        on_progress: As for :func:`diff`; where a checkpoint turns out damaged, it begins anew.
        key: As for :func:`open`.
        optimizer: As for :func:`open`.

    Raises:
        ValueError: An option is out of range, a list is not one, the globs leave nothing, or fewer
            than two checkpoints, or no tensor that all have, are left.
        CheckpointNotFoundError: A path that was given does not exist.
        TypeError: What was given is neither a path nor a checkpoint.
    """
    from ckptdiff.dynamics.candidates import candidates_of
    from ckptdiff.dynamics.order import check_order
    from ckptdiff.dynamics.report import SeriesOptions, SeriesReport
    from ckptdiff.dynamics.run import Reading, read_series
    from ckptdiff.suggest import unknown

    rules = Rules.of(include, exclude)
    reading = Reading(
        threads=check_threads(threads),
        isa=check_isa(isa),
        io=check_io(io),
        on_progress=on_progress,
    )
    checked_order = check_order(order)
    if map not in ("auto", "none"):
        raise ValueError(unknown("map", map, ("auto", "none")))

    def open_one(checkpoint: CheckpointLike) -> Checkpoint:
        key_of_path = key if isinstance(checkpoint, (str, PathLike)) else None
        opened = open(checkpoint, key=key_of_path, optimizer=optimizer)
        refuse_elsewhere("a series", opened)
        return opened

    candidates, problems = candidates_of(checkpoints, lists, open_one)
    result = read_series(
        candidates,
        rules=rules,
        map_choice=map,
        order=checked_order,
        reading=reading,
        problems=problems,
    )
    return SeriesReport(
        result.data,
        problems=result.problems,
        options=SeriesOptions(rules.include, rules.exclude, checked_order, map),
        bytes_read=result.bytes_read,
        seconds=result.seconds,
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


def _torch_backend(
    device: str | None, processes: Processes, *checkpoints: Checkpoint
) -> ModuleType | None:
    """The backend where torch reduces: on a device of its own, or what the core cannot reach.

    It is in all of the processes that make a call together, or in none.
    """
    elsewhere = bool(processes) or any(checkpoint.device_tensors for checkpoint in checkpoints)
    if device in (None, devices.CORE) and not elsewhere:
        return None
    # imported before any clock starts: torch takes seconds
    from ckptdiff.backends.torch import run

    return run


def _compared(sides: Sides, options: DiffOptions) -> Iterator[object]:
    """What processes that diff together must have alike: options, rows, and what has no row."""
    from ckptdiff.backends.torch.shards import placement_of

    yield {
        "atol": options.atol,
        "rtol": options.rtol,
        "cast": options.cast,
        "thresholds": options.thresholds,
        "histogram": options.histogram,
    }
    a, b, pairing = sides.a, sides.b, sides.pairing
    for index_a, index_b in pairing.pairs:
        of_a, of_b = a.tensor_at(index_a), b.tensor_at(index_b)
        placements = [
            placement_of(side.device_tensors.get(tensor.name))
            for side, tensor in ((a, of_a), (b, of_b))
        ]
        yield of_b.name, of_b.shape, of_a.dtype, of_b.dtype, *placements
    for side, alone in ((a, pairing.only_in_a), (b, pairing.only_in_b)):
        for index in alone:
            tensor = side.tensor_at(index)
            yield tensor.name, tensor.shape, tensor.dtype, "without a partner"
    for index_a, index_b in pairing.shape_mismatch:
        yield b.tensor_at(index_b).name, a.tensor_at(index_a).shape, b.tensor_at(index_b).shape


def _described(checkpoint: Checkpoint, named: Named, options: StatsOptions) -> Iterator[object]:
    """The same for stats."""
    from ckptdiff.backends.torch.shards import placement_of

    yield {"histogram": options.histogram}
    for index in range(len(checkpoint)):
        if named.keeps(index):
            tensor = checkpoint.tensor_at(index)
            placement = placement_of(checkpoint.device_tensors.get(tensor.name))
            yield tensor.name, tensor.shape, tensor.dtype, placement


def _undecoded(a: Checkpoint, b: Checkpoint, pair: tuple[int, int]) -> TensorRef:
    """The tensor of a pair whose dtype cannot be decoded, A's where it is both."""
    in_a, in_b = a.tensor_at(pair[0]), b.tensor_at(pair[1])
    return in_b if in_a.dtype in _core.dtype_names() else in_a


def _left_out(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What is not compared of a module's state; of files, ``ls`` tells what else is there."""
    return checkpoint.notes if checkpoint.path is None else ()


def refuse_elsewhere(what: str, *checkpoints: Checkpoint) -> None:
    """Raise ValueError, by name, for a tensor that the core cannot read where it is."""
    for checkpoint in checkpoints:
        for name in checkpoint.device_tensors:
            raise ValueError(
                f"tensor {name!r} lies on a device or is spread over processes, and {what} reads "
                "the host's memory only; move it there first (tensor.cpu(), tensor.full_tensor())"
            )


def refuse_empty_choice(*sides: tuple[Checkpoint, Named]) -> None:
    """Raise where the globs leave no tensor on any side: success on nothing would be a lie."""
    tensors = sum(len(checkpoint) for checkpoint, _ in sides)
    left_out = sum(named.left_out for _, named in sides)
    if tensors and left_out == tensors:
        raise ValueError(f"include and exclude leave none of {tensors} tensors to look at")
