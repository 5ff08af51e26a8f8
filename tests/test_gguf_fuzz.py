"""Broken GGUF headers by the thousand: refused in a line, or read as the gguf package reads them.

``CKPTDIFF_FUZZ_EXAMPLES`` says how many are tried, ``CKPTDIFF_FUZZ_SEED`` makes them others.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import ckptdiff
import pytest
from ckptdiff.formats.gguf_header import read_header
from gguf import GGUFReader
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.cli import measure
from tests.gguf_writers import Info, array, text, uint32, write_raw_gguf

OURS = (
    ckptdiff.CheckpointNotFoundError,
    ckptdiff.InvalidCheckpointError,
    ckptdiff.CheckpointReadError,
)

EXAMPLES = int(os.environ.get("CKPTDIFF_FUZZ_EXAMPLES", "300"))
SEED = os.environ.get("CKPTDIFF_FUZZ_SEED")

bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=SEED is None,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow],
)
seeded = seed(SEED)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzz.gguf"


def ours(path: Path) -> bool:
    """Whether we can open and list the file; anything but that and a refusal is a crash."""
    try:
        checkpoint = ckptdiff.open(path)
    except OURS as refusal:
        message = str(refusal)
        assert "\n" not in message
        assert path.name in message
        return False
    for ref in checkpoint.values():
        assert all(0 <= span.offset <= path.stat().st_size - span.length for span in ref.spans)
        # rows that are put in order have no spans
        assert sum(span.length for span in ref.spans) in (0, ref.bytes)
    unsupported = checkpoint.manifest.unsupported()
    if not unsupported or len(unsupported) < len(checkpoint):
        ckptdiff.stats(checkpoint, threads=1)
    return True


def check(path: Path) -> None:
    """What we can open, the package reads alike."""
    if not ours(path):
        return
    mine = read_header(str(path))
    if any(tensor.dtype.startswith("type ") for tensor in mine.tensors):
        return
    try:
        theirs = GGUFReader(path)
    except (IndexError, ValueError):
        # a scalar of BF16, and a dimension of 2**64 - 1 beside one of 0, are beyond it
        assert any(
            tensor.shape == () or (0 in tensor.shape and max(tensor.shape) >= 2**31)
            for tensor in mine.tensors
        )
        return
    assert {tensor.name: (list(tensor.shape[::-1]), tensor.offset, tensor.bytes)
            for tensor in mine.tensors} == {
        tensor.name: (tensor.shape.tolist(), tensor.data_offset, tensor.n_bytes)
        for tensor in theirs.tensors
    }  # fmt: skip
    fields = {name for name in theirs.fields if not name.startswith("GGUF.")}
    assert fields == set(mine.metadata)


def valid() -> tuple[list[bytes], list[Info], bytes]:
    pairs = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        uint32("llama.attention.head_count", 2),
        uint32("llama.expert_count", 2),
        uint32("general.alignment", 32),
        array("tokens", 8, 3, text("a") + text("") + text("bcd")),
        array("numbers", 6, 2, struct.pack("<2f", 1, 2)),
        array("nested", 9, 1, struct.pack("<IQ", 0, 2) + b"\1\2"),
        text("flag") + struct.pack("<IB", 7, 1),
    ]
    infos = [
        Info("token_embd.weight", [256, 2], 12, 0),
        Info("blk.0.attn_q.weight", [32, 8], 8, 288),
        Info("blk.0.ffn_up_exps.weight", [2, 2, 2], 0, 576),
        Info("other", [3], 1, 608),
    ]
    return pairs, infos, bytes(640)


numbers = st.sampled_from(
    [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 30, 31, 32, 64, 255, 256, 2**16, 2**31, 2**32 - 1, 2**32,
     2**40, 2**61, 2**63 - 1, 2**63, 2**64 - 1]
)  # fmt: skip


def test_what_is_broken_here_is_sound_before(path: Path) -> None:
    write_raw_gguf(path, *(valid()[index] for index in (1, 0, 2)))
    check(path)
    checkpoint = ckptdiff.open(path)
    assert len(checkpoint) == 5
    assert checkpoint.metadata["nested"] == "[1 × array]"


@given(
    edits=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.one_of(st.just(0), st.integers(0, 1300)),
)
@bounded
@seeded
def test_changed_bytes(edits: list[tuple[int, int]], cut: int, path: Path) -> None:
    pairs, infos, data = valid()
    write_raw_gguf(path, infos, pairs, data)
    content = bytearray(path.read_bytes())
    for position, value in edits:
        content[position % len(content)] = value
    path.write_bytes(content[: len(content) - cut])
    check(path)


@given(
    edits=st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from("IQ"), numbers), min_size=1, max_size=3
    )
)
@bounded
@seeded
def test_changed_numbers(edits: list[tuple[int, str, int]], path: Path) -> None:
    """Whole counts, lengths, types and offsets, each at any place."""
    pairs, infos, data = valid()
    write_raw_gguf(path, infos, pairs, data)
    content = bytearray(path.read_bytes())
    for position, form, value in edits:
        size = struct.calcsize(f"<{form}")
        place = position * 4 % (len(content) - 8)
        content[place : place + size] = struct.pack(f"<{form}", value % (1 << 8 * size))
    path.write_bytes(content)
    check(path)


@given(data=st.data())
@bounded
@seeded
def test_headers_of_other_parts(data: st.DataObject, path: Path) -> None:
    """Parts left out, said twice and exchanged; shapes, types and offsets of any kind."""
    pairs, infos, body = valid()
    pairs = data.draw(st.lists(st.sampled_from(pairs), max_size=10))
    changed = [
        info._replace(
            dimensions=data.draw(st.lists(numbers, max_size=5)) if data.draw(st.booleans())
            else info.dimensions,
            kind=data.draw(st.integers(0, 45)) if data.draw(st.booleans()) else info.kind,
            offset=data.draw(numbers) if data.draw(st.booleans()) else info.offset,
        )
        for info in data.draw(st.lists(st.sampled_from(infos), max_size=5))
    ]  # fmt: skip
    write_raw_gguf(
        path,
        changed,
        pairs,
        body,
        tensor_count=data.draw(st.one_of(st.just(len(changed)), numbers)),
        pair_count=data.draw(st.one_of(st.just(len(pairs)), numbers)),
        version=data.draw(st.sampled_from([3, 3, 3, 2, 1, 4, 3 << 24])),
        alignment=data.draw(st.sampled_from([32, 32, 1, 64])),
    )
    check(path)


@given(garbage=st.binary(max_size=300))
@bounded
@seeded
def test_garbage_is_refused_or_empty(garbage: bytes, path: Path) -> None:
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + garbage)
    check(path)


# A megabyte can do no harm.

MEGABYTE = 1_000_000


def many_tensors() -> tuple[list[bytes], list[Info], bytes]:
    return [], [Info(f"{index:x}", (), 24, 0) for index in range(32_000)], b""


def empty_tensors() -> tuple[list[bytes], list[Info], bytes]:
    return [], [Info(f"{index:x}", (0,), 24, 0) for index in range(24_000)], b""


def many_experts() -> tuple[list[bytes], list[Info], bytes]:
    pairs, _, _ = valid()
    pairs[2] = uint32("llama.expert_count", 900_000)
    return pairs, [Info("blk.0.ffn_up_exps.weight", [1, 1, 900_000], 24, 0)], bytes(900_000)


def many_small_stacks() -> tuple[list[bytes], list[Info], bytes]:
    pairs, _, _ = valid()
    pairs[2] = uint32("llama.expert_count", 64)
    infos = [
        Info(f"blk.{index}.ffn_up_exps.weight", [1, 1, 64], 24, 64 * index)
        for index in range(6_500)
    ]
    return pairs, infos, bytes(64 * 6_500)


def many_rows() -> tuple[list[bytes], list[Info], bytes]:
    pairs, _, _ = valid()
    return pairs, [Info("blk.0.attn_q.weight", [1, 900_000], 24, 0)], bytes(900_000)


def many_keys() -> tuple[list[bytes], list[Info], bytes]:
    return [text(f"{i:x}") + struct.pack("<IB", 0, 1) for i in range(55_000)], [], b""


def many_strings() -> tuple[list[bytes], list[Info], bytes]:
    return [array("k", 8, 120_000, bytes(8 * 120_000))], [], b""


def many_numbers() -> tuple[list[bytes], list[Info], bytes]:
    items = struct.pack("<1024f", *range(1024))
    return [array(f"k{i}", 6, 1024, items) for i in range(240)], [], b""


def many_arrays() -> tuple[list[bytes], list[Info], bytes]:
    return [array("k", 9, 80_000, struct.pack("<IQ", 8, 0) * 80_000)], [], b""


@pytest.mark.parametrize(
    "make",
    [
        many_tensors,
        empty_tensors,
        many_experts,
        many_small_stacks,
        many_rows,
        many_keys,
        many_strings,
        many_numbers,
        many_arrays,
    ],
    ids=lambda make: make.__name__,
)
def test_a_megabyte_does_no_harm(make: object, tmp_path: Path) -> None:
    """Not more than 200 MB and 10 seconds, whatever the file says of itself."""
    assert callable(make)
    pairs, infos, data = make()
    path = write_raw_gguf(tmp_path / "a.gguf", infos, pairs, data)
    assert path.stat().st_size < 1.2 * MEGABYTE
    for command in (["ls", path], ["stats", path, "--top", "1"], ["diff", path, path]):
        usage = measure(command, tmp_path / "usage")
        assert usage.status in (0, 1, 2), usage.stderr[-500:]
        assert "Traceback" not in usage.stderr
        assert usage.peak_rss < 200_000_000, (command[0], usage.peak_rss)
        assert usage.seconds < 10, (command[0], usage.seconds)
