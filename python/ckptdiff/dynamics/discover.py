"""Finds the checkpoints of a series: in a run's directory, by their paths, or in a published list.

A run's directory holds checkpoints, or directories of them for stages and ingredients, two levels
deep at most; what can be opened as a checkpoint is one. Some runs leave files (``step100.pt``)
instead. The Hub's cache has a snapshot for each revision, named by the file in ``refs`` that points
to it. A list is a CSV file as OLMo's are published: ``Step,Checkpoint Directory``, with
``Ingredient`` or ``Stage`` in front. Such lists name addresses; a copy of the directory below the
list's own folder stands for the address.

Nothing is opened here, only recognised. What is there twice is named once.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ckptdiff.dynamics.natural import natural_key
from ckptdiff.dynamics.problems import Problem
from ckptdiff.dynamics.saved import is_stored
from ckptdiff.errors import CheckpointNotFoundError, CheckpointReadError
from ckptdiff.formats import reader_of
from ckptdiff.naming.revisions import Revision, parse_revision

__all__ = ["Found", "Search", "find", "read_list", "revision_of", "tell_apart"]

# Between a run's directory and its checkpoints: stages, and ingredients in them.
_LEVELS = 2

_SUFFIXES = (
    ".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz", ".npy", ".gguf",
)  # fmt: skip

# A piece of a checkpoint, or what lies beside the weights.
_NO_CHECKPOINT = re.compile(
    r".*-\d+-of-\d+|shard-\d+.*|consolidated\.\d+|(optim|scheduler|scaler|rng_state|random_states"
    r"|training_args).*"
)
# What OLMo-core's trainer puts beside the weights of a step.
_TRAINER_STATE = ("train", "rank0.pt")
_STEP_FILE = re.compile(r"\d")

_LIST_BYTES_AT_MOST = 64 << 20
_DIRECTORY_COLUMNS = ("checkpoint directory", "directory", "path", "checkpoint")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# Fewer components of an address than these would name many a directory.
_ADDRESS_TAIL = 2
_NAMED_AT_MOST = 3


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint's path, what to call it, and what a list says of its position."""

    label: str
    path: str
    stage: int | None = None
    ingredient: int | None = None
    step: int | None = None
    tokens: int | None = None


@dataclass(slots=True)
class Search:
    """What was found, in natural order or that of the list, and what was odd about it."""

    found: list[Found] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _by_real_path: dict[str, Found] = field(default_factory=dict)

    def add(self, found: Found) -> None:
        """Take a checkpoint, once, and rather by its own name than by that of a link to it."""
        real = os.path.realpath(found.path)
        known = self._by_real_path.get(real)
        if known is None:
            self._by_real_path[real] = found
            self.found.append(found)
            return
        kept, other = known, found
        if os.path.islink(known.path) and not os.path.islink(found.path):
            kept, other = found, known
            self._by_real_path[real] = found
            self.found.remove(known)
            self.found.append(found)
        if os.path.islink(other.path):
            text = f"{other.path}: a link to {kept.label}, which is read once"
        elif other.label != kept.label:
            # two branches of a repository at one commit
            text = f"{other.label}: the same as {kept.label}, which is read once"
        else:
            text = f"{other.path}: given more than once, read once"
        self.problems.append(Problem("listed_twice", text, (kept.label,)))


def find(paths: Sequence[str], search: Search) -> None:
    """Add the checkpoints at ``paths``, each a checkpoint or a directory of some.

    Raises CheckpointNotFoundError where a path does not exist or has no checkpoint,
    CheckpointReadError where a directory cannot be read, and ValueError for a saved series.
    """
    labels = _labels(paths)
    for path, label in zip(paths, labels, strict=True):
        if not os.path.lexists(path):
            raise CheckpointNotFoundError(f"{path}: no such file or directory")
        if _is_saved_series(path):
            raise ValueError(
                f"{path}: a saved series is shown by itself, and has no checkpoints to read"
            )
        try:
            members = list(_members(path)) if os.path.isdir(path) else []
        except OSError as error:
            raise CheckpointReadError(f"{path}: {error.strerror or error}") from error
        if not members or _is_one(path, members):
            search.add(Found(label, path))
            continue
        if _has_model_beside(path, members):
            text = f"{path}: the model beside its checkpoints is not one of them; name it to add it"
            search.problems.append(Problem("not_a_member", text))
        prefix = f"{label}/" if len(paths) > 1 else ""
        for member in members:
            search.add(Found(prefix + member.label, member.path))


