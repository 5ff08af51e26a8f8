"""What every test may rely on: no network, and none of the developer's terminal settings."""

from __future__ import annotations

import os

import pytest

# Before numpy and torch are imported: on a busy machine, threads of BLAS wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before transformers is imported: nothing here may ask the Hub for anything.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
