"""Hostile files get one clear line on stderr and status 2: from every command, on either side."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ckptdiff
import pytest

from tests.attacks import ATTACKS, Attack
from tests.attacks.folders import index_nested_metadata
from tests.attacks.registry import EVERY_COMMAND
from tests.attacks.special import good_file_with_a_name_not_utf8
from tests.cli import Outcome, assert_one_line_of_trouble, environment, invoke, run
from tests.writers import header_entry, tensor, write_file, write_raw, write_sharded, write_sparse

#: No refusal may take longer; the largest of these files are two megabytes of JSON.
SECONDS = 5.0

every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)


def arguments(command: str, path: Path, good: Path) -> list[str | Path]:
    return {
        "diff a": ["diff", path, good],
        "diff b": ["diff", good, path],
        "stats": ["stats", path],
        "ls": ["ls", path],
    }[command]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A checkpoint with every tensor name that an attack uses, so that each is compared."""
    names = ("w", "v", "a", "b", "c", "d", "e", "twice", "dtype")
    tensors = {name: tensor([1.0, 2.0]) for name in names}
    return write_file(tmp_path / "good" / "good.safetensors", tensors)


@every_attack
def test_refused_in_one_line(attack: Attack, good: Path, tmp_path: Path) -> None:
    assert attack.make.__doc__, "say what the attack tries"
    (tmp_path / "bad").mkdir()
    path = attack.make(tmp_path / "bad")
    for command in attack.commands:
        start = time.perf_counter()
        outcome = invoke(*arguments(command, path, good))
        assert time.perf_counter() - start < SECONDS, command
        assert_one_line_of_trouble(outcome, *attack.says)


@every_attack
def test_refused_by_the_library_with_the_nearest_builtin_exception(
    attack: Attack, good: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    path = attack.make(tmp_path / "bad")
    with pytest.raises((ValueError, OSError)) as caught:
        ckptdiff.diff(path, good)
    kinds = (
        ckptdiff.CheckpointNotFoundError,
        ckptdiff.InvalidCheckpointError,
        ckptdiff.CheckpointReadError,
    )
    assert isinstance(caught.value, kinds)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "attack",
    [attack for attack in ATTACKS if attack.commands != EVERY_COMMAND],
    ids=lambda attack: attack.name,
)
def test_what_ls_can_list_it_lists(attack: Attack, tmp_path: Path) -> None:
    path = attack.make(tmp_path)
    outcome = invoke("ls", path)
    assert outcome.status == 0, outcome
    assert attack.says[1 if len(attack.says) > 1 else 0] in outcome.stdout or "w" in outcome.stdout
    assert "\x1b" not in outcome.stdout


@pytest.mark.parametrize(
    "name", ["header_nested_deeply", "offsets_out_of_range", "shard_in_the_parent", "pipe"]
)
def test_refused_by_the_command_itself(name: str, good: Path, tmp_path: Path) -> None:
    """A few as processes of their own: no interpreter's last words, no hang, no crash."""
    attack = next(attack for attack in ATTACKS if attack.name == name)
    (tmp_path / "bad").mkdir()
    path = attack.make(tmp_path / "bad")
    for command in attack.commands:
        outcome = run(*arguments(command, path, good), timeout=30)
        assert_one_line_of_trouble(outcome, *attack.says)


@contextmanager
def address_space(limit: int) -> Iterator[None]:
    """Fail allocations beyond ``limit`` bytes more than there are now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and only Linux keeps RLIMIT_AS")
@pytest.mark.parametrize(
    "name",
    [
        "header_of_a_hundred_megabytes_claimed",
        "header_over_the_limit",
        "header_length_wraps",
        "header_longer_than_the_file",
        "offsets_out_of_range",
        "shape_overflows",
        "header_nested_deeply",
        "number_of_a_million_digits",
        "device_without_end",
    ],
)
def test_a_claim_is_checked_before_it_is_believed(name: str, good: Path, tmp_path: Path) -> None:
    """No file makes the reader allocate more than the file's own size warrants."""
    attack = next(attack for attack in ATTACKS if attack.name == name)
    (tmp_path / "bad").mkdir()
    path = attack.make(tmp_path / "bad")
    with address_space(60_000_000):
        outcome = invoke("ls", path)
    assert_one_line_of_trouble(outcome, *attack.says)