def read_list(path: str, search: Search) -> None:
    """Add the checkpoints that a CSV file lists, or the problem that they are not there.

    A directory is looked for below the folder of the file, then below the working directory. Where
    there are a column ``Ingredient`` and none ``Stage``, the stage is 2, as in OLMo 2's lists.

    Raises CheckpointNotFoundError where there is no such file, and ValueError where it has no
    column of directories or a field that is no number.
    """
    missing: list[str] = []
    folder = os.path.dirname(os.path.abspath(path))
    twice: dict[tuple[str, ...], int] = {}
    for line, row in _list_rows(path):
        key = tuple(row.get(name, "") for name in (*_POSITION_COLUMNS, "directory"))
        twice[key] = twice.get(key, 0) + 1
        if twice[key] > 1:
            continue
        stage = _number_in(path, line, row, "stage")
        ingredient = _number_in(path, line, row, "ingredient")
        step = _number_in(path, line, row, "step")
        tokens = _number_in(path, line, row, "tokens seen")
        if stage is None and ingredient is not None:
            stage = 2
        directory = row["directory"]
        if not directory:
            raise ValueError(f"{path}: line {line} names no directory")
        place = _local(directory, folder)
        if place is None:
            missing.append(directory)
            continue
        label = _position_label(stage, ingredient, step) or os.path.basename(place.rstrip("/"))
        search.add(Found(label, place, stage, ingredient, step, tokens))
    repeated = sum(count - 1 for count in twice.values())
    if repeated:
        text = f"{path}: {repeated:,} rows repeat another one and are read once"
        search.problems.append(Problem("listed_twice", text))
    if missing:
        rest = len(missing) - _NAMED_AT_MOST
        some = ", ".join(missing[:_NAMED_AT_MOST]) + (f" and {rest:,} more" if rest > 0 else "")
        text = f"{path}: {len(missing):,} of {len(twice):,} checkpoints are not here: {some}"
        search.problems.append(Problem("not_found", text))


def revision_of(label: str) -> Revision:
    """What a label says: ``stage2/ingredient1/step9`` as with hyphens, ``run/500`` as 500."""
    parts = [part for part in re.split(r"[/\\]", label) if part]
    last = parse_revision(parts[-1] if parts else "")
    whole = parse_revision("-".join(parts))
    if last.step is None and last.index is None:
        return whole
    return replace(
        whole,
        step=last.step,
        steps=last.steps,
        tokens=last.tokens,
        tokens_unit=last.tokens_unit,
        index=last.index,
        is_called_soup=last.is_called_soup,
    )


def _members(directory: str, levels: int = _LEVELS) -> Iterator[Found]:
    """The checkpoints below a directory, labelled by where they are in it."""
    revisions = list(_hub_revisions(directory))
    if revisions:
        yield from revisions
        return
    for name in sorted(os.listdir(directory), key=natural_key):
        path = os.path.join(directory, name)
        if name.startswith((".", "__")) or name.endswith((".tmp", "-tmp")):
            continue
        if not os.path.isdir(path):
            stem, suffix = os.path.splitext(name)
            if _is_saved_series(path):
                continue
            if suffix in _SUFFIXES and _is_step_file(stem) and _is_checkpoint(path):
                yield Found(stem, path)
            elif _is_damaged_step(path, stem, suffix):
                yield Found(stem if suffix in _SUFFIXES else name, path)
            continue
        if name == _TRAINER_STATE[0] and os.path.isfile(os.path.join(path, _TRAINER_STATE[1])):
            continue
        inner: list[Found] = []
        if levels and os.access(path, os.R_OK | os.X_OK):
            inner = list(_members(path, levels - 1))
        if inner and not _is_one(path, inner):
            yield from (Found(f"{name}/{found.label}", found.path) for found in inner)
        elif _is_checkpoint(path) or _tells_step(name):
            # one that is named like a step and holds no checkpoint is reported when it is opened
            yield Found(name, path)


def _hub_revisions(directory: str) -> Iterator[Found]:
    """The revisions of a repository in the Hub's cache: a file of ``refs`` names each commit."""
    refs, snapshots = os.path.join(directory, "refs"), os.path.join(directory, "snapshots")
    if not os.path.isdir(refs) or not os.path.isdir(snapshots):
        return
    files = [
        os.path.relpath(os.path.join(folder, name), refs)
        for folder, _, names in os.walk(refs)
        for name in names
    ]
    # of two names of one commit, the one that tells a step
    for label in sorted(files, key=lambda name: (not _tells_step(name), natural_key(name))):
        with open(os.path.join(refs, label), encoding="utf-8", errors="replace") as file:
            commit = file.read(256).strip()
        snapshot = os.path.join(snapshots, commit)
        if commit and os.path.basename(commit) == commit and os.path.isdir(snapshot):
            yield Found(label, snapshot)


def _is_checkpoint(path: str) -> bool:
    try:
        return reader_of(path) is not None
    except OSError:
        # what cannot be read now is reported when it is opened
        return _tells_step(os.path.basename(path))


def _has_model_beside(directory: str, members: Sequence[Found]) -> bool:
    """Whether a directory of checkpoints has the files of another one beside them.

    A repository of the Hub opens as its branch ``main``, which is one of its revisions, and a
    series that was saved there is no model.
    """
    return (
        all(os.path.isdir(member.path) for member in members)
        and not os.path.isdir(os.path.join(directory, "snapshots"))
        and not any(
            _is_saved_series(os.path.join(directory, name)) for name in os.listdir(directory)
        )
        and _is_checkpoint(directory)
    )


def _is_saved_series(path: str) -> bool:
    try:
        return is_stored(path)
    except OSError:
        # what cannot be read is reported when it is opened, if it is one that counts
        return False


