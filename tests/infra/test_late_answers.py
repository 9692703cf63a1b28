"""What `make serve` takes late answers of its servers for."""

from __future__ import annotations

import io
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.service import deployments
from infra.service.config import ServiceConfig, read_service_config
from infra.service.health import check_login, mlflow_answers


def test_what_is_not_asked_again_is_waited_for_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    def answer(opener: Any, request: Any, *, timeout: float) -> io.BytesIO:
        waited.append(timeout)
        return io.BytesIO(b"[]")

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", answer)
    config = read_service_config(tmp_path)
    assert not mlflow_answers(config)
    check_login(config)
    assert deployments.unregistered(config)
    assert waited == [5, 60, 60]


def test_no_automation_is_made_where_the_server_does_not_say_which_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would be there twice, and act twice."""
    asked = []
    deployed = yaml.safe_load(deployments.DEPLOYMENTS.read_text())["deployments"]

    def answer(config: ServiceConfig, path: str, *_: Any) -> Any:
        asked.append(path)
        return None if path == "automations/filter" else deployed

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))
    monkeypatch.setattr(deployments, "ask_prefect", answer)
    with pytest.raises(RuntimeError, match="expected the automations that it has, found no answer"):
        deployments.register(read_service_config(tmp_path))
    assert asked == ["deployments/filter", "automations/filter"]