def test_a_dtype_nobody_knows_matters_only_where_it_is_compared(good: Path, tmp_path: Path) -> None:
    header = (
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"new":{"dtype":"F128","shape":[1],"data_offsets":[8,24]}}'
    )
    path = write_raw(tmp_path / "bad.safetensors", header, bytes(24))
    listed = invoke("ls", path)
    assert listed.status == 0
    assert "F128" in listed.stdout
    # only in A, or left out: compared with nothing
    assert invoke("diff", path, good).status == 1
    assert invoke("diff", path, path, "--exclude", "new").status == 0
    assert invoke("stats", path, "--exclude", "new").status == 0
    # the rest is compared, and what was not is named and no match
    for outcome, status in ((invoke("diff", path, path), 1), (invoke("stats", path), 0)):
        assert outcome.status == status, outcome
        assert "'new' is left out: its dtype F128 is not supported" in outcome.stderr
    only = ("--include", "new")
    assert_one_line_of_trouble(invoke("diff", path, path, *only), "new", "F128")
    assert_one_line_of_trouble(invoke("stats", path, *only), "new", "F128")


def test_depth_in_what_nobody_reads_does_no_harm(tmp_path: Path) -> None:
    """Skipped or refused, but no stack overflows."""
    path = index_nested_metadata(tmp_path)
    outcome = run("ls", path)
    if outcome.status != 0:
        assert_one_line_of_trouble(outcome, "model.safetensors.index.json")


def test_tensors_of_a_stale_shard_do_not_matter(tmp_path: Path) -> None:
    """A shard may hold a tensor of an unknown dtype, or of another's name, that no index names."""
    directory = write_sharded(tmp_path / "a", {"w": tensor([1.0]), "v": tensor([2.0])}, 2)
    shard = directory / "model-00001-of-00002.safetensors"
    write_file(shard, {"w": tensor([1.0]), "v": tensor([99.0])})
    clean = write_file(tmp_path / "b.safetensors", {"w": tensor([1.0]), "v": tensor([2.0])})
    assert invoke("diff", directory, clean).status == 0


def test_a_name_that_is_no_text_is_no_obstacle(tmp_path: Path) -> None:
    path = good_file_with_a_name_not_utf8(tmp_path)
    for arguments in (["diff", path, path], ["stats", path], ["ls", path]):
        outcome = run(*arguments)
        assert outcome.status == 0, outcome
        assert "Traceback" not in outcome.stderr
    for form in ("json", "csv", "markdown"):
        outcome = run("diff", path, path, "--format", form)
        assert outcome.status == 0, outcome


def unprivileged(*arguments: str | Path) -> Outcome:
    """Run the command where file permissions hold: as nobody, if these tests run as root."""
    if os.geteuid() != 0:
        return invoke(*arguments)
    os.seteuid(65534)
    try:
        return invoke(*arguments)
    finally:
        os.seteuid(0)


