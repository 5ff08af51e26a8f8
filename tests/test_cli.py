"""The command line: what a shell sees of it, to the letter, and what it leaves behind."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import ckptdiff
import numpy as np
import pytest

from tests.cli import (
    MODULE,
    Outcome,
    assert_one_line_of_trouble,
    environment,
    invoke,
    run,
)
from tests.snapshots import assert_snapshot
from tests.writers import Tensor, tensor, write_file, write_sharded, write_sparse

Tensors = dict[str, Tensor]

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, /dev/full or sparse files")


def base() -> Tensors:
    """A model of two layers whose numbers are short, so that a reader can check the snapshots."""
    ramp = np.arange(8.0).reshape(2, 4)
    return {
        "embed.weight": tensor(ramp, "BF16"),
        "layers.0.proj.weight": tensor(ramp + 1, "BF16"),
        "layers.0.norm.weight": tensor([1.0, 1.0], "F32"),
        "layers.1.proj.weight": tensor(ramp - 4, "BF16"),
        "layers.1.norm.weight": tensor([1.0, 0.0], "F32"),
        "layers.10.proj.weight": tensor(ramp, "BF16"),
        "head.weight": tensor(ramp, "BF16"),
        "old.bias": tensor([0.5], "F32"),
    }


def tuned() -> Tensors:
    """The base with one of everything: changes, a NaN, a sign of zero, a dtype, names, a shape."""
    ramp = np.arange(8.0).reshape(2, 4)
    changed = base() | {
        "layers.0.norm.weight": tensor([1.0, 1.5], "F32"),
        "layers.1.proj.weight": tensor(np.where(ramp == 3, np.nan, ramp - 4), "BF16"),
        "layers.1.norm.weight": tensor([1.0, -0.0], "F32"),
        "layers.10.proj.weight": tensor(ramp * 2, "BF16"),
        "head.weight": tensor(ramp[:1], "BF16"),
        "new.bias": tensor([0.5], "F32"),
    }
    del changed["old.bias"]
    return changed


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with ``base/`` (sharded) and ``tuned.safetensors`` in it."""
    write_sharded(tmp_path / "base", base(), 2)
    write_file(tmp_path / "tuned.safetensors", tuned())
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Snapshots: every format, every way to choose rows, every kind of verdict.

SNAPSHOTS = {
    "diff": "diff base tuned.safetensors",
    "diff_identical": "diff base base",
    "diff_layers": "diff base tuned.safetensors --by layer",
    "diff_modules": "diff base tuned.safetensors --by module --threshold 0.25 --threshold 1e-3",
    "diff_total": "diff base tuned.safetensors --by total",
    "diff_only_changed": "diff base tuned.safetensors --only-changed",
    "diff_sorted_top": "diff base tuned.safetensors --sort l2 --top 2",
    "diff_all": "diff base tuned.safetensors --top 0",
    "diff_filtered": "diff base tuned.safetensors --include 'layers.*' --exclude '*.1.*'",
    "diff_renamed": "diff base tuned.safetensors --rename '^old=new' --include '*bias'",
    "diff_tolerant": "diff base tuned.safetensors --include '*norm*' --atol 0.5",
    "diff_cast": "diff base tuned.safetensors --cast f8_e4m3 --include 'layers.10.*'",
    "diff_histogram": "diff base tuned.safetensors --histogram --include 'layers.1*'",
    "diff_unmatched_glob": "diff base tuned.safetensors --include 'layers*' --exclude 'nothing*'",
    "diff_json": "diff base tuned.safetensors --format json --include 'layers.1.*' --histogram",
    "diff_csv": "diff base tuned.safetensors --format csv --include 'layers.*'",
    "diff_markdown": "diff base tuned.safetensors --format markdown",
    "stats": "stats tuned.safetensors",
    "stats_layers": "stats tuned.safetensors --by layer",
    "stats_sorted_top": "stats tuned.safetensors --sort std --top 3",
    "stats_histogram": "stats tuned.safetensors --histogram --hash --include '*norm*'",
    "stats_json": "stats tuned.safetensors --format json --include '*norm*' --hash",
    "stats_csv": "stats tuned.safetensors --format csv",
    "stats_markdown": "stats base --format markdown",
    "ls": "ls base",
    "ls_single": "ls tuned.safetensors --include '*proj*'",
    "ls_json": "ls base --format json",
    "ls_csv": "ls base --format csv",
    "ls_markdown": "ls tuned.safetensors --format markdown",
    "error_missing": "diff base nowhere",
    "error_column": "diff base tuned.safetensors --sort rel_l3",
    "error_dtype": "diff base tuned.safetensors --cast bf61",
    "error_command": "dif base tuned.safetensors",
    "error_nothing_chosen": "diff base tuned.safetensors --include 'nothing*'",
    "error_rename": "diff base tuned.safetensors --rename '('",
}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_snapshot(name: str, pair: Path) -> None:
    command = SNAPSHOTS[name]
    assert_snapshot(name, command, invoke(*shlex.split(command)))


