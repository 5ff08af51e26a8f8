"""Output files are complete or not there, whatever ends the command; and how it then ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ckptdiff
import pytest
from ckptdiff.atomic import atomic_text, check_writable

from tests.cli import MODULE, Outcome, assert_one_line_of_trouble, environment, invoke, run
from tests.writers import tensor, write_file, write_sparse

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and permissions")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    held = {f"layers.{i}.w": tensor([float(i), 1.0]) for i in range(20)}
    return write_file(tmp_path / "in" / "a.safetensors", held)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def run_code(code: str, *arguments: str | Path, cwd: Path | None = None) -> Outcome:
    """Run Python of ours in a process of its own."""
    completed = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment(),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Outcome(completed.returncode, completed.stdout, completed.stderr)


# Files.


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit, ValueError])
@pytest.mark.parametrize("old", [None, "old"])
def test_what_ends_the_writing_leaves_the_folder_as_it_was(
    error: type[BaseException], old: str | None, out: Path
) -> None:
    path = out / "report.json"
    if old is not None:
        path.write_text(old)
    before = set(out.iterdir())

    def write() -> None:
        with atomic_text(str(path)) as stream:
            stream.write("half of ")
            raise error

    with pytest.raises(error):
        write()
    assert set(out.iterdir()) == before
    if old is not None:
        assert path.read_text() == old


def test_nothing_is_there_before_everything_is(out: Path) -> None:
    path = out / "report.json"
    with atomic_text(str(path)) as stream:
        stream.write("é\n")
        stream.flush()
        assert not path.exists()
    assert path.read_bytes() == "é\n".encode()
    assert list(out.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(out: Path) -> None:
    path = out / "report.json"
    with atomic_text(str(path)) as first, atomic_text(str(path)) as second:
        first.write("first")
        second.write("second")
    # the last that was done counts, whole
    assert path.read_text() == "first"
    assert list(out.iterdir()) == [path]


@posix
def test_a_link_keeps_pointing_also_where_nothing_is_yet(out: Path) -> None:
    (out / "link").symlink_to("real")
    for text in ("one", "two"):
        with atomic_text(str(out / "link")) as stream:
            stream.write(text)
        assert (out / "link").is_symlink()
        assert (out / "real").read_text() == text
    assert len(list(out.iterdir())) == 2


@posix
def test_a_pipe_is_written_to_and_not_replaced(model: Path, out: Path) -> None:
    pipe = out / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(
        [*MODULE, "stats", str(model), "--format", "json", "-o", str(pipe)], env=environment()
    ) as process:
        assert json.loads(pipe.read_text())["schema"] == "ckptdiff.stats/1"
    assert process.returncode == 0
    assert pipe.is_fifo()
    assert list(out.iterdir()) == [pipe]


@posix
@pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_folder_that_may_not_be_written(model: Path, out: Path) -> None:
    out.chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            check_writable(str(out / "report.json"))
        outcome = invoke("stats", model, "-o", out / "report.json")
    finally:
        out.chmod(0o755)
    assert_one_line_of_trouble(outcome, "report.json", "not writable")


def test_what_cannot_be_written_is_found_out_before_the_work(out: Path) -> None:
    """The input is missing too, but that would come later."""
    outcome = invoke("diff", "missing", "missing", "-o", out / "none" / "report.json")
    assert_one_line_of_trouble(outcome, "no such directory")
    assert_one_line_of_trouble(invoke("ls", "missing", "-o", out), "is a directory")


def test_a_run_that_fails_creates_no_file(model: Path, out: Path) -> None:
    with model.open("r+b") as file:
        file.truncate(model.stat().st_size - 1)
    for command in (["diff", model, model], ["stats", model], ["ls", model]):
        outcome = invoke(*command, "-o", out / "report")
        assert_one_line_of_trouble(outcome, "truncated")
        assert list(out.iterdir()) == []


@pytest.mark.parametrize("form", ["json", "csv", "markdown"])
def test_a_file_holds_what_stdout_does(form: str, model: Path, out: Path) -> None:
    for command in (["diff", model, model], ["stats", model], ["ls", model]):
        shown = invoke(*command, "--format", form).stdout
        assert invoke(*command, "--format", form, "-o", out / "report").stdout == ""
        assert (out / "report").read_text(encoding="utf-8") == shown


# What ends a command.

# Runs the command with something else in the place of the text of rows; "run" sees the stream.
_WHILE_WRITING = """
import os, signal, sys, time
import ckptdiff.render.json as module
from ckptdiff.cli import main
def write_report(report, stream):
    stream.write("half of ")
    stream.flush()
    {action}
