"""Torch files that attack: payloads that must not run, and inputs that must not explode.

``test_attacks`` has each attack of ``tests/attacks/torch_files`` refused by every command; here is
what no message tells: that nothing ran, and what memory and time it took.
"""

from __future__ import annotations

import os
import pickle
import random
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import ckptdiff
import pytest
import torch
from ckptdiff.formats.inert import PLAIN, TORCH, ForbiddenGlobalError, unpickle
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attacks import ATTACKS, torch_files
from tests.attacks.torch_files import FILE, PWNED, Payload
from tests.cli import assert_one_line_of_trouble, invoke, measure
from tests.torch_files import (
    START,
    STOP,
    call,
    mapping,
    name_of,
    pickled,
    plain,
    tensor,
    write_legacy,
    write_zip,
)

OURS = (
    ckptdiff.CheckpointNotFoundError,
    ckptdiff.InvalidCheckpointError,
    ckptdiff.CheckpointReadError,
)

ATTACKS_OF_TORCH = [a for a in ATTACKS if a.make.__module__ == torch_files.__name__]

linux = pytest.mark.skipif(sys.platform != "linux", reason="measures with getrusage")


# Nothing runs.


def test_the_payload_would_run(tmp_path: Path) -> None:
    """The control: Python's own unpickler runs what the attacks hold."""
    pickle.loads(pickle.dumps(Payload(tmp_path)))
    assert (tmp_path / PWNED).exists()


def test_torch_runs_the_payload_of_a_file(tmp_path: Path) -> None:
    """The control for a whole file: it is one that torch opens when told to trust it."""
    path = torch_files.pickle_calls_the_system(tmp_path)
    torch.load(path, weights_only=False)
    assert (tmp_path / PWNED).exists()


