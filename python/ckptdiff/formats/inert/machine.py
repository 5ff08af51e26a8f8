"""The pickle machine: a stack, a memo and forty opcodes, and none that can run anything.

A pickle is a program. Python's own machine imports what GLOBAL names and calls it at REDUCE, which
is how a checkpoint takes over the machine that loads it. This one has a table of stand-ins instead.
It calls nothing but a :class:`Constructor` from that table, which takes plain values and returns
one.

The core goes first: it finds where the pickle ends, checks that lengths are of what is there and
that there is no opcode which nobody needs, and drops the memo entries that are never read, which
are most of the memory that unpickling takes.

Work and memory are bounded by the length of the pickle. Each opcode makes at most one small value;
containers are references, so that nesting and aliasing cost nothing here (whoever walks the result
has to expect both, and cycles). Three things could still grow faster than the input and have rules
of their own:

- a constructor may copy its arguments, and a memoised argument can be given to thousands of them:
  the arguments' lengths are charged to an allowance;
- dictionaries whose keys all have one hash take quadratic time, and hashes of large integers and
  of tuples can be chosen: such keys are kept as :class:`IdentityKey`, texts are hashed with a
  secret;
- integers of millions of digits take quadratic time in nearly anything: there is a limit.
"""

from __future__ import annotations

import gc
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from ckptdiff._core import give_back_freed_memory, strip_pickle
from ckptdiff.errors import InvalidCheckpointError

__all__ = [
    "Constructor",
    "ForbiddenGlobalError",
    "IdentityKey",
    "InertObject",
    "PickleCutOffError",
    "Unpickled",
    "inert_class",
    "inert_classes",
    "unpickle",
]

_HIGHEST_PROTOCOL = 5
_INTEGER_BYTES_AT_MOST = 256
#: Characters of a module and a name in it.
_LONGEST_NAME = 1024
_FREE_ALLOWANCE = 65536
_LARGE_PICKLE = 1 << 22
# Below this, the hash of an integer is the integer.
_INTEGER_HASHED_AS_ITSELF = 2**61 - 1

# Python 2's names, as its pickles spell them.
_RENAMED_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class ForbiddenGlobalError(InvalidCheckpointError):
    """A pickle refers to something that no stand-in is known for; it has not been imported."""


class PickleCutOffError(InvalidCheckpointError):
    """The data ends before the pickle does."""


class Unpickled(NamedTuple):
    """What a pickle stands for, and where in the data it ends."""

    value: object
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Constructor:
    """The stand-in for a class or function: ``make`` gives what stands for a call's result.

    ``make`` gets the call's positional arguments, whatever they are, and may raise TypeError or
    ValueError where they make no sense. Its work must be linear in their lengths.
    """

    name: str
    make: Callable[..., object]