def test_every_snapshot_is_of_a_test() -> None:
    folder = Path(__file__).parent / "snapshots"
    assert {path.stem for path in folder.glob("*.txt")} == set(SNAPSHOTS)


def test_a_narrow_screen_keeps_its_lines_short(pair: Path) -> None:
    for command in ("diff base tuned.safetensors", "stats base", "ls base"):
        outcome = invoke(*shlex.split(command), env={"COLUMNS": "60"})
        lines = outcome.stdout.splitlines()
        table = [line for line in lines if "layers.1" in line]
        assert len(table) > 2
        assert max(map(len, table)) <= 60, outcome.stdout


def test_300_tensors_fit_a_screen(tmp_path: Path) -> None:
    """The top ones are shown, and how to see the rest."""
    a = {f"layers.{i}.w": tensor([1.0, float(i)]) for i in range(300)}
    b = {f"layers.{i}.w": tensor([1.0, i + 1.0 / (i + 1)]) for i in range(300)}
    paths = write_file(tmp_path / "a.safetensors", a), write_file(tmp_path / "b.safetensors", b)
    outcome = invoke("diff", *paths)
    assert len(outcome.stdout.splitlines()) < 45
    assert "300" in outcome.stdout
    assert "--top 0" in outcome.stdout
    for number in (0, 1, 2):  # the most changed ones
        assert f"layers.{number}.w" in outcome.stdout
    everything = invoke("diff", *paths, "--top", "0")
    assert all(f"layers.{i}.w" in everything.stdout for i in range(300))


# Exit statuses.


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("diff base base", 0),
        ("diff base tuned.safetensors", 1),
        ("diff tuned.safetensors base", 1),
        ("diff base tuned.safetensors --include '*embed*'", 0),
        ("diff base tuned.safetensors --include 'layers.1.norm*'", 0),  # equal in value
        ("diff base tuned.safetensors --include 'layers.0.norm*'", 1),
        ("diff base tuned.safetensors --include 'layers.0.norm*' --atol 0.5", 0),
        ("diff base tuned.safetensors --include 'layers.0.norm*' --rtol 0.5", 0),
        ("diff base tuned.safetensors --include 'layers.0.norm*' --atol 0.49", 1),
        ("diff base tuned.safetensors --include 'layers.1.proj*' --atol 1000", 1),  # a NaN
        ("diff base tuned.safetensors --include 'head*'", 1),  # another shape
        ("diff base tuned.safetensors --include 'old*'", 1),  # only in A
        ("diff base tuned.safetensors --include 'new*'", 1),  # only in B
        ("diff base tuned.safetensors --include '*bias' --rename old=new", 0),
        ("diff base tuned.safetensors --by layer --top 1 --sort name", 1),
        ("stats base", 0),
        ("stats tuned.safetensors", 0),  # a NaN is an answer
        ("ls base", 0),
        ("--help", 0),
        ("--version", 0),
        ("diff --help", 0),
        ("", 2),
        ("diff base", 2),
        ("diff base tuned.safetensors --unknown", 2),
        ("diff base tuned.safetensors --atol x", 2),
        ("diff base tuned.safetensors --atol=-1", 2),
        ("diff base tuned.safetensors --atol nan", 2),
        ("diff base tuned.safetensors --threshold=-1", 2),
        ("diff base tuned.safetensors --threads=-1", 2),
        ("diff base tuned.safetensors --top=-1", 2),
        ("diff base tuned.safetensors --by layr", 2),
        ("diff base tuned.safetensors --format yaml", 2),
        ("diff base tuned.safetensors extra", 2),
        ("diff nowhere base", 2),
        ("stats nowhere", 2),
        ("ls nowhere", 2),
    ],
)
def test_exit_status(command: str, status: int, pair: Path) -> None:
    for quiet in ([], ["--quiet"]):
        if quiet and not command.startswith(("diff base", "stats")):
            continue
        outcome = invoke(*shlex.split(command), *quiet)
        assert outcome.status == status, outcome
        if quiet and status != 2:
            assert outcome.stdout == outcome.stderr == ""
        if status == 2 and command:
            assert_one_line_of_trouble(outcome)