@pytest.mark.parametrize("attack", ATTACKS_OF_TORCH, ids=lambda attack: attack.name)
def test_nothing_ran_and_nothing_was_imported(
    attack: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("called")

    path = attack.make(tmp_path)  # type: ignore[attr-defined]
    modules = set(sys.modules)
    monkeypatch.setattr(os, "system", refuse)
    outcome = invoke("ls", path)
    assert outcome.status == 2
    assert not (tmp_path / PWNED).exists()
    new = {name for name in set(sys.modules) - modules if not name.startswith("ckptdiff")}
    assert not new & {"pickle", "torch.hub"}, new


REFUSED = [
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "compile"),
    ("builtins", "open"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("builtins", "type"),
    ("builtins", "map"),
    ("importlib", "import_module"),
    ("pickle", "loads"),
    ("_pickle", "loads"),
    ("marshal", "loads"),
    ("types", "FunctionType"),
    ("types", "CodeType"),
    ("operator", "attrgetter"),
    ("operator", "methodcaller"),
    ("functools", "partial"),
    ("torch", "load"),
    ("torch", "ops"),
    ("torch.jit", "load"),
    ("torch.serialization", "load"),
    ("torch._utils", "_import_dotted_name"),
    ("torch.utils.data", "DataLoader"),
    ("numpy", "load"),
    ("numpy", "fromfile"),
    ("numpy.testing._private.utils", "runstring"),
    ("pydoc", "pipepager"),
    ("webbrowser", "open"),
    ("runpy", "run_path"),
    ("ctypes", "CDLL"),
    ("collections", "abc"),
    ("__main__", "Model"),
    ("", ""),
]


@pytest.mark.parametrize(("module", "name"), REFUSED)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_is_not_allowed_is_named(
    module: str, name: str, protocol: int, tmp_path: Path
) -> None:
    reference = name_of(module, name) if protocol == 2 else plain(module) + plain(name) + b"\x93"
    path = write_zip(tmp_path / FILE, pickled(mapping(w=call(reference, plain("x")))))
    outcome = invoke("ls", path)
    assert_one_line_of_trouble(outcome, FILE, f"{module}.{name}", "not allowed")


def test_a_reference_alone_is_refused_as_a_call_is(tmp_path: Path) -> None:
    path = write_zip(tmp_path / FILE, pickled(mapping(w=name_of("os", "system"))))
    assert_one_line_of_trouble(invoke("ls", path), "os.system")


def test_stand_ins_are_not_what_they_stand_for() -> None:
    """Whatever is allowed makes plain values: nothing from torch, numpy or the standard library."""
    allowed = PLAIN | TORCH
    for name in allowed:
        module, _, attribute = name.rpartition(".")
        for arguments in (b")", plain(("x",)), plain((1, 2)), plain(({"a": 1},))):
            opcodes = name_of(module, attribute) + arguments + b"R"
            try:
                value = unpickle(pickled(opcodes), source="x", known=allowed).value
            except ForbiddenGlobalError:
                raise
            except ckptdiff.InvalidCheckpointError:
                continue
            home = type(value).__module__
            assert home == "builtins" or home.startswith("ckptdiff."), (name, home)
            assert not callable(value), name


# Nothing explodes: a megabyte takes less than 200 MB and 10 s.

MEGABYTE = 1_000_000


def repeated(piece: bytes, behind: bytes = b"") -> bytes:
    """A pickle of a megabyte of the same opcodes."""
    count = MEGABYTE // (len(piece) + len(behind))
    return pickled(piece * count + behind * count)


def colliding_integers() -> bytes:
    """Keys that all have the hash 0."""
    items = b"".join(plain((2**61 - 1) * number) + b"N" for number in range(1, MEGABYTE // 13))
    return pickled(b"}(" + items + b"u")


def colliding_powers() -> bytes:
    """Keys whose hashes agree in their low bits."""
    items = b"".join(plain(number << 40) + b"N" for number in range(MEGABYTE // 10))
    return pickled(b"}(" + items + b"u")


def tuples_for_keys() -> bytes:
    items = b"".join(b"K\x00" + plain(number) + b"\x86N" for number in range(MEGABYTE // 8))
    return pickled(b"}(" + items + b"u")


def one_long_list_many_times() -> bytes:
    """Three hundred thousand numbers that are asked for their text under each of many names."""
    numbers = b"](" + b"K\x00" * 300_000 + b"eq\x64"
    items = b"".join(plain(f"{number}") + b"h\x64" for number in range(MEGABYTE // 40))
    return pickled(numbers + b"0}(" + items + b"u")


def many_tensors() -> bytes:
    """As many tensors as a megabyte holds, by a shared pickle of their parts."""
    parts = tensor() + b"q\x64"
    items = b"".join(plain(f"{number}") + b"h\x64" for number in range(MEGABYTE // 14))
    return pickled(parts + b"0}(" + items + b"u")


def overlapping_views() -> bytes:
    """Ten thousand transposed views of everything there is."""
    view = tensor((256, 1024), (1, 256), held=torch_files.storage(elements=2**18))
    items = b"".join(plain(f"{number}") + b"h\x64" for number in range(10_000))
    return pickled(view + b"q\x640}(" + items + b"u")


def tied_tensors() -> bytes:
    """Ten thousand tensors that are the same megabyte."""
    view = tensor((2**18,), (1,), held=torch_files.storage(elements=2**18))
    items = b"".join(plain(f"{number}") + b"h\x64" for number in range(10_000))
    return pickled(view + b"q\x640}(" + items + b"u")


def different_views() -> bytes:
    """Every tensor is another view of one storage, among which twins are looked for."""
    call_of = name_of("torch._utils", "_rebuild_tensor_v2") + b"q\x64"
    held = torch_files.storage(elements=2**18) + b"q\x65"
    items = b"".join(
        plain(f"{number}") + b"h\x64(h\x65" + plain(number) + b")" + b")" + b"\x89}tR"
        for number in range(MEGABYTE // 30)
    )
    return pickled(call_of + b"0" + held + b"0}(" + items + b"u")


EXPLOSIVE: dict[str, Callable[[], bytes]] = {
    "lists": lambda: repeated(b"]"),
    "dictionaries": lambda: repeated(b"}"),
    "sets": lambda: repeated(b"\x8f"),
    "marks": lambda: repeated(b"("),
    "empty tuples": lambda: repeated(b")"),
    "tuples of one": lambda: pickled(b")" + b"\x85" * MEGABYTE),
    "nested lists": lambda: repeated(b"]", b"a"),
    "nested dictionaries": lambda: repeated(b"}N", b"s"),
    "copies of one": lambda: pickled(b"}" + b"2" * MEGABYTE),
    "lists kept": lambda: repeated(b"]\x94"),
    "numbers kept": lambda: repeated(b"K\x01\x94", b"h\x00"),
    "kept and read": lambda: pickled(
        b"".join(b"]r" + struct.pack("<I", n) + b"j" + struct.pack("<I", n)
                 for n in range(MEGABYTE // 11))
    ),
    "dictionaries of one": lambda: repeated(b"}K\x00Ns"),
    "lists of one": lambda: repeated(b"]Na"),
    "ordered dictionaries": lambda: pickled(
        name_of("collections", "OrderedDict") + b"q\x01" + b"h\x01)R" * (MEGABYTE // 4)
    ),
    "objects": lambda: pickled(
        name_of("argparse", "Namespace") + b"q\x01" + b"h\x01)\x81" * (MEGABYTE // 4)
    ),
    "one object with states": lambda: pickled(
        name_of("argparse", "Namespace") + b")\x81" + b"}b" * (MEGABYTE // 2)
    ),
    "floats in text": lambda: repeated(b"F1\n"),
    "numbers in text": lambda: repeated(b"I" + b"9" * 1000 + b"\n"),
    "texts of wide characters": lambda: repeated(b"X\x08\0\0\0" + "a😀".encode() + b"abc"),
    "metadata": lambda: pickled(
        b"}(" + b"".join(plain(f"{n}") + b"K\x01" for n in range(MEGABYTE // 14)) + b"u"
    ),
    "colliding integers": colliding_integers,
    "colliding powers": colliding_powers,
    "tuples for keys": tuples_for_keys,
    "one long list many times": one_long_list_many_times,
    "many tensors": many_tensors,
    "overlapping views": overlapping_views,
    "tied tensors": tied_tensors,
    "different views": different_views,
}  # fmt: skip


@linux
@pytest.mark.parametrize("name", EXPLOSIVE)
def test_a_megabyte_stays_small(name: str, tmp_path: Path) -> None:
    data_pickle = EXPLOSIVE[name]()
    assert len(data_pickle) < 1.5 * MEGABYTE
    path = write_zip(tmp_path / FILE, data_pickle, {"0": bytes(MEGABYTE + 2**16)})
    for command in ("ls", "stats"):
        usage = measure([command, path, "-o", tmp_path / "out"], tmp_path / "usage")
        print(f"{name}: {command} {usage.seconds:.1f} s, {usage.peak_rss / 1e6:.0f} MB")  # noqa: T201
        assert usage.status in (0, 2), usage.stderr
        assert "Traceback" not in usage.stderr
        assert usage.peak_rss < 200_000_000
        assert usage.seconds < 10


@linux
@pytest.mark.parametrize(
    "name",
    [
        "lists_nested_deeply",
        "a_billion_laughs",
        "a_long_name_a_thousand_times",
        "a_text_copied_a_thousand_times",
        "shape_copied_a_thousand_times",
        "integer_of_a_hundred_thousand_bytes",
        "one_element_a_trillion_times",
        "pickle_bomb",
        "directory_of_four_gigabytes",
        "storage_larger_than_its_record",
    ],
)
def test_an_attack_stays_small(name: str, tmp_path: Path) -> None:
    attack = next(attack for attack in ATTACKS_OF_TORCH if attack.name == name)
    usage = measure(["stats", attack.make(tmp_path)], tmp_path / "usage")
    print(f"{name}: {usage.seconds:.1f} s, {usage.peak_rss / 1e6:.0f} MB")  # noqa: T201
    assert usage.status == 2
    assert usage.peak_rss < 200_000_000
    assert usage.seconds < 10


@linux
def test_a_directory_of_a_megabyte_stays_small(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}", b"")
    usage = measure(["ls", path], tmp_path / "usage")
    assert usage.status == 2
    assert usage.peak_rss < 100_000_000


# Mutations: no answer but a manifest or one of our errors, and quickly.


def outcome_of(path: Path) -> bool:
    """Whether the file was opened; a refusal is one of ours, on one line that names the file."""
    start = time.perf_counter()
    try:
        checkpoint = ckptdiff.open(path, optimizer=True)
    except OURS as refusal:
        message = str(refusal)
        assert "\n" not in message
        assert path.name in message
        return False
    finally:
        assert time.perf_counter() - start < 5
    if checkpoint.bytes < 1_000_000:
        with suppress(*OURS):
            ckptdiff.stats(checkpoint)
    return True


def samples() -> list[bytes]:
    """Pickles and zips as torch writes them, small enough that every byte gets its turn."""
    import io

    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "view": torch.arange(12.0).reshape(3, 4).t(),
        "epoch": 3,
        "args": {"lr": 1e-3, "betas": (0.9, 0.95), "names": ["a", "b"], "none": None},
    }
    files = []
    for new in (True, False):
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=new)
        files.append(buffer.getvalue())
    return files


@pytest.fixture(scope="module")
def originals() -> list[bytes]:
    return samples()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzz.pt"


EXAMPLES = int(os.environ.get("CKPTDIFF_FUZZ_EXAMPLES", "300"))


@given(
    which=st.integers(0, 1),
    edits=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 2**12),
    moved=st.tuples(st.integers(0, 2**20), st.integers(0, 2**20), st.integers(0, 40)),
)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_changed_bytes(
    which: int,
    edits: list[tuple[int, int]],
    cut: int,
    moved: tuple[int, int, int],
    originals: list[bytes],
    target: Path,
) -> None:
    """Some bytes are others, some stand elsewhere, the end is missing."""
    content = bytearray(originals[which])
    for position, value in edits:
        content[position % len(content)] = value
    source, destination, length = moved
    source, destination = source % len(content), destination % len(content)
    piece = content[source : source + length]
    content[destination : destination + len(piece)] = piece
    if cut < 100:
        del content[len(content) - cut :]
    target.write_bytes(content)
    outcome_of(target)


OPCODES = st.sampled_from(
    [
        *(bytes([code]) for code in range(256)),
        plain("w"), plain("state"), plain("param_groups"), plain("optimizer"), plain(3),
        plain(2**70), plain(1.5), plain((1, 2)), plain([1]), plain({"a": 1}), plain(b"xyz"),
        tensor(), tensor((2, 1), (1, 2)), torch_files.storage(), mapping(w=tensor()),
        name_of("collections", "OrderedDict"), name_of("torch", "Size"),
        name_of("torch", "float32"), name_of("torch._utils", "_rebuild_tensor_v2"),
        name_of("torch._utils", "_rebuild_qtensor"),
        name_of("torch._utils", "_rebuild_parameter"), name_of("argparse", "Namespace"),
        name_of("numpy", "dtype"), name_of("numpy.core.multiarray", "scalar"),
        name_of("_codecs", "encode"), name_of("os", "system"),
        b"q\x01", b"h\x01", b"q\x02", b"h\x02", b"\x94", b")R", b"tR", b"}b", b"e", b"u", b"s",
    ]
)  # fmt: skip


@given(pieces=st.lists(OPCODES, max_size=30), legacy=st.booleans())
@settings(max_examples=2 * EXAMPLES, deadline=None, derandomize=True)
def test_any_opcodes(pieces: list[bytes], legacy: bool, target: Path) -> None:
    """Pickles that no pickler writes, in a good file."""
    data_pickle = START + b"".join(pieces) + STOP
    if legacy:
        write_legacy(target, data_pickle)
    else:
        write_zip(target, data_pickle)
    outcome_of(target)


@pytest.mark.slow
def test_many_mutations(originals: list[bytes], target: Path) -> None:
    """A plain loop, as long as it is told: ``CKPTDIFF_FUZZ_SECONDS``, and a second in CI."""
    limit = float(os.environ.get("CKPTDIFF_FUZZ_SECONDS", "1"))
    chance = random.Random(os.environ.get("CKPTDIFF_FUZZ_SEED", "7"))
    end = time.monotonic() + limit
    executions = opened = 0
    while time.monotonic() < end:
        content = bytearray(chance.choice(originals))
        for _ in range(chance.choice((1, 1, 2, 3, 8))):
            position = chance.randrange(len(content))
            kind = chance.randrange(5)
            if kind == 0:
                content[position] = chance.randrange(256)
            elif kind == 1:
                content[position] ^= 1 << chance.randrange(8)
            elif kind == 2:
                del content[position : position + chance.randrange(1, 20)]
            elif kind == 3:
                value = chance.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
                content[position : position + 8] = struct.pack("<Q", value)
            else:
                source = chance.randrange(len(content))
                piece = content[source : source + chance.randrange(1, 40)]
                content[position:position] = piece
        target.write_bytes(content)
        opened += outcome_of(target)
        executions += 1
    print(f"{executions} executions, {opened} opened")  # noqa: T201
    assert executions > 10


def test_a_payload_ends_no_process_of_ours(tmp_path: Path) -> None:
    """The command itself, in a process of its own."""
    path = torch_files.pickle_calls_the_system(tmp_path)
    finished = subprocess.run(
        [sys.executable, "-m", "ckptdiff", "stats", path], capture_output=True, text=True
    )
    assert finished.returncode == 2
    assert "system" in finished.stderr
    assert not (tmp_path / PWNED).exists()
