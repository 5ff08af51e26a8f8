"""A proposal of which tensors are the same, where names do not tell: a map for the user to read.

Three kinds of evidence, in this order, and only what is unambiguous counts:

1. *Bytes.* Two tensors of one shape and dtype with the same content hash, of which each side has
   only one, are the same tensor; a matrix may also be the transpose of the other.
2. *Shapes.* Names that differ in nothing but numbers (``blocks.0.w``, ``blocks.1.w``) are a series.
   Where a series of A and one of B have the same numbers and the same shapes, and no other series
   has, they are the same; bytes that agree in one layer speak for all layers.
3. *Names.* Among several series of the same numbers and shapes, two whose names are each other's
   most similar, by a clear margin, are the same.

What comes of it is a TOML file that ``--map`` reads. A guess is a guess: nothing uses the proposal
before the user does.
"""

from __future__ import annotations

import enum
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ckptdiff import _core
from ckptdiff._core import Manifest, Pairing
from ckptdiff.checkpoint import Checkpoint
from ckptdiff.naming.map_file import SCHEMA
from ckptdiff.naming.parts import Shape

__all__ = ["Proposal", "propose_map"]

#: How much more similar than the next best a name must be.
_MARGIN = 0.1

#: Names that are compared with each other, for all of one shape.
_COMPARED_AT_MOST = 10_000

#: Below this no two names are similar.
_SIMILAR = 0.3

#: A component of digits alone, as in :mod:`ckptdiff.naming.groups`.
_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")

#: Stands for a number in a pattern; no name has it, or none of any use.
_ANY = "\0"
_WORD = re.compile(r"[a-z]+|[A-Z][a-z]*|[0-9]+")

#: What one word is called elsewhere, so that names can be compared.
_SYNONYMS = {
    "wte": "embeddings", "embed": "embeddings", "emb": "embeddings", "embd": "embeddings",
    "embedding": "embeddings", "tok": "tokens", "token": "tokens", "attn": "attention",
    "att": "attention", "ln": "norm", "layernorm": "norm", "proj": "", "weight": "", "model": "",
    "wq": "q", "wk": "k", "wv": "v", "wo": "o", "out": "o", "output": "o", "query": "q", "key": "k",
    "value": "v", "w1": "gate", "w2": "down", "w3": "up", "ffn": "mlp", "ff": "mlp",
    "feed": "mlp", "forward": "", "self": "", "blocks": "layers", "block": "layers",
    "layer": "layers", "h": "layers",
}  # fmt: skip

Numbers: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """``text`` is the TOML file; ``tensors`` of the ``wanted`` have a partner by it."""

    text: str
    tensors: int
    wanted: int


def propose_map(a: Checkpoint, b: Checkpoint, *, threads: int = 0, io: str = "auto") -> Proposal:
    """Propose a map for the tensors of ``a`` and ``b`` that have no partner.

    The bytes of those of them that could be the same by shape and dtype are read and hashed.

    Raises ValueError where nothing can be proposed.
    """
    pairing = Pairing(a.manifest, b.manifest)
    side_a = _Side(a, pairing.only_in_a, threads, io)
    side_b = _Side(b, pairing.only_in_b, threads, io)
    if not side_a.left or not side_b.left:
        side = "B" if side_a.left else "A"
        raise ValueError(f"no map to propose: every tensor of {side} has a partner by its name")
    wanted = min(len(side_a.left), len(side_b.left))
    found = _Found()
    for turn in _Turn:
        _by_bytes(side_a, side_b, turn, found)
    _by_shapes(side_a, side_b, found)
    _by_names(side_a, side_b, found)
    tensors = sum(len(pair.a.members) for pair in found.pairs) + len(found.singles)
    if not tensors:
        raise ValueError(
            "no map to propose: of the tensors without a partner no two have the same bytes, "
            "or the same shape and similar names without a rival"
        )
    return Proposal(_as_toml(side_a, side_b, found, tensors, wanted), tensors, wanted)


class _Turn(enum.Enum):
    """Whether a matrix of A is held against B's as it is, or the other way round."""

    STRAIGHT = "straight"
    TRANSPOSED = "transposed"

    def shape(self, shape: Shape) -> Shape:
        return shape if self is _Turn.STRAIGHT else shape[::-1]


class _Series(NamedTuple):
    """Tensors whose names differ in numbers only: ``pattern`` has ``_ANY`` for each."""

    pattern: str
    members: Mapping[Numbers, int]


class _Pair(NamedTuple):
    """Two series that are the same, and why."""

    a: _Series
    b: _Series
    reason: str
    turn: _Turn