def _is_one(directory: str, members: Sequence[Found]) -> bool:
    """Whether a directory is a checkpoint itself, and what lies in it are parts of that.

    Parts tell no step, or that of the directory, as ``global_step5`` in ``checkpoint-5`` does, the
    optimizer's folder. It can lack its weights, but the parts have to be no checkpoints then.
    """
    own = _told(os.path.basename(os.path.abspath(directory)))
    if any(_told(found.label) not in (own, _NOTHING) for found in members):
        return False
    if _is_checkpoint(directory):
        return True
    return own != _NOTHING and not any(_is_checkpoint(found.path) for found in members)


def _is_damaged_step(path: str, stem: str, suffix: str) -> bool:
    """Whether a file is called a step and holds none, or is a link to nothing: for a report.

    A bare number may be anything's name, so it takes the word.
    """
    name = stem if suffix in _SUFFIXES else stem + suffix
    leads_nowhere = os.path.islink(path) and not os.path.exists(path)
    is_called_so = _tells_step(name) and not name.isdigit() and _is_step_file(name)
    return is_called_so and (suffix in _SUFFIXES or leads_nowhere)


def _is_step_file(stem: str) -> bool:
    return _STEP_FILE.search(stem) is not None and _NO_CHECKPOINT.fullmatch(stem) is None


_NOTHING = (None, None)


def _told(label: str) -> tuple[int | None, int | None]:
    """The step, or the number of the checkpoint, that a label tells."""
    revision = revision_of(label)
    return revision.step, revision.index


def _tells_step(label: str) -> bool:
    return _told(label) != _NOTHING


def _labels(paths: Sequence[str]) -> list[str]:
    """The paths without what they have in common, and without the suffix of a file."""
    absolute = [os.path.abspath(path) for path in paths]
    folders = {os.path.dirname(path) for path in absolute}
    try:
        common = os.path.commonpath(folders) if folders else ""
    except ValueError:  # drives of Windows
        common = ""
    labels = []
    for path in absolute:
        stem, suffix = os.path.splitext(path)
        text = stem if suffix in _SUFFIXES and os.path.isfile(path) else path
        labels.append(os.path.relpath(text, common).replace(os.sep, "/") if common else text)
    return labels


def tell_apart(search: Search) -> None:
    """Give what would have one label, such as ``step1.pt`` and ``step1.bin``, its path instead."""
    counts: dict[str, int] = {}
    for found in search.found:
        counts[found.label] = counts.get(found.label, 0) + 1
    search.found = [
        Found(found.path, found.path, found.stage, found.ingredient, found.step, found.tokens)
        if counts[found.label] > 1
        else found
        for found in search.found
    ]


# -- lists ----------------------------------------------------------------------------------------

_POSITION_COLUMNS = ("stage", "ingredient", "step", "tokens seen")


def _list_rows(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of each row, the columns by their names in small letters."""
    try:
        size = os.path.getsize(path)
        if size > _LIST_BYTES_AT_MOST:
            raise ValueError(f"{path}: {size:,} bytes are more than a list of checkpoints has")
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip().lower() for name in next(reader, [])]
            named = next((name for name in _DIRECTORY_COLUMNS if name in header), None)
            if named is None:
                columns = ", ".join(map(repr, header[:8])) or "none"
                raise ValueError(
                    f"{path}: no column 'Checkpoint Directory' in the first line, only {columns}"
                )
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise ValueError(
                        f"{path}: line {reader.line_num} has {len(cells)} fields, "
                        f"expected {len(header)}"
                    )
                row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
                row["directory"] = row[named]
                yield reader.line_num, row
    except FileNotFoundError:
        raise CheckpointNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointReadError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a CSV file in UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file: {error}") from None


def _number_in(path: str, line: int, row: dict[str, str], column: str) -> int | None:
    """A number of a row: ``3``, ``1,000`` or, of a stage, ``stage3_longcontext``."""
    text = row.get(column, "")
    if not text:
        return None
    pattern = r"(?:stage_?)?(\d{1,18})(?:_\w*)?" if column == "stage" else r"(\d[\d,]{0,24})"
    match = re.fullmatch(pattern, text, re.ASCII)
    if match is None:
        raise ValueError(f"{path}: line {line}: {column} {text[:80]!r} is no number")
    return int(match[1].replace(",", ""))


def _local(directory: str, folder: str) -> str | None:
    """Where a listed directory is on this machine."""
    address = _ADDRESS.match(directory)
    if address is None:
        places = [os.path.join(folder, directory), directory]
    else:
        parts = [part for part in directory[address.end() :].split("/") if part]
        if ".." in parts:
            return None
        tails = [os.path.join(*parts[at:]) for at in range(len(parts) - _ADDRESS_TAIL + 1)]
        places = [os.path.join(root, tail) for tail in tails for root in (folder, os.getcwd())]
    return next((os.path.normpath(place) for place in places if os.path.exists(place)), None)


def _position_label(stage: int | None, ingredient: int | None, step: int | None) -> str:
    if step is None:
        return ""
    parts = [("stage", stage), ("ingredient", ingredient), ("step", step)]
    return "-".join(f"{name}{value}" for name, value in parts if value is not None)