module.write_report = write_report
main(["stats", sys.argv[1], "--format", "json", "-o", sys.argv[2]])
"""


@posix
@pytest.mark.parametrize(
    ("action", "status", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(5)", 130, "ckptdiff: interrupted\n"),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", 143, ""),
        ("raise OSError(28, 'No space left on device')", 2, "no space left on device\n"),
        ("raise MemoryError", 2, "ckptdiff: error: out of memory\n"),
        # an error of this program: its traceback is wanted, and 1 would read as "they differ"
        ("raise RuntimeError('a slip')", 2, "RuntimeError: a slip\n"),
        ("raise AssertionError", 2, "AssertionError\n"),
    ],
)
def test_what_ends_a_command_while_it_writes(
    action: str, status: int, says: str, model: Path, out: Path
) -> None:
    (out / "report.json").write_text("old")
    outcome = run_code(_WHILE_WRITING.format(action=action), model, out / "report.json")
    assert outcome.status == status, outcome
    assert outcome.stderr.endswith(says), outcome
    assert outcome.stdout == ""
    assert ("Traceback" in outcome.stderr) == ("RuntimeError" in says or "Assert" in says)
    assert [path.name for path in out.iterdir()] == ["report.json"]
    assert (out / "report.json").read_text() == "old"


@posix
def test_termination_that_was_to_be_ignored_is(model: Path, out: Path) -> None:
    """As under ``nohup``-like wrappers: a signal that was ignored at the start stays so."""
    action = "os.kill(os.getpid(), signal.SIGTERM); stream.write('a whole')"
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code += _WHILE_WRITING.format(action=action)
    outcome = run_code(code, model, out / "report.json")
    assert outcome.status == 0, outcome
    assert (out / "report.json").read_text() == "half of a whole"


def test_the_command_leaves_the_signal_handlers_of_its_caller_alone(model: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL), signal.getsignal(signal.SIGINT)
    try:
        assert invoke("ls", model).status == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is before[1]
    finally:
        signal.signal(signal.SIGTERM, before[0])


@posix
def test_an_interrupt_while_the_command_is_being_imported() -> None:
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == sys.argv[1]:\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from ckptdiff.__main__ import main\n"
        "sys.argv[1:] = ['ls', 'nothing']\n"
        "main()\n"
    )
    for module in ("click", "ckptdiff.cli.group", "ckptdiff.cli.errors"):
        outcome = run_code(code.replace("sys.argv[1]:", f"{module!r}:"), module)
        assert outcome == Outcome(130, "", "ckptdiff: interrupted\n"), module
    # these are imported when the command is called
    for module in ("ckptdiff.cli.ls", "ckptdiff.api", "ckptdiff._core"):
        outcome = run_code(code.replace("sys.argv[1]:", f"{module!r}:"), module)
        assert outcome == Outcome(130, "", "ckptdiff: interrupted\n"), module


@posix
@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_a_pipe_that_closes_is_neither_trouble_nor_a_difference(form: str, tmp_path: Path) -> None:
    many = {f"layers.{i}.w": tensor([1.0]) for i in range(5_000)}
    a = write_file(tmp_path / "a.safetensors", many)
    command = [*MODULE, "diff", str(a), str(a), "--format", form, "--top", "0", "--quiet"]
    if form == "table":
        command = [*MODULE, "diff", str(a), str(a), "--top", "0"]
    else:
        command.remove("--quiet")
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode in (141, -signal.SIGPIPE)
    assert errors == b""


@posix
def test_a_pipe_that_was_never_read(model: Path) -> None:
    """Short output fails only when it is flushed at the end."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        completed = subprocess.run(
            [*MODULE, "ls", str(model)],
            env=environment(PYTHONUNBUFFERED=""),
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert completed.returncode in (141, -signal.SIGPIPE)
    assert completed.stderr == b""