class _Found:
    """What is known so far: series, and single tensors whose series are not the same."""

    def __init__(self) -> None:
        self.pairs: list[_Pair] = []
        self.singles: dict[int, int] = {}
        self.reasons: dict[str, str] = {}
        self._series_b: set[str] = set()
        self._singles_b: set[int] = set()

    def add(self, pair: _Pair) -> None:
        """Two series that are the same."""
        self.pairs.append(pair)
        self.reasons[pair.a.pattern] = pair.reason
        self._series_b.add(pair.b.pattern)

    def add_singles(self, same: Iterable[tuple[int, int]]) -> None:
        """Tensors that are the same."""
        for index_a, index_b in same:
            self.singles[index_a] = index_b
            self._singles_b.add(index_b)

    def has_a(self, series: _Series, index: int) -> bool:
        """Whether a tensor of A has a partner."""
        return index in self.singles or series.pattern in self.reasons

    def has_b(self, series: _Series, index: int) -> bool:
        """Whether a tensor of B has a partner."""
        return index in self._singles_b or series.pattern in self._series_b


class _Side:
    """One checkpoint's tensors without a partner."""

    def __init__(self, checkpoint: Checkpoint, left: Sequence[int], threads: int, io: str) -> None:
        self.manifest: Manifest = checkpoint.manifest
        self.names = checkpoint.names()
        self.left = list(left)
        listed = self.manifest.tensors(range(len(self.names)))
        self.dtypes = [dtype for _, dtype, *_ in listed]
        self.shapes: list[Shape] = [shape for _, _, shape, *_ in listed]
        self._threads, self._io = threads, io
        grouped: dict[str, dict[Numbers, int]] = defaultdict(dict)
        for index in self.left:
            name = self.names[index]
            grouped[_NUMBER.sub(_ANY, name)][tuple(_NUMBER.findall(name))] = index
        self.series = [_Series(pattern, members) for pattern, members in grouped.items()]
        self.series_of = {
            index: series for series in self.series for index in series.members.values()
        }

    def kind(self, series: _Series, turn: _Turn) -> frozenset[tuple[Numbers, Shape]]:
        """The numbers and shapes of a series: what another must have to be the same."""
        members = series.members.items()
        return frozenset((numbers, turn.shape(self.shapes[index])) for numbers, index in members)

    def numbers(self, index: int) -> Numbers:
        """The numbers in a tensor's name."""
        return tuple(_NUMBER.findall(self.names[index]))

    def hashes(self, indices: Sequence[int], turn: _Turn) -> dict[str, int]:
        """The tensor of each content hash that only one of these has."""
        if not indices:
            return {}
        items = [
            (str(index), index)
            if turn is _Turn.STRAIGHT
            else (str(index), self.shapes[index][::-1], [(index, 0, self.shapes[index], (1, 0))])
            for index in indices
        ]
        table = _core.stats(
            self.manifest.derived(items), content_hash=True, threads=self._threads, io=self._io
        )
        found: dict[str, list[int]] = defaultdict(list)
        for name, digest in zip(table.column("name"), table.column("hash"), strict=True):
            found[str(digest)].append(int(str(name)))
        return {digest: held[0] for digest, held in found.items() if len(held) == 1}


def _by_bytes(a: _Side, b: _Side, turn: _Turn, found: _Found) -> None:
    """Add what has the same bytes: the whole series if nothing speaks against it."""
    known = set(_core.dtype_names())
    kinds_a: dict[tuple[str, Shape], list[int]] = defaultdict(list)
    kinds_b: dict[tuple[str, Shape], list[int]] = defaultdict(list)
    for side, kinds, its_turn, is_taken in (
        (a, kinds_a, turn, found.has_a),
        (b, kinds_b, _Turn.STRAIGHT, found.has_b),
    ):
        for index in side.left:
            shape, dtype = side.shapes[index], side.dtypes[index]
            turns = turn is _Turn.STRAIGHT or (len(shape) == 2 and min(shape) > 1)
            if dtype in known and turns and not is_taken(side.series_of[index], index):
                kinds[dtype, its_turn.shape(shape)].append(index)
    common = sorted(kinds_a.keys() & kinds_b.keys())
    hashes_a = a.hashes([index for kind in common for index in kinds_a[kind]], turn)
    hashes_b = b.hashes([index for kind in common for index in kinds_b[kind]], _Turn.STRAIGHT)
    same = {hashes_a[digest]: hashes_b[digest] for digest in hashes_a.keys() & hashes_b.keys()}
    votes: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for index_a, index_b in sorted(same.items()):
        pair = a.series_of[index_a].pattern, b.series_of[index_b].pattern
        votes[pair].append((index_a, index_b))
    rivals_a, rivals_b = Counter(pair[0] for pair in votes), Counter(pair[1] for pair in votes)
    for (pattern_a, pattern_b), evidence in votes.items():
        series_a, series_b = a.series_of[evidence[0][0]], b.series_of[evidence[0][1]]
        agree = all(a.numbers(index_a) == b.numbers(index_b) for index_a, index_b in evidence)
        alone = rivals_a[pattern_a] == 1 and rivals_b[pattern_b] == 1
        if agree and alone and a.kind(series_a, turn) == b.kind(series_b, _Turn.STRAIGHT):
            count = f"{len(evidence)} of {len(series_a.members)}"
            found.add(_Pair(series_a, series_b, f"same bytes in {count}", turn))
        elif turn is _Turn.STRAIGHT:
            found.add_singles(evidence)


