"""What every test gets: one thread a process, nothing written outside its own folder, no hub."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch, transformers, Prefect or MLflow are imported: several test processes share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(
    HF_HUB_OFFLINE="1",
    DO_NOT_TRACK="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs, tracking and flow records of a test go below its own folder."""
    home = tmp_path / "runs"
    monkeypatch.setenv("LLMDIFF_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return home