class InertObject:
    """An instance of a class that we do not have: its name, arguments and state as they are."""

    __slots__ = ("arguments", "kind", "state")

    def __init__(self, kind: str, arguments: tuple[object, ...]) -> None:
        self.kind = kind
        self.arguments = arguments
        self.state: object = None

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class IdentityKey:
    """A dictionary's key whose own hash a file could choose: equal only to itself."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


def inert_class(name: str) -> Constructor:
    """The stand-in for a class of that full name: calls give an :class:`InertObject`."""
    return Constructor(name, lambda *arguments: InertObject(name, arguments))


def inert_classes(*names: str) -> dict[str, object]:
    """A table of :func:`inert_class` by full names (``module.Class``)."""
    return {name: inert_class(name) for name in names}


def unpickle(
    data: bytes,
    *,
    source: str,
    known: Mapping[str, object],
    persistent_load: Callable[[object], object] | None = None,
    start: int = 0,
) -> Unpickled:
    """Read the pickle that begins at ``start`` of ``data``; bytes behind it are not looked at.

    Args:
        source: Names the pickle in messages: the file, or the file and the record in it.
        known: Stand-ins by full name (``collections.OrderedDict``): a :class:`Constructor` for
            what is called, any other value for what is only referred to.
        persistent_load: Gives the value for a persistent id; without it those are refused.

    Raises:
        ForbiddenGlobalError: The pickle refers to a name that is not in ``known``.
        PickleCutOffError: The data ends within the pickle.
        InvalidCheckpointError: It is no pickle, or it breaks a bound.
    """
    try:
        data, end = strip_pickle(data, start)
    except EOFError:
        raise PickleCutOffError(f"{source}: the pickle is cut off") from None
    except ValueError as error:
        raise InvalidCheckpointError(f"{source}: a broken pickle: {error}") from None
    if end - start >= _LARGE_PICKLE:
        # the bytes that were stripped, before values fill the memory
        give_back_freed_memory()
    machine = _Machine(data, source, known, persistent_load, end - start)
    try:
        with _without_garbage_collection():
            machine.run()
    except InvalidCheckpointError:
        raise
    except _Stop as stop:
        return Unpickled(stop.value, end)
    except IndexError:
        raise machine.malformed("its stack is empty") from None
    except KeyError as error:
        raise machine.malformed(f"nothing was kept as {error}") from None
    except RecursionError:
        raise machine.malformed("it is nested too deeply") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise machine.malformed(str(error).splitlines()[0] if str(error) else "") from None
    raise AssertionError("a pickle ends by STOP or by an error")


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Millions of objects are made, and looking for garbage among them takes a fifth longer."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Stop(Exception):  # noqa: N818 - ends every pickle
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value


_read_u16 = struct.Struct("<H").unpack_from
_read_i32 = struct.Struct("<i").unpack_from
_read_u32 = struct.Struct("<I").unpack_from
_read_u64 = struct.Struct("<Q").unpack_from
_read_f64_big = struct.Struct(">d").unpack_from


class _Machine:
    """One pickle being read. Opcodes are methods, listed in ``_OPCODES`` below."""

    __slots__ = (
        "allowance",
        "data",
        "found",
        "known",
        "marks",
        "memo",
        "persistent_load",
        "position",
        "source",
        "stack",
    )

    def __init__(
        self,
        data: bytes,
        source: str,
        known: Mapping[str, object],
        persistent_load: Callable[[object], object] | None,
        length: int,
    ) -> None:
        self.data = data
        self.source = source
        self.known = known
        # what was found, so that looking a name up again makes nothing new
        self.found: dict[str, object] = {}
        self.persistent_load = persistent_load
        self.position = 0
        self.stack: list[object] = []
        # heights of the stack at each MARK
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.allowance = 2 * length + _FREE_ALLOWANCE

    def run(self) -> None:
        data = self.data
        opcodes = _TABLE
        while True:
            opcode = data[self.position]
            self.position += 1
            opcodes[opcode](self)

    # What went wrong.

    def malformed(self, why: str) -> InvalidCheckpointError:
        return InvalidCheckpointError(f"{self.source}: a broken pickle: {why or 'no reason known'}")

    def forbidden(self, name: str) -> ForbiddenGlobalError:
        # a name can have line breaks in it, and half characters
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name[:200])
        return ForbiddenGlobalError(
            f"{self.source}: the pickle refers to {shown}, which is not allowed in a "
            "checkpoint; it was neither imported nor run"
        )

    def unknown_opcode(self) -> None:
        raise AssertionError("the core lets no such opcode through")

    # Pieces of the data.

    def take(self, length: int) -> bytes:
        start = self.position
        self.position = start + length
        return self.data[start : start + length]

    def take_u8(self) -> int:
        value = self.data[self.position]
        self.position += 1
        return value

    def take_u32(self) -> int:
        value: int = _read_u32(self.data, self.position)[0]
        self.position += 4
        return value

    def take_u64(self) -> int:
        value: int = _read_u64(self.data, self.position)[0]
        self.position += 8
        return value

    def take_line(self) -> str:
        end = self.data.index(b"\n", self.position)
        line = self.data[self.position : end]
        self.position = end + 1
        return line.decode()

    def pop_to_mark(self) -> list[object]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    # Frames and protocol.

    def proto(self) -> None:
        version = self.take_u8()
        if version > _HIGHEST_PROTOCOL:
            raise self.malformed(f"protocol {version} is not known")

    def stop(self) -> None:
        raise _Stop(self.stack.pop())

    # Plain values.

    def none(self) -> None:
        self.stack.append(None)

    def true(self) -> None:
        self.stack.append(True)

    def false(self) -> None:
        self.stack.append(False)

    def u8(self) -> None:
        self.stack.append(self.data[self.position])
        self.position += 1

    def u16(self) -> None:
        self.stack.append(_read_u16(self.data, self.position)[0])
        self.position += 2

    def i32(self) -> None:
        self.stack.append(_read_i32(self.data, self.position)[0])
        self.position += 4

    def long1(self) -> None:
        self.integer(self.take_u8())

    def long4(self) -> None:
        self.integer(self.take_u32())

    def integer(self, length: int) -> None:
        if length > _INTEGER_BYTES_AT_MOST:
            raise self.malformed(f"an integer of {length} bytes")
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))

    def int_line(self) -> None:
        # what Python 2 writes for integers of 64 bits; 00 and 01 are its False and True
        line = self.take_line()
        self.stack.append(line == "01" if line in ("00", "01") else int(line.rstrip("L")))

    def float_line(self) -> None:
        self.stack.append(float(self.take_line()))

    def f64(self) -> None:
        self.stack.append(_read_f64_big(self.data, self.position)[0])
        self.position += 8

    def short_text(self) -> None:
        self.text(self.take_u8())

    def text4(self) -> None:
        self.text(self.take_u32())

    def text8(self) -> None:
        self.text(self.take_u64())

    def text(self, length: int) -> None:
        self.stack.append(self.take(length).decode("utf-8", "surrogatepass"))

    def short_string(self) -> None:
        # Python 2's str, which torch reads as text
        self.stack.append(self.take(self.take_u8()).decode("latin-1"))

    def string4(self) -> None:
        self.stack.append(self.take(self.take_u32()).decode("latin-1"))

    def short_bytes(self) -> None:
        self.stack.append(self.take(self.take_u8()))

    def bytes4(self) -> None:
        self.stack.append(self.take(self.take_u32()))

    def bytes8(self) -> None:
        self.stack.append(self.take(self.take_u64()))

    # Containers.

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def empty_tuple(self) -> None:
        self.stack.append(())

    def empty_list(self) -> None:
        self.stack.append([])

    def empty_dict(self) -> None:
        self.stack.append({})

    def tuple_(self) -> None:
        items = self.pop_to_mark()
        self.stack.append(tuple(items))

    def tuple1(self) -> None:
        self.stack[-1] = (self.stack[-1],)

    def tuple2(self) -> None:
        second = self.stack.pop()
        self.stack[-1] = (self.stack[-1], second)

    def tuple3(self) -> None:
        third = self.stack.pop()
        second = self.stack.pop()
        self.stack[-1] = (self.stack[-1], second, third)

    def list_(self) -> None:
        items = self.pop_to_mark()
        self.stack.append(items)

    def dict_(self) -> None:
        items = self.pop_to_mark()
        made: dict[object, object] = {}
        self.stack.append(made)
        self.fill(made, items)

    def append(self) -> None:
        item = self.stack.pop()
        self.list_on_top().append(item)

    def appends(self) -> None:
        items = self.pop_to_mark()
        self.list_on_top().extend(items)

    def setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self.dict_on_top()[_as_key(key)] = value

    def setitems(self) -> None:
        items = self.pop_to_mark()
        self.fill(self.dict_on_top(), items)

    def fill(self, into: dict[object, object], items: list[object]) -> None:
        if len(items) % 2:
            raise self.malformed("a key without a value")
        for index in range(0, len(items), 2):
            into[_as_key(items[index])] = items[index + 1]

    def list_on_top(self) -> list[object]:
        value = self.stack[-1]
        if type(value) is not list:
            raise self.malformed(f"items for a {type(value).__name__}, which is no list")
        return value

    def dict_on_top(self) -> dict[object, object]:
        value = self.stack[-1]
        if type(value) is not dict:
            raise self.malformed(f"items for a {type(value).__name__}, which is no dictionary")
        return value

    def frozenset_(self) -> None:
        items = self.pop_to_mark()
        self.stack.append(items)

    # The stack and the memo.

    def pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def pop_mark(self) -> None:
        self.pop_to_mark()

    def dup(self) -> None:
        self.stack.append(self.stack[-1])

    def get1(self) -> None:
        self.stack.append(self.memo[self.data[self.position]])
        self.position += 1

    def get4(self) -> None:
        self.stack.append(self.memo[self.take_u32()])

    def get_line(self) -> None:
        self.stack.append(self.memo[int(self.take_line())])

    def put1(self) -> None:
        self.memo[self.data[self.position]] = self.stack[-1]
        self.position += 1

    def put4(self) -> None:
        self.memo[self.take_u32()] = self.stack[-1]

    def put_line(self) -> None:
        self.memo[int(self.take_line())] = self.stack[-1]

    # Globals, and what is made of them.

    def global_(self) -> None:
        module = self.take_line()
        self.stack.append(self.find(module, self.take_line()))

    def stack_global(self) -> None:
        name = self.stack.pop()
        module = self.stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.malformed("a global's name is no text")
        self.stack.append(self.find(module, name))

    def find(self, module: str, name: str) -> object:
        full_name = f"{_RENAMED_MODULES.get(module, module)}.{name}"
        found = self.found.get(full_name)
        if found is None:
            found = self.known.get(full_name) if len(full_name) <= _LONGEST_NAME else None
            if found is None:
                raise self.forbidden(full_name)
            self.found[full_name] = found
        return found

    def reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.construct(self.stack[-1], arguments)

    def newobj_ex(self) -> None:
        if self.stack.pop():
            raise self.malformed("keyword arguments, which no stand-in takes")
        self.reduce()

    def construct(self, called: object, arguments: object) -> object:
        if type(called) is not Constructor:
            raise self.malformed(f"a call of a {type(called).__name__}")
        if type(arguments) is not tuple:
            raise self.malformed(f"arguments of {called.name} that are no tuple")
        for argument in arguments:
            kind = type(argument)
            if kind in _SIZED:
                self.allowance -= len(argument)
        if self.allowance < 0:
            raise self.malformed("values are copied over and over")
        try:
            return called.make(*arguments)
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise self.malformed(f"arguments of {called.name} make no sense ({error})") from None

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is InertObject:
            target.state = state
        elif type(target) in (type(None), str, bytes, int, float, bool, tuple, Constructor):
            raise self.malformed(f"a state for a {type(target).__name__}")
        # attributes of a dictionary (_metadata of a state_dict) or of a tensor say nothing to us

    def binpersid(self) -> None:
        if self.persistent_load is None:
            raise self.malformed("a persistent id, for which there is no storage here")
        self.stack[-1] = self.persistent_load(self.stack[-1])


_SIZED = frozenset({str, bytes, list, tuple, dict})


def _as_key(key: object) -> object:
    """``key``, or an :class:`IdentityKey` for one that a file could make collide with others."""
    kind = type(key)
    if kind is str:
        return key
    if kind is int:
        assert isinstance(key, int)
        return key if abs(key) < _INTEGER_HASHED_AS_ITSELF else IdentityKey(key)
    if kind in (bytes, float, bool, type(None), Constructor):
        return key
    return IdentityKey(key)


_OPCODES: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.proto,
    b".": _Machine.stop,
    b"N": _Machine.none,
    b"\x88": _Machine.true,
    b"\x89": _Machine.false,
    b"K": _Machine.u8,
    b"M": _Machine.u16,
    b"J": _Machine.i32,
    b"\x8a": _Machine.long1,
    b"\x8b": _Machine.long4,
    b"I": _Machine.int_line,
    b"L": _Machine.int_line,
    b"F": _Machine.float_line,
    b"G": _Machine.f64,
    b"\x8c": _Machine.short_text,
    b"X": _Machine.text4,
    b"\x8d": _Machine.text8,
    b"U": _Machine.short_string,
    b"T": _Machine.string4,
    b"C": _Machine.short_bytes,
    b"B": _Machine.bytes4,
    b"\x8e": _Machine.bytes8,
    b"\x96": _Machine.bytes8,
    b"(": _Machine.mark,
    b")": _Machine.empty_tuple,
    b"]": _Machine.empty_list,
    b"}": _Machine.empty_dict,
    # a set is a list here: nothing asks what is in one, and lists have no hash to attack
    b"\x8f": _Machine.empty_list,
    b"t": _Machine.tuple_,
    b"\x85": _Machine.tuple1,
    b"\x86": _Machine.tuple2,
    b"\x87": _Machine.tuple3,
    b"l": _Machine.list_,
    b"d": _Machine.dict_,
    b"a": _Machine.append,
    b"e": _Machine.appends,
    b"s": _Machine.setitem,
    b"u": _Machine.setitems,
    b"\x90": _Machine.appends,
    b"\x91": _Machine.frozenset_,
    b"0": _Machine.pop,
    b"1": _Machine.pop_mark,
    b"2": _Machine.dup,
    b"h": _Machine.get1,
    b"j": _Machine.get4,
    b"g": _Machine.get_line,
    b"q": _Machine.put1,
    b"r": _Machine.put4,
    b"p": _Machine.put_line,
    b"c": _Machine.global_,
    b"\x93": _Machine.stack_global,
    b"R": _Machine.reduce,
    b"\x81": _Machine.reduce,
    b"\x92": _Machine.newobj_ex,
    b"b": _Machine.build,
    b"Q": _Machine.binpersid,
}


def _table() -> list[Callable[[_Machine], None]]:
    table: list[Callable[[_Machine], None]] = [_Machine.unknown_opcode] * 256
    for code, method in _OPCODES.items():
        table[code[0]] = method
    return table


_TABLE = _table()