@pytest.fixture
def readable_to_all(tmp_path: Path) -> Path:
    """A folder below which permissions alone decide, also for another user."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    return tmp_path


def test_an_unreadable_file(readable_to_all: Path) -> None:
    good = write_file(readable_to_all / "good.safetensors", {"w": tensor([1.0])})
    bad = write_file(readable_to_all / "bad.safetensors", {"w": tensor([1.0])})
    assert unprivileged("diff", good, bad).status == 0  # what the command imports is imported now
    bad.chmod(0)
    for arguments in (["diff", bad, good], ["diff", good, bad], ["stats", bad], ["ls", bad]):
        assert_one_line_of_trouble(unprivileged(*arguments), "bad.safetensors", "ermission")


def test_an_unreadable_shard_index_and_directory(readable_to_all: Path) -> None:
    tensors = {"w": tensor([1.0]), "v": tensor([2.0])}
    directory = write_sharded(readable_to_all / "sharded", tensors, 2)
    assert unprivileged("ls", directory).status == 0
    index = directory / "model.safetensors.index.json"
    shard = directory / "model-00002-of-00002.safetensors"
    for path in (shard, index, directory):
        mode = path.stat().st_mode
        path.chmod(0)
        assert_one_line_of_trouble(unprivileged("ls", directory), path.name, "ermission")
        path.chmod(mode)


def test_a_file_cut_off_after_it_was_opened(tmp_path: Path) -> None:
    """The second look at a file finds less than the first: an error, not a bus error."""
    a = write_sparse(tmp_path / "a.safetensors", {"v": (1000,), "w": (5000, 1000)})
    b = write_sparse(tmp_path / "b.safetensors", {"v": (1000,), "w": (5000, 1000)})
    for keep in (10_000, 9_000_000, b.stat().st_size - 1):
        opened_a, opened_b = ckptdiff.open(a), ckptdiff.open(b)
        size = b.stat().st_size
        os.truncate(b, keep)
        for call in (
            lambda a=opened_a, b=opened_b: ckptdiff.diff(a, b),
            lambda a=opened_a, b=opened_b: ckptdiff.diff(b, a),
            lambda b=opened_b: ckptdiff.stats(b),
        ):
            with pytest.raises(ckptdiff.CheckpointReadError) as caught:
                call()
            assert "b.safetensors" in str(caught.value)
            assert "\n" not in str(caught.value)
        os.truncate(b, size)


def test_a_file_removed_after_it_was_opened(tmp_path: Path) -> None:
    a = write_sparse(tmp_path / "a.safetensors", {"w": (100,)})
    opened = ckptdiff.open(a)
    a.unlink()
    with pytest.raises(OSError, match=r"a\.safetensors"):
        ckptdiff.stats(opened)


def test_a_file_cut_off_while_it_is_read(tmp_path: Path) -> None:
    """Truncated under a running command: status 2 and one line, or it was done before."""
    shapes = {f"layers.{layer}.w": (20_000, 10_000) for layer in range(40)}
    a = write_sparse(tmp_path / "a.safetensors", shapes)
    b = write_sparse(tmp_path / "b.safetensors", shapes)
    process = subprocess.Popen(
        [sys.executable, "-m", "ckptdiff", "diff", str(a), str(b)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(0.6)
        assert process.poll() is None, "the pair is too small to be caught in the act"
        os.truncate(b, 500_000_000)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    outcome = Outcome(process.returncode, stdout, stderr)
    assert_one_line_of_trouble(outcome, "b.safetensors")


def test_a_file_that_grew_after_it_was_opened_is_read_as_it_was(tmp_path: Path) -> None:
    a = write_file(tmp_path / "a.safetensors", {"w": tensor([1.0, 2.0])})
    opened = ckptdiff.open(a)
    with a.open("ab") as file:
        file.write(b"more")
    assert ckptdiff.stats(opened)["w"].l1 == 3.0


def test_names_the_format_allows_and_a_terminal_must_not_see(tmp_path: Path) -> None:
    """NUL, escapes, line breaks, bidirectional overrides, and a name of nothing."""
    names = [
        "a\0b",
        "clear\x1b[2J",
        "two\nlines",
        "back\rwards",
        "\u202egnp.exe",
        "",
        "é 😀",
        "\x9b31m",
    ]
    a = write_file(tmp_path / "a.safetensors", {name: tensor([1.0]) for name in names})
    b = write_file(tmp_path / "b.safetensors", {name: tensor([2.0]) for name in names[:-1]})
    for arguments in (
        ["diff", a, b],
        ["diff", a, b, "--format", "markdown"],
        ["stats", a],
        ["ls", a],
    ):
        outcome = invoke(*arguments)
        assert outcome.status == (1 if arguments[0] == "diff" else 0), outcome
        text = outcome.stdout + outcome.stderr
        assert not set(text) & {"\0", "\x1b", "\r", "\u202e", "\x9b"}, arguments
        assert "two\\nlines" in text or "two\\\\nlines" in text
        assert "é 😀" in text


def test_empty_checkpoints_are_equal(tmp_path: Path) -> None:
    """A header without tensors is valid, with and without padding."""
    a = write_raw(tmp_path / "a.safetensors", b"{}")
    b = write_raw(tmp_path / "b.safetensors", b'{"__metadata__":{"format":"pt"}}      ')
    assert invoke("diff", a, b).status == 0
    assert invoke("stats", a).status == 0
    assert invoke("ls", a).status == 0


def test_empty_tensors_may_stand_anywhere(tmp_path: Path) -> None:
    """Tensors without bytes share offsets with their neighbours: no overlap."""
    header = {
        "full": header_entry("F32", [2], 0, 8),
        "start": header_entry("F32", [0], 0, 0),
        "end": header_entry("F64", [3, 0], 8, 8),
    }
    path = write_raw(tmp_path / "a.safetensors", json.dumps(header).encode(), bytes(8))
    outcome = invoke("diff", path, path)
    assert outcome.status == 0, outcome
