"""Stages without Prefect: functions where nothing records them, whose parts are tried again all the same."""

from __future__ import annotations

import errno
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.environment import child_environment
from pipelines.requests.register import RegisterRequest
from pipelines.runtime import stage as module
from pipelines.runtime.artifacts import show_table, show_text
from pipelines.runtime.recording import in_a_run, recorded, run_id, run_logger
from pipelines.runtime.stage import Stage, stage, task
from tests.pipelines.conftest import World


@stage("ask", needs_engine=lambda request: request.name == "engine")
def ask(request: RegisterRequest) -> RegisterRequest:
    """Return what was asked for."""
    run_logger().warning("nobody looks at this")
    show_text("text", key="text")
    show_table([{"a": 1}], key="table", title="a table")
    return part(request)


@task("a part")
def part(request: RegisterRequest) -> RegisterRequest:
    assert not in_a_run()
    return request


def test_without_a_server_a_stage_is_its_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Stage, "flow", property(lambda self: pytest.fail("a flow was made")))
    request = RegisterRequest(adapter="a", tags={"b": "c"})
    assert ask(request) is request
    assert run_id() != run_id()


def test_a_request_that_needs_the_engine_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "tie_server", lambda: None)
    monkeypatch.setattr(Stage, "flow", property(lambda self: lambda **given: made.append(given)))
    request = RegisterRequest(adapter="a", name="engine", tags={"b": "c"})
    ask(request)
    assert made == [dict(request)]


def test_a_flow_refuses_what_its_request_does_not_have() -> None:
    with pytest.raises(ValueError, match="^ask: adaptor: unknown; expected some of adapter, "):
        ask.flow.fn(adapter="a", adaptor="a")


@pytest.mark.parametrize("imported", [True, False])
def test_a_server_that_is_set_records(imported: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    if not imported:
        monkeypatch.delitem(sys.modules, "prefect")
    assert not recorded()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert recorded()
        assert not in_a_run()


def test_a_part_is_tried_again_after_what_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    faults = [OSError(errno.EIO, "a fault"), OSError(errno.EIO, "a fault")]

    @task("work", delays=(5, 60), may_pass=lambda error: getattr(error, "errno", None) == errno.EIO)
    def work() -> str:
        if faults:
            raise faults.pop()
        return "done"

    assert (work(), slept) == ("done", [5, 60])
    faults += [OSError(errno.EIO, "a fault")] * 3
    with pytest.raises(OSError, match="a fault"):
        work()
    assert (faults, slept) == ([], [5, 60, 5, 60])
    faults += [OSError(errno.ENOSPC, "full")]
    with pytest.raises(OSError, match="full"):
        work()
    assert slept == [5, 60, 5, 60]


def test_the_task_of_a_part_is_tried_again_in_the_same_way() -> None:
    made = task("work", delays=(5, 60), may_pass=lambda error: isinstance(error, OSError))(lambda: None).recorded
    assert (made.name, made.retries, made.retry_delay_seconds) == ("work", 2, [5, 60])
    assert inspect.isfunction(made.retry_condition_fn)  # of anything else Prefect does not ask, and gives up
    for error, again in ((OSError(), True), (ValueError(), False)):
        state: Any = type("Failed", (), {"data": error})()
        assert made.retry_condition_fn(made, None, state) is again  # type: ignore[arg-type]


HEAVY = ("torch", "transformers", "diffusers", "prefect", "mlflow", "scipy")
SCRIPT = """
import atexit, sys
atexit.register(lambda: print("HEAVY", [name for name in {heavy!r} if name in sys.modules]))
from pipelines.cli.main import main
main({arguments!r})
"""


@pytest.mark.process
def test_encoding_what_is_known_imports_nothing_heavy(world: World, tmp_path: Path) -> None:
    from pipelines.cli.main import main

    arguments = ["encode", "--data", world.data, "--store", str(tmp_path / "store"), "--llm", world.llm]
    arguments += ["--diffusion", world.diffusion, "--json"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    script = SCRIPT.format(heavy=HEAVY, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", script], env=child_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert '"samples": 0' in done.stdout