def _by_shapes(a: _Side, b: _Side, found: _Found) -> None:
    """Add series of the same numbers and shapes of which each side has only one."""
    for rivals_a, rivals_b in _rivals(a, b, found):
        if len(rivals_a) == len(rivals_b) == 1:
            reason = "the only ones of such numbers and shapes"
            found.add(_Pair(rivals_a[0], rivals_b[0], reason, _Turn.STRAIGHT))


def _by_names(a: _Side, b: _Side, found: _Found) -> None:
    """Add series of the same numbers and shapes whose names are each other's most similar."""
    for rivals_a, rivals_b in _rivals(a, b, found):
        if len(rivals_a) * len(rivals_b) > _COMPARED_AT_MOST:
            continue
        scores = [[_similarity(one.pattern, two.pattern) for two in rivals_b] for one in rivals_a]
        columns = list(zip(*scores, strict=True))
        for one, row in zip(rivals_a, scores, strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            column = columns[best]
            others = [*row, *column]
            others.remove(row[best])
            others.remove(row[best])
            if row[best] >= _SIMILAR and row[best] >= max(others, default=0.0) + _MARGIN:
                reason = "of the same numbers and shapes, the most similar in name"
                found.add(_Pair(one, rivals_b[best], reason, _Turn.STRAIGHT))


def _rivals(a: _Side, b: _Side, found: _Found) -> list[tuple[list[_Series], list[_Series]]]:
    """The series of each numbers and shapes that have no partner yet and could have one."""
    kinds: dict[frozenset[tuple[Numbers, Shape]], tuple[list[_Series], list[_Series]]] = {}
    for place, (side, is_taken) in enumerate(((a, found.has_a), (b, found.has_b))):
        for series in side.series:
            if not any(is_taken(series, index) for index in series.members.values()):
                kind = side.kind(series, _Turn.STRAIGHT)
                kinds.setdefault(kind, ([], []))[place].append(series)
    return [both for both in kinds.values() if both[0] and both[1]]


def _similarity(one: str, two: str) -> float:
    """How many words two names share, of those that any of them has: 0 to 1."""
    words_one, words_two = _words(one), _words(two)
    either = words_one | words_two
    return len(words_one & words_two) / len(either) if either else 0.0


def _words(pattern: str) -> frozenset[str]:
    words = (word.lower() for word in _WORD.findall(pattern))
    return frozenset(_SYNONYMS.get(word, word) for word in words) - {""}


def _as_toml(a: _Side, b: _Side, found: _Found, tensors: int, wanted: int) -> str:
    lines = [
        f"# A proposal: it gives {tensors:,} of {wanted:,} tensors a partner. Read it before use.",
        f'schema = "{SCHEMA}"',
    ]
    names = dict(found.singles)
    rules: list[str] = []
    for pair in sorted(found.pairs, key=lambda pair: pair.a.pattern):
        if pair.turn is _Turn.STRAIGHT and _ANY not in pair.a.pattern:
            names[next(iter(pair.a.members.values()))] = next(iter(pair.b.members.values()))
            continue
        key = "rename" if pair.turn is _Turn.STRAIGHT else "transpose"
        expression, template = _as_expression(pair.a.pattern), _as_template(pair.b.pattern)
        rules += ["", f"[[rule]]  # {pair.reason}"]
        rules += [f"{key} = {_quoted(expression)}", f"to = {_quoted(template)}"]
    if names:
        lines += ["", "[names]"]
    for index_a, index_b in sorted(names.items()):
        pattern = a.series_of[index_a].pattern
        reason = found.reasons.get(pattern, "same bytes")
        old, new = a.names[index_a], b.names[index_b]
        lines.append(f"{_quoted(old)} = {_quoted(new)}  # {reason}")
    return "\n".join([*lines, *rules]) + "\n"


def _as_expression(pattern: str) -> str:
    return f"^{'([0-9]+)'.join(map(re.escape, pattern.split(_ANY)))}$"


def _as_template(pattern: str) -> str:
    parts = pattern.replace("\\", "\\\\").split(_ANY)
    groups = (f"\\g<{number}>{part}" for number, part in enumerate(parts[1:], 1))
    return parts[0] + "".join(groups)


def _quoted(text: str) -> str:
    """A TOML string: in single quotes, where nothing is escaped, if it can be."""
    if "'" not in text and text.isprintable():
        return f"'{text}'"
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
