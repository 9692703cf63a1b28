"""`make serve` with real servers, and the processes it keeps."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from infra.environment import prepare_engine
from infra.service import health
from infra.service.config import POOL, SERVERS_ONLY, check_packages, read_service_config, worker_environment
from infra.service.deployments import DEPLOYMENTS
from infra.service.logins import complete_logins
from infra.service.messages import print_addresses, warn_of_plain_http
from infra.service.processes import Background, alive, started
from infra.service.secrets import redacted
from infra.tracking.run import run_page, tracked_run
from llmdiff.process.tcp_ports import free_port
from tests.prefect_database import start_with_tables

ROOT = Path(__file__).resolve().parents[2]
CHATTY = "echo connecting to postgresql://me:pa/ss@w@db/x; "


def run(command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "infra.service.manage", command]
    return subprocess.run(line, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600)


def answer(url: str, login: str = "", body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
    }
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as found:
        return bytes(found.read())


def exported(printed: str) -> dict[str, str]:
    """What a shell has that was given the printed lines."""
    lines = [line for line in printed.splitlines() if line.startswith("export ")]
    shell = ["env", "-i", "/bin/bash", "-c", "\n".join([*lines, "/usr/bin/env -0"])]
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    return dict(item.split("=", 1) for item in done.stdout.split("\0") if "=" in item)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a site of its own, which is ended whatever the test left."""
    env = {name: value for name, value in os.environ.items() if name not in ("HOST", *SERVERS_ONLY)}
    ours = {
        "LLMDIFF_HOME": str(tmp_path / "runs"),
        "PREFECT_PORT": str(free_port()),
        "MLFLOW_PORT": str(free_port()),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path}/flows.db",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/registry.db",
    }
    try:
        yield {**env, **ours}
    finally:
        for name in ("worker", "mlflow", "prefect"):
            Background(tmp_path / "runs" / "serve", name).end(grace=5)


