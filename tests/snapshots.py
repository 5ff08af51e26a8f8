"""Snapshots of what a command prints: status, stdout and stderr together, one file each.

Those of a command with a test file of its own are in a folder of its name.

Set CKPTDIFF_UPDATE_SNAPSHOTS=1 to write them anew, and read the difference before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.cli import Outcome, without_timings

FOLDER = Path(__file__).parent / "snapshots"


def assert_snapshot(name: str, command: str, outcome: Outcome) -> None:
    """Compare with ``snapshots/name.txt``, durations and rates aside."""
    text = f"$ ckptdiff {command}\n{without_timings(str(outcome))}"
    path = FOLDER / f"{name}.txt"
    if os.environ.get("CKPTDIFF_UPDATE_SNAPSHOTS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"no snapshot {name}: run with CKPTDIFF_UPDATE_SNAPSHOTS=1 and read it"
    assert text == path.read_text(encoding="utf-8")
