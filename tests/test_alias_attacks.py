"""What a megabyte can hold by using it over and over takes no more than 200 MB and 10 s."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.attacks.aliases import ALIASES
from tests.cli import measure


@pytest.mark.skipif(sys.platform != "linux", reason="measures with getrusage")
@pytest.mark.parametrize("name", ALIASES)
def test_what_is_used_over_and_over_stays_small(name: str, tmp_path: Path) -> None:
    make = ALIASES[name]
    assert make.__doc__, "say what the attack tries"
    (tmp_path / "bad").mkdir()
    arguments = make(tmp_path / "bad")
    held = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert held < 1_300_000
    usage = measure(["ls", *arguments, "-o", tmp_path / "out"], tmp_path / "usage")
    print(f"{name}: {usage.cpu_seconds:.1f} s, {usage.peak_rss / 1e6:.0f} MB")  # noqa: T201
    assert usage.status in (0, 2), usage.stderr
    assert "Traceback" not in usage.stderr
    assert usage.peak_rss < 200_000_000
    # opening is one thread, and the machine may do other things
    assert usage.cpu_seconds < 10
