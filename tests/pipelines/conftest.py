"""A real Prefect server with a worker, a tiny world, and what the deployed flows made of it; each once a session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from infra.launch.local import end_group
from infra.service.config import LOG_STREAMS
from llmdiff.process.tcp_ports import free_port
from tests.data.pictures import encoded, picture, write_imagefolder, write_parquet
from tests.prefect_database import start_with_tables
from tests.python_path import python_path

ROOT = Path(__file__).resolve().parents[2]
_prefect_home = tempfile.TemporaryDirectory(prefix="llmdiff-prefect-")  # Prefect reads it when it is imported
os.environ["PREFECT_HOME"] = _prefect_home.name

TRAINING = {"steps": 4, "batch_size": 4, "warmup": 1, "log_every": 1, "threads": 1}
FINE, BROKEN, EMPTY = 24, 1, 1


class World(NamedTuple):
    """Folders of tiny random models, and of data: Parquet shards and an imagefolder."""

    root: Path
    diffusion: str
    llm: str
    data: str


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    from tests.adapter import tiny
    from tests.encoder import tiny_models

    root = tmp_path_factory.mktemp("world")
    tiny.save_base(root / "sd", "v_prediction")
    tiny_models.build("llama").save_pretrained(root / "llm")
    tiny_models.tokenizer().save_pretrained(root / "llm")
    words = [word for word in tiny_models.WORDS if word not in ("a", "an", "the")]
    rows = [(encoded(picture(seed=i)), f"a {words[i % len(words)]} {words[-1 - i // 2]}") for i in range(FINE)]
    bad = [(encoded(picture(200, 200), "JPEG")[:900], "a broken JPEG"), (encoded(picture()), "")]
    write_parquet(root / "data" / "a.parquet", rows[:10] + bad)
    write_imagefolder(root / "data" / "folder", rows[10:])
    return World(root, str(root / "sd"), str(root / "llm"), str(root / "data"))


class Server(NamedTuple):
    """A Prefect server on loopback, and the environment in which commands and flows reach it."""

    url: str
    env: dict[str, str]
    home: Path

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("prefect")), "--no-prompt", *arguments]

    def run(self, *arguments: str, code: int = 0) -> str:
        """What a command of Prefect's prints, in this process: one of its own takes seconds to import it."""
        from prefect.settings import PREFECT_API_URL, temporary_settings
        from prefect.testing.cli import CycloptsCliRunner

        with temporary_settings({PREFECT_API_URL: self.url}), chdir(ROOT):
            done = CycloptsCliRunner().invoke(["--no-prompt", *arguments])
        assert done.exit_code == code, done.output
        return done.output

    def post(self, path: str, **content: Any) -> Any:
        """What the server answers to a request; its own command line takes seconds to make one."""
        return self.ask("POST", path, json=content).raise_for_status().json()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Its answer, whatever it is; one whose database is locked says 503, and is asked again."""
        deadline = time.monotonic() + 120
        while True:
            answer = httpx.request(method, f"{self.url}{path}", timeout=60, **options)
            if answer.status_code != 503 or time.monotonic() > deadline:
                return answer
            time.sleep(0.5)

    def begin(self, flow: str, **parameters: Any) -> str:
        """Start a run of a deployment, by a client that asks a busy server again; return its id."""
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: self.url}), get_client(sync_client=True) as api:
            deployment = api.read_deployment_by_name(f"{flow}/default").id
            return str(api.create_flow_run_from_deployment(deployment, parameters=parameters).id)

    def update(self, flow: str, **changes: Any) -> None:
        """Change a deployment, by such a client, too."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import DeploymentUpdate
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: self.url}), get_client(sync_client=True) as api:
            deployment = api.read_deployment_by_name(f"{flow}/default").id
            api.update_deployment(deployment, DeploymentUpdate(**changes))

    def cancel(self, run: str) -> None:
        answer = self.post(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING"})
        assert answer["status"] == "ACCEPT"

    def state(self, run: str) -> dict[str, Any]:
        """The type and message of a run's state, and more."""
        state: dict[str, Any] = self.ask("GET", f"/flow_runs/{run}").json()["state"]
        return state


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("server")
    url = f"http://127.0.0.1:{free_port()}/api"
    ours = {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.2",  # `--watch` shows logs for three seconds after the end
        "LLMDIFF_HOME": str(home / "runs"),
        "PYTHONPATH": python_path(ROOT),
        "NO_COLOR": "1",
        **dict.fromkeys(LOG_STREAMS, "true"),
    }
    server = Server(url, {**os.environ, **ours}, home)
    port = url.split(":")[2].split("/")[0]
    children: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        with (home / "server.log").open("wb") as log:
            command = server.command("server", "start", "--host", "127.0.0.1", "--port", port)
            children.append(subprocess.Popen(command, env=server.env, stdout=log, stderr=log, start_new_session=True))
        wait_until_healthy(url, children[0], home / "server.log")

    try:
        start_with_tables(home / "prefect" / "prefect.db", tmp_path_factory, start)
        yield server
    finally:
        send_what_waits()
        for child in children:
            end_group(child, grace=10)


def send_what_waits() -> None:
    """Have Prefect send this process's events and logs while the server that they are for lives.

    Later it would try for ten seconds with each, at the end of the process, and the next server would get none.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (EventsWorker, APILogWorker):
        worker.drain_all(timeout=60)


def wait_until_healthy(url: str, child: subprocess.Popen[bytes], log: Path, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and child.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the Prefect server does not answer: {log.read_text()}")


@pytest.fixture
def in_process(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Flows called in this process report to the session's server instead of starting one each."""
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", server.url)
    monkeypatch.setenv("LLMDIFF_HOME", server.env["LLMDIFF_HOME"])
    with temporary_settings({PREFECT_API_URL: server.url, PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield server


class Deployed(NamedTuple):
    """What the deployments encode and train made, each run to Completed by a worker."""

    store: str
    output: Path
    runs: dict[str, str]


@pytest.fixture(scope="session")
def deployed(server: Server, world: World) -> Iterator[Deployed]:
    server.post("/work_pools/", name="llmdiff", type="process")
    server.run("deploy", "--all", "--prefect-file", "infra/prefect.yaml")
    store, output = str(server.home / "store"), server.home / "run"
    with (server.home / "worker.log").open("wb") as log:
        command = server.command("worker", "start", "--pool", "llmdiff")
        worker = subprocess.Popen(command, env=server.env, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            runs = {
                "encode": server.run(
                    *("deployment", "run", "encode/default", "--watch", "--watch-interval", "1"),
                    *("--param", f"data={world.data}", "--param", f"store={store}"),
                    *("--param", f"diffusion={world.diffusion}", "--param", f"llm={world.llm}"),
                ),
                "train": server.run(
                    *("deployment", "run", "train/default", "--watch", "--watch-interval", "1"),
                    *("--param", f"store={store}", "--param", f"diffusion={world.diffusion}"),
                    *("--param", f"output={output}"),
                    *("--param", f"settings={json.dumps({**TRAINING, 'sample_every': 4, 'validation_prompts': ['']})}"),
                ),
            }
            yield Deployed(store, output, runs)
        finally:
            end_group(worker, grace=10)