@pytest.mark.service
def test_start_brings_all_up_once_and_stop_ends_exactly_that(
    site: dict[str, str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    start_with_tables(tmp_path / "flows.db", tmp_path_factory, lambda: starts.append(run("start", site)))
    (began,) = starts
    assert began.returncode == 0, began.stderr
    prefect, mlflow = (f"http://127.0.0.1:{site[name]}" for name in ("PREFECT_PORT", "MLFLOW_PORT"))
    shell = exported(began.stdout)
    assert (shell["PREFECT_API_URL"], shell["MLFLOW_TRACKING_URI"]) == (f"{prefect}/api", mlflow)
    assert shell["MLFLOW_TRACKING_USERNAME"] == "admin"
    login, password = shell["PREFECT_API_AUTH_STRING"], shell["MLFLOW_TRACKING_PASSWORD"]
    folder = tmp_path / "runs" / "serve"
    for secret, name in ((login, "prefect-login"), (password, "mlflow-password")):
        assert len(secret) > 40, "made at random"
        assert secret not in began.stdout
        assert ((folder / name).read_text(), (folder / name).stat().st_mode & 0o777) == (f"{secret}\n", 0o600)
    assert answer(f"{prefect}/api/health") == b"true"
    assert answer(f"{mlflow}/health") == b"OK"
    assert (tmp_path / "registry.db").exists()
    wanted = {item["entrypoint"] for item in yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]}
    with pytest.raises(urllib.error.HTTPError, match="401"):
        answer(f"{prefect}/api/deployments/filter", "", {})
    deployments = json.loads(answer(f"{prefect}/api/deployments/filter", login, {}))
    assert {item["entrypoint"] for item in deployments} == wanted
    assert {item["work_pool_name"] for item in deployments} == {POOL}
    with closing(sqlite3.connect(tmp_path / "flows.db")) as database:
        assert database.execute("SELECT count(*) FROM deployment").fetchone() == (len(wanted),)

    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    with tracked_run("train x", {}, {}) as tracked:
        page = run_page(tracked.run_id)
    assert page == f"{mlflow}/#/experiments/1/runs/{tracked.run_id}"
    assert b"MLflow" in answer(page, f"admin:{password}")

    pid_files = {path.name: path.read_text() for path in folder.glob("*.json")}
    assert sorted(pid_files) == ["mlflow.json", "prefect.json", "worker.json"]
    again = run("start", {name: value for name, value in site.items() if name not in ("PREFECT_PORT", "MLFLOW_PORT")})
    assert "nothing was changed" in again.stdout
    assert exported(again.stdout) == shell
    assert {path.name: path.read_text() for path in folder.glob("*.json")} == pid_files
    assert run("status", site).returncode == 0
    elsewhere = run("start", {**site, "PREFECT_PORT": str(free_port())})
    assert "`make stop` ends it" in elsewhere.stderr
    taken = run("start", {**site, "LLMDIFF_HOME": str(tmp_path / "other")})
    assert f"127.0.0.1:{site['PREFECT_PORT']} is taken by something else" in taken.stderr

    processes = [process for name in ("worker", "mlflow", "prefect") for process in Background(folder, name).family()]
    assert len(processes) >= 3
    os.kill(json.loads(pid_files["mlflow.json"])["pid"], signal.SIGKILL)  # its own server process is then left over
    ended = run("stop", site)
    assert [line.split()[:2] for line in ended.stdout.splitlines()] == [
        ["ended", name] for name in ("worker", "mlflow", "prefect")
    ]
    assert not [process for process in processes if alive(process)]
    assert not list(folder.glob("*.json"))
    assert run("stop", site).stdout == "nothing runs\n"
    assert (folder / "mlflow-password").read_text() == f"{password}\n", "MLflow knows no other at the next start"


@pytest.mark.process
def test_a_process_that_got_the_number_of_an_ended_one_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        process = Background(tmp_path, "worker")
        record = {"pid": stranger.pid, "started": "another boot 1", "host": "", "port": 0}
        process.pid_file.write_text(json.dumps(record))
        assert process.running() is None
        assert process.end(grace=1) == 0
        assert stranger.poll() is None
        process.pid_file.write_text(json.dumps({**record, "started": started(stranger.pid)}))
        assert process.running() is not None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.process
@pytest.mark.parametrize("orphaned", [False, True])
def test_what_it_started_may_save_before_it_ends_in_a_session_of_its_own_too(tmp_path: Path, orphaned: bool) -> None:
    process = Background(tmp_path, "worker")
    child = "trap 'sleep 0.5; touch saved; exit' TERM; touch ready; while true; do sleep 0.05; done"
    process.start(["bash", "-c", f'setsid bash -c "{child}" & wait'], dict(os.environ), tmp_path)
    record = process.running()
    assert record is not None
    try:
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        if orphaned:
            os.kill(record.pid, signal.SIGKILL)
            os.waitpid(record.pid, 0)
            assert process.running() is None
        assert process.end(grace=10) >= (1 if orphaned else 2)
        assert (tmp_path / "saved").exists()
        assert not process.family()
    finally:
        process.end(grace=0)


def test_a_start_waits_for_a_machine_that_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work on its cores may make a start take minutes."""
    clock = [0.0]
    monkeypatch.setattr(health.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(health.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    process = Background(tmp_path, "prefect")
    own = {"pid": os.getpid(), "started": started(os.getpid()), "host": "", "port": 0}
    process.pid_file.write_text(json.dumps(own))
    process.log.touch()
    health.wait_for(process, lambda: clock[0] > 150)
    with pytest.raises(TimeoutError, match="after 180 s"):
        health.wait_for(process, lambda: False)
    monkeypatch.delenv("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    prepare_engine()
    assert float(os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"]) >= 180, "the same for a flow's own"


@pytest.mark.process
def test_one_that_ends_or_stays_silent_is_told_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Background(tmp_path, "prefect")
    process.start(["sh", "-c", f"{CHATTY} exit 3"], dict(os.environ), tmp_path)
    with pytest.raises(RuntimeError, match=r"prefect ended before it answered; the end of /.*prefect.log:\nconnecting"):
        health.wait_for(process, lambda: False)
    process.start(["sh", "-c", f"{CHATTY} exec sleep 60"], dict(os.environ), tmp_path)
    try:
        monkeypatch.setattr(health, "TIMEOUT_SECONDS", 0.5)
        with pytest.raises(TimeoutError, match=r"does not answer after 0 s; .*\n.*me:\*\*\*@db/x") as silent:
            health.wait_for(process, lambda: False)
        assert "ss@w" not in str(silent.value)
    finally:
        process.end(grace=5)
    assert not process.family()


def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "open-sesame")
    shown = redacted("postgresql://me:a:b@c@db:5432/x?sslmode=off s3://bucket/a password=x&y told open-sesame")
    assert shown == "postgresql://me:***@db:5432/x?sslmode=off s3://bucket/a password=***&y told ***"


def test_the_worker_gets_addresses_and_logins_but_not_the_databases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SERVERS_ONLY:
        monkeypatch.setenv(name, f"of {name}")
    monkeypatch.setenv("HOST", "0.0.0.0")
    env = worker_environment(read_service_config(tmp_path))
    assert not set(env) & set(SERVERS_ONLY)
    assert env["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert env["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert env["PREFECT_API_AUTH_STRING"] == "of PREFECT_SERVER_API_AUTH_STRING"
    assert env["MLFLOW_TRACKING_PASSWORD"] == "of MLFLOW_AUTH_ADMIN_PASSWORD"
    waits = [2**attempt for attempt in range(1, int(env["PREFECT_CLIENT_MAX_RETRIES"]) + 1)]
    assert sum(waits) > 300, "a Prefect server may be away for minutes"


def test_a_missing_package_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SERVERS_ONLY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_packages()
    for variable, value, package in (
        ("MLFLOW_BACKEND_STORE_URI", "postgresql://me:secret@host/db", "psycopg2-binary"),
        ("MLFLOW_ARTIFACTS_DESTINATION", "s3://bucket/prefix", "boto3"),
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "secret", "Flask-WTF"),
    ):
        with monkeypatch.context() as given:
            given.setenv(variable, value)
            with pytest.raises(ValueError, match=rf"{variable}: expected the package {package}, found none") as refused:
                check_packages()
            assert "secret" not in str(refused.value)


def test_logins_that_are_given_are_not_made_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:open-sesame")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "")
    complete_logins(tmp_path)
    made = (tmp_path / "mlflow-password").read_text().strip()
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow-password"]
    assert os.environ["PREFECT_SERVER_API_AUTH_STRING"] == "me:open-sesame"
    assert os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"] == made
    print_addresses(read_service_config(tmp_path))
    printed = capsys.readouterr().out
    assert 'export PREFECT_API_AUTH_STRING="$PREFECT_SERVER_API_AUTH_STRING"\n' in printed
    assert f'export MLFLOW_TRACKING_PASSWORD="$(cat {tmp_path}/mlflow-password)"\n' in printed
    assert "open-sesame" not in printed
    assert made not in printed


def test_logins_in_the_clear_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_plain_http("127.0.0.1")
    assert capsys.readouterr().err == ""
    warn_of_plain_http("0.0.0.0")
    assert "logins travel in the clear" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"), [("HOST", "my-machine"), ("PREFECT_PORT", "http"), ("MLFLOW_PORT", "70000")]
)
def test_a_wrong_host_or_port_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}: expected .* found '{value}'"):
        read_service_config(tmp_path)
