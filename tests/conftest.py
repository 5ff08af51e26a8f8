"""What every test may rely on: no network, and none of the developer's terminal settings."""

from __future__ import annotations

import os

import pytest

# Before transformers is imported: nothing here may ask the Hub for anything.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests for a GPU are skipped, with the reason, where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device, and torch sees none")
