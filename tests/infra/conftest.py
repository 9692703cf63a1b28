"""A site with PostgreSQL, S3 and logins, started once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.launch.local import free_port
from tests.infra.service import DATABASE_PASSWORD, STORE_SECRET, Service, variables
from tests.infra.training_process import Killed, Survivor, go_on_without_servers, kill_with_its_worker
from tests.object_store import object_store
from tests.postgres import Postgres, postgres, programs


@pytest.fixture(scope="session")
def database() -> Iterator[Postgres]:
    """A real PostgreSQL server with two empty databases."""
    folder = programs()
    if folder is None:
        pytest.skip("needs PostgreSQL's server: on Debian, apt install postgresql")
    with postgres(folder, DATABASE_PASSWORD) as server:
        for name in ("prefect", "mlflow"):
            server.query("postgres", f"CREATE DATABASE {name}")
        yield server


@pytest.fixture(scope="session")
def service(database: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("service")
    with object_store(root / "s3.log", STORE_SECRET) as store:
        env = variables(root / "runs", database, store, (free_port(), free_port()))
        service = Service(env, root / "runs", database)
        try:
            service.command("start")
            yield service
        finally:
            for name in ("worker", "mlflow", "prefect"):
                service.process(name).end(grace=5)


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of encodings and a base that no test changes."""
    from tests.training import training_run

    root = tmp_path_factory.mktemp("parts")
    training_run.save_base(root / "base")
    training_run.make_store(root / "store")
    return root


@pytest.fixture(scope="session")
def killed(service: Service, parts: Path) -> Killed:
    return kill_with_its_worker(service, parts)


@pytest.fixture(scope="session")
def survivor(service: Service, killed: Killed) -> Survivor:
    return go_on_without_servers(service, killed)