@posix
def test_streams_that_a_script_has_closed(model: Path, out: Path) -> None:
    """``2>&-`` changes nothing but the messages; ``>&-`` is trouble where there is a result."""

    def shell(line: str) -> Outcome:
        completed = subprocess.run(
            f"exec {sys.executable} -m ckptdiff {line}",
            shell=True,
            env=environment(),
            cwd=model.parent,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Outcome(completed.returncode, completed.stdout, completed.stderr)

    diff = f"diff {model.name} {model.name}"
    outcome = shell(f"{diff} 2>&-")
    assert outcome.status == 0
    assert "identical" in outcome.stdout
    assert shell("diff missing missing 2>&-") == Outcome(2, "", "")
    assert_one_line_of_trouble(shell(f"{diff} >&-"), "standard output")
    assert_one_line_of_trouble(shell(f"ls {model.name} >&-"), "standard output")
    assert shell(f"{diff} --quiet >&-").status == 0
    assert shell(f"{diff} -o {out / 'report'} >&-").status == 0
    assert "identical" in (out / "report").read_text()


def test_an_error_of_the_program_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the calling process, too: status 2, with the traceback on stderr."""
    import ckptdiff.cli.ls as ls

    def broken(path: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ls.api, "open", broken)
    outcome = invoke("ls", "anything")
    assert outcome.status == 2
    assert "ZeroDivisionError" in outcome.stderr


# JSON that is made in the core.


def test_digits_are_those_of_python(tmp_path: Path) -> None:
    """The text is what Python's json makes of the same rows: the rule for ties is the same."""
    held = {f"t{i}": tensor([i / 4096 + 0.1, (i * 7919 % 4096) / 65536]) for i in range(3000)}
    moved = {name: tensor([i * 1.37e-5, 1.0]) for i, name in enumerate(held)}
    paths = (
        write_file(tmp_path / "a.safetensors", held),
        write_file(tmp_path / "b.safetensors", moved),
    )
    for report in (ckptdiff.diff(*paths), ckptdiff.stats(paths[0])):
        lines = report.to_json().splitlines()
        rows = [line.rstrip(",") for line in lines if line.startswith('{"name": "t')]
        assert len(rows) == 3000
        for row, line in zip(report, rows, strict=True):
            assert json.dumps(dict(row)) == line


def test_a_signal_during_the_run_ends_it_at_once(tmp_path: Path) -> None:
    """SIGTERM, as a batch system sends it: nothing is left, and soon."""
    if os.name != "posix":
        pytest.skip("needs signals")
    from tests.writers import write_sparse

    big = write_sparse(tmp_path / "big.safetensors", {"w": (20_000, 1_000_000)})
    with subprocess.Popen(
        [*MODULE, "diff", str(big), str(big), "-o", str(tmp_path / "report")],
        env=environment(),
        stderr=subprocess.PIPE,
    ) as process:
        time.sleep(1.0)
        assert process.poll() is None
        start = time.perf_counter()
        process.terminate()
        process.wait(timeout=30)
        seconds = time.perf_counter() - start
    assert process.returncode == 143
    assert seconds < 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["big.safetensors"]


def test_help_of_every_command_ends_well() -> None:
    for command in ("diff", "stats", "ls", "demo"):
        assert run(command, "--help").status == 0
    assert run().status == 2


@pytest.mark.parametrize("command", ["ls", "stats", "diff"])
def test_a_long_name_does_not_widen_every_row(command: str, tmp_path: Path) -> None:
    names = ["a" * 50_000, *(f"t{index}" for index in range(2000))]
    path = write_sparse(tmp_path / "long.safetensors", dict.fromkeys(names, (1,)))
    arguments = {"ls": [path], "stats": [path, "--top", "0"], "diff": [path, path, "--top", "0"]}
    outcome = run(command, *arguments[command], "-o", tmp_path / "table")
    assert outcome.status == 0
    text = (tmp_path / "table").read_text()
    assert "t1999" in text
    # 100 MB if each row were as wide as the name
    assert len(text) < 3_000_000


@pytest.mark.parametrize("command", ["diff", "stats", "ls", "where", "series", "mix", "spectrum"])
def test_json_is_one_word_in_every_command(command: str, tmp_path: Path) -> None:
    """``--json`` is ``--format json``, where the other formats are no contradiction to it."""
    paths = [
        write_file(tmp_path / name, {"layers.0.w": tensor([[1.0, float(at)], [0.0, 2.0]])})
        for at, name in enumerate(("step1.safetensors", "step2.safetensors"))
    ]
    arguments = [command, *(paths[:1] if command in ("stats", "ls") else paths)]
    long = invoke(*arguments, "--format", "json")
    assert json.loads(long.stdout)["schema"] == f"ckptdiff.{command}/1"
    assert invoke(*arguments, "--json").stdout == long.stdout
    assert invoke(*arguments, "--json", "--format", "json").stdout == long.stdout
    both = invoke(*arguments, "--json", "--format", "table")
    assert_one_line_of_trouble(both, "--json is --format json, and --format says table")
    invoke(*arguments, "--json", "-o", tmp_path / "out.json")
    assert (tmp_path / "out.json").read_text() == long.stdout