def test_the_same_statuses_from_a_process(pair: Path) -> None:
    assert run("diff", "base", "base").status == 0
    outcome = run("diff", "base", "tuned.safetensors")
    assert outcome.status == 1
    assert outcome.stdout == invoke("diff", "base", "tuned.safetensors").stdout
    assert run("diff", "base", "nowhere").status == 2


def test_a_file_against_itself_is_allowed(pair: Path) -> None:
    assert invoke("diff", "tuned.safetensors", "tuned.safetensors").status == 0
    (pair / "link.safetensors").symlink_to("tuned.safetensors")
    assert invoke("diff", "tuned.safetensors", "link.safetensors").status == 0
    shard = "base/model-00001-of-00002.safetensors"
    assert invoke("diff", shard, "base").status == 1


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["--sort", "max_ab"], "max_abs"),
        (["--sort", "cosine_dist"], "cosine_distance"),
        (["--sort", "Rel-L2x"], "rel_l2"),
        (["--cast", "bfloat16"], "BF16"),
        (["--cast", "F8_E4M"], "F8_E4M3"),
        (["--cast", "fp16"], "F16"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(
    arguments: list[str], nearest: str, pair: Path
) -> None:
    outcome = invoke("diff", "base", "tuned.safetensors", *arguments)
    assert_one_line_of_trouble(outcome, nearest, arguments[1])


def test_an_unknown_column_is_refused_before_the_work(tmp_path: Path) -> None:
    """Not after minutes of reading: a pair of 40 GB is refused at once."""
    big = write_sparse(tmp_path / "big.safetensors", {"w": (20_000, 1_000_000)})
    start = time.perf_counter()
    outcome = invoke("diff", big, big, "--sort", "rel_l3")
    assert_one_line_of_trouble(outcome, "rel_l3", "rel_l2")
    outcome = invoke("stats", big, "--sort", "men")
    assert_one_line_of_trouble(outcome, "men", "mean")
    outcome = invoke("diff", big, big, "--cast", "bf61")
    assert_one_line_of_trouble(outcome, "bf61", "BF16")
    outcome = invoke("diff", big, big, "-o", tmp_path / "missing" / "report.json")
    assert_one_line_of_trouble(outcome, "missing")
    assert time.perf_counter() - start < 1.0


# Options by their effect.


def rows(command: str) -> list[dict[str, str]]:
    outcome = invoke(*shlex.split(command), "--format", "csv")
    return list(csv.DictReader(io.StringIO(outcome.stdout)))


def test_sorting_and_choosing_rows(pair: Path) -> None:
    natural = [row["name"] for row in rows("diff base tuned.safetensors")]
    assert natural == [
        "embed.weight",
        "layers.0.norm.weight",
        "layers.0.proj.weight",
        "layers.1.norm.weight",
        "layers.1.proj.weight",
        "layers.10.proj.weight",
    ]
    sizes = [float(row["max_abs"]) for row in rows("diff base tuned.safetensors --sort max_abs")]
    assert sizes == sorted(sizes, reverse=True)
    top = rows("diff base tuned.safetensors --sort max_abs --top 1")
    assert [row["name"] for row in top] == ["layers.10.proj.weight"]
    changed = {row["name"] for row in rows("diff base tuned.safetensors --only-changed")}
    assert changed == {"layers.0.norm.weight", "layers.1.proj.weight", "layers.10.proj.weight"}
    included = rows("diff base tuned.safetensors --include '*.0.*' --include 'embed*'")
    assert {row["name"].split(".")[0] for row in included} == {"embed", "layers"}
    assert len(included) == 3
    excluded = rows("diff base tuned.safetensors --exclude 'layers*' --exclude 'nothing'")
    assert [row["name"] for row in excluded] == ["embed.weight"]


def test_thresholds_cast_tolerance_and_histogram(pair: Path) -> None:
    command = "diff base tuned.safetensors --include 'layers.10.*'"
    (row,) = rows(command + " --threshold 0 --threshold 3.5 --threshold 1e-8")
    assert (row["above_0.0"], row["above_3.5"], row["above_1e-08"]) == ("7", "4", "7")
    (row,) = rows(command + " --atol 3.5 --rtol 0")
    assert row["out_of_tolerance"] == "4"
    (row,) = rows(command + " --histogram")
    assert 1 <= float(row["abs_p50"]) <= 8
    (row,) = rows(command + " --cast f8_e4m3")
    assert (row["dtype_a"], row["changed"]) == ("BF16", "7")


def test_threads_change_nothing(pair: Path) -> None:
    texts = {
        invoke("diff", "base", "tuned.safetensors", "--format", "json", "--threads", n).stdout
        for n in ("0", "1", "2", "7")
    }
    assert len(texts) == 1


def test_results_on_stdout_and_the_rest_on_stderr(pair: Path) -> None:
    for form in ("table", "json", "csv", "markdown"):
        outcome = invoke("diff", "base", "tuned.safetensors", "--format", form)
        assert outcome.stdout
        assert "/s" not in outcome.stdout, "a rate does not belong to the result"
        assert "B/s" in outcome.stderr
    json.loads(invoke("diff", "base", "tuned.safetensors", "--format", "json").stdout)


def test_help_names_every_option() -> None:
    text = invoke("diff", "--help").stdout
    for option in (
        "--include", "--exclude", "--rename", "--atol", "--rtol", "--cast", "--threshold",
        "--histogram", "--by", "--sort", "--top", "--only-changed", "--format", "--output",
        "--threads", "--quiet",
    ):  # fmt: skip
        assert option in text
    assert "Exit status" in text
    assert ckptdiff.__version__ in invoke("--version").stdout


def test_help_is_quick_because_it_imports_little() -> None:
    """Neither numpy nor rich: measured, and held loosely for a busy machine."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([*MODULE, "--help"], env=environment(), check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    print(f"ckptdiff --help: {min(seconds) * 1000:.0f} ms")  # noqa: T201 - for pytest -rP
    assert min(seconds) < 0.5
    code = (
        "import sys, ckptdiff.cli\n"
        "try: ckptdiff.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'rich', 'torch', 'difflib'} & set(sys.modules)))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code], env=environment(), check=True, capture_output=True, text=True
    )
    assert completed.stdout.splitlines()[-1] == "[]"


def test_diff_imports_neither_torch_nor_pandas(pair: Path) -> None:
    code = (
        "import sys, ckptdiff.cli\n"
        "try: ckptdiff.cli.main(['diff', 'base', 'tuned.safetensors', '--format', 'json'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'pandas', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code], env=environment(), check=True, capture_output=True, text=True
    )
    assert completed.stderr.splitlines()[-1] == "[]"


# Output files.


def test_output_goes_to_the_file_alone(pair: Path) -> None:
    for form in ("table", "json", "csv", "markdown"):
        outcome = invoke("diff", "base", "tuned.safetensors", "--format", form, "-o", "report")
        assert (outcome.status, outcome.stdout) == (1, "")
        written = (pair / "report").read_text(encoding="utf-8")
        assert "layers.10.proj.weight" in written
        assert "\x1b" not in written
    assert invoke("ls", "base", "-o", "listing").stdout == ""
    assert "layers.10" in (pair / "listing").read_text()
    outcome = invoke("diff", "base", "base", "--quiet", "-o", "quiet.txt")
    assert outcome.stdout == outcome.stderr == ""
    assert (pair / "quiet.txt").exists()


def test_a_failed_run_leaves_the_old_output_alone(pair: Path) -> None:
    (pair / "report.json").write_text("old")
    before = set(pair.iterdir())
    commands = (
        ["diff", "base", "nowhere"],
        ["stats", "nowhere"],
        ["diff", "base", "tuned.safetensors", "--sort", "rel_l3"],
    )
    for command in commands:
        assert invoke(*command, "--format", "json", "-o", "report.json").status == 2
    assert (pair / "report.json").read_text() == "old"
    assert set(pair.iterdir()) == before


def test_output_follows_a_link_and_takes_a_device(pair: Path) -> None:
    (pair / "link.json").symlink_to("real.json")
    assert invoke("stats", "base", "--format", "json", "-o", "link.json").status == 0
    assert (pair / "link.json").is_symlink()
    json.loads((pair / "real.json").read_text())
    outcome = run("stats", "base", "--format", "json", "-o", "/dev/stdout")
    json.loads(outcome.stdout)
    assert run("stats", "base", "-o", "/dev/null").status == 0


def test_output_where_nothing_can_be_written(pair: Path) -> None:
    (pair / "folder").mkdir()
    for path in ("folder", "missing/report.json", "tuned.safetensors/report.json"):
        outcome = invoke("diff", "base", "tuned.safetensors", "-o", path)
        assert_one_line_of_trouble(outcome, path.split("/")[0])


@linux
def test_a_full_disk_is_trouble(pair: Path) -> None:
    for form in ("table", "json"):
        with open("/dev/full", "w") as full:
            completed = subprocess.run(
                [*MODULE, "diff", "base", "tuned.safetensors", "--format", form],
                env=environment(),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert completed.returncode == 2
        assert "Traceback" not in completed.stderr
        assert "space" in completed.stderr
    outcome = run("diff", "base", "tuned.safetensors", "-o", "/dev/full")
    assert_one_line_of_trouble(outcome, "/dev/full")


def test_a_reader_that_goes_away_is_no_trouble(tmp_path: Path) -> None:
    """``ckptdiff ls | head -1`` prints one line and nothing else."""
    many = {f"layers.{i}.w": tensor([1.0]) for i in range(20_000)}
    path = write_file(tmp_path / "a.safetensors", many)
    process = subprocess.Popen(
        [*MODULE, "ls", str(path)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=30) in (141, -signal.SIGPIPE)


# Terminals.


def on_terminal(*arguments: str | Path, **env: str) -> tuple[int, str]:
    """Run with stdout and stderr on a terminal of 100 columns; what appears on it."""
    main, child = pty.openpty()
    variables = environment(TERM="xterm-256color", LINES="40") | env
    variables["COLUMNS"] = "100"
    process = subprocess.Popen(
        [*MODULE, *map(str, arguments)],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    shown = b""
    while True:
        ready, _, _ = select.select([main], [], [], 60)
        try:
            piece = os.read(main, 65536) if ready else b""
        except OSError:  # the other end is closed
            piece = b""
        if not piece:
            break
        shown += piece
    os.close(main)
    return process.wait(timeout=60), shown.decode()


def test_colours_on_a_terminal_and_nowhere_else(pair: Path) -> None:
    command = ("diff", "base", "tuned.safetensors")
    status, shown = on_terminal(*command)
    assert status == 1
    assert "\x1b[" in shown
    status, shown = on_terminal(*command, NO_COLOR="1")
    assert "\x1b[" not in shown
    status, shown = on_terminal(*command, TERM="dumb")
    assert "\x1b[" not in shown
    assert "\x1b[" not in run(*command).stdout
    assert "\x1b[" in run(*command, env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b[" not in run(*command, env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout


def test_an_encoding_without_boxes_gets_ascii(pair: Path) -> None:
    outcome = run("diff", "base", "tuned.safetensors", env={"PYTHONIOENCODING": "ascii"})
    assert outcome.status == 1, outcome
    assert outcome.stdout.isascii()
    assert "layers.10.proj.weight" in outcome.stdout


@linux
def test_progress_on_a_terminal_that_waits(tmp_path: Path) -> None:
    """A bar with GB/s, on stderr, gone when the result is there; nothing of it in a pipe."""
    big = write_sparse(tmp_path / "big.safetensors", {"w": (600, 1_000_000)})
    status, shown = on_terminal("diff", big, big)
    assert status == 0
    assert "GB/s" in shown
    assert "━" in shown or "%" in shown
    outcome = run("diff", big, big)
    assert outcome.stderr.count("\n") == 1
    assert "\r" not in outcome.stderr
    _, shown = on_terminal("diff", big, big, "--quiet")
    assert shown == ""


# Interrupts.


def interrupted(
    arguments: list[str | Path], cwd: Path, signals: int = 1, after: float = 1.0
) -> tuple[float, Outcome]:
    """Send SIGINT to a running command; the time until it ended, and how."""
    process = subprocess.Popen(
        [*MODULE, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(after)
        assert process.poll() is None, "the files are too small to be caught in the act"
        start = time.perf_counter()
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
        seconds = time.perf_counter() - start
    finally:
        process.kill()
    return seconds, Outcome(process.returncode, stdout, stderr)


@linux
@pytest.mark.parametrize("command", ["diff", "stats", "one_thread", "cast"])
def test_an_interrupt_ends_the_run_at_once(command: str, tmp_path: Path) -> None:
    """Within a fifth of a second on an idle machine, with status 130 and no file left."""
    big = write_sparse(tmp_path / "big.safetensors", {"w": (20_000, 1_000_000)})
    (tmp_path / "old.json").write_text("old")
    before = set(tmp_path.iterdir())
    arguments: dict[str, list[str | Path]] = {
        "diff": ["diff", big, big, "--format", "json", "-o", "new.json"],
        "stats": ["stats", big, "--format", "json", "-o", "old.json"],
        "one_thread": ["diff", big, big, "--threads", "1", "-o", "old.json"],
        "cast": ["diff", big, big, "--cast", "F8_E4M3", "-o", "new.json"],
    }
    seconds, outcome = interrupted(arguments[command], tmp_path)
    print(f"{command}: ended {seconds * 1000:.0f} ms after SIGINT")  # noqa: T201 - for pytest -rP
    assert outcome.status == 130, outcome
    assert seconds < 1.0
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("\n") <= 1
    assert set(tmp_path.iterdir()) == before
    assert (tmp_path / "old.json").read_text() == "old"


@linux
def test_two_interrupts_are_as_good_as_one(tmp_path: Path) -> None:
    big = write_sparse(tmp_path / "big.safetensors", {"w": (20_000, 1_000_000)})
    before = set(tmp_path.iterdir())
    arguments: list[str | Path] = ["diff", big, big, "-o", "new.json"]
    seconds, outcome = interrupted(arguments, tmp_path, signals=2)
    assert outcome.status in (130, -signal.SIGINT)
    assert seconds < 1.0
    assert set(tmp_path.iterdir()) == before


@linux
def test_an_interrupt_in_the_library_is_a_keyboard_interrupt(tmp_path: Path) -> None:
    """And the interpreter can go on: the next run is as good as the first."""
    big = write_sparse(tmp_path / "big.safetensors", {"w": (20_000, 1_000_000)})
    small = write_file(tmp_path / "small.safetensors", {"w": tensor([1.0])})
    code = (
        "import ckptdiff, sys\n"
        "try:\n"
        "    ckptdiff.diff(sys.argv[1], sys.argv[1])\n"
        "except KeyboardInterrupt:\n"
        "    print(ckptdiff.diff(sys.argv[2], sys.argv[2]).total.verdict)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(big), str(small)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert stdout == "bit_identical\n"


# The demonstration.


def test_demo_writes_a_pair_and_shows_the_commands(tmp_path: Path) -> None:
    outcome = run("demo", str(tmp_path / "demo"))
    assert outcome.status == 0, outcome
    shown = [line for line in outcome.stdout.splitlines() if line.startswith("$ ckptdiff")]
    assert len(shown) >= 4
    assert {"diff", "stats", "ls"} <= {line.split()[2] for line in shown}
    files = {path.relative_to(tmp_path / "demo").as_posix() for path in tmp_path.rglob("*") if
             path.is_file()}  # fmt: skip
    assert any(name.endswith(".index.json") for name in files)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size < 30_000_000
    base, other = (p for p in sorted((tmp_path / "demo").iterdir()) if p.is_dir())
    report = ckptdiff.diff(base, other)
    assert report.verdicts["different"] > 10
    assert report.total.nan_b == 1
    assert len(report.only_in_a) == len(report.only_in_b) == 1
    assert {row.dtype_a for row in report} == {"BF16"}
    embedding = [row for row in report if "embed" in row.name]
    assert [row.verdict for row in embedding] == ["bit_identical"]
    # what was shown is what the commands print
    first = shlex.split(shown[0][2:])[1:]
    again = run(*first, cwd=tmp_path)
    assert again.stdout.splitlines()[5] in outcome.stdout


def test_demo_twice_and_over_other_files(tmp_path: Path) -> None:
    assert run("demo", str(tmp_path / "demo")).status == 0
    assert run("demo", str(tmp_path / "demo")).status == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    outcome = run("demo", str(mine))
    assert_one_line_of_trouble(outcome, "mine")
    assert (mine / "thesis.txt").read_text() == "precious"
