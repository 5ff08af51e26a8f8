"""What every test may rely on: no network, and none of the developer's terminal settings."""

from __future__ import annotations

import os

import pytest

# Before numpy and torch are imported: on a busy machine, threads of BLAS wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
from tests.series_oracle import RealSeries, read_run
from tests.training_run import TrainingRun, train

# Before transformers is imported: nothing here may ask the Hub for anything.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def training_run(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """The run of tests/training_run.py, trained once for all tests, which leave it as it is."""
    return train(tmp_path_factory.mktemp("training") / "run")


@pytest.fixture(scope="session")
def real_series(training_run: TrainingRun) -> RealSeries:
    """The training run in float64, and the data of the series as numpy has it."""
    return read_run(training_run)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests for a GPU are skipped, with the reason, where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device, and torch sees none")
