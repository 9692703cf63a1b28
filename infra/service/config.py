"""Configuration of `infra.service.manage`: addresses and folder of servers and worker, and each one's environment."""

from __future__ import annotations

import configparser
import importlib.util
import ipaddress
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from infra.environment import child_environment, home, isolation
from infra.service.processes import Background

POOL = "llmdiff"
"""The work pool of the deployments."""
PREFECT_DATABASE = ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")
MLFLOW_DATABASE = "MLFLOW_BACKEND_STORE_URI"
MLFLOW_ARTIFACTS = "MLFLOW_ARTIFACTS_DESTINATION"
PREFECT_AUTH = "PREFECT_SERVER_API_AUTH_STRING"
MLFLOW_AUTH = "MLFLOW_AUTH_ADMIN_PASSWORD"
MLFLOW_USER = "MLFLOW_AUTH_ADMIN_USERNAME"
ALLOWED_HOSTS = "ALLOWED_HOSTS"
"""Names, with commas between them, under which both servers may be asked, besides this machine's own."""
ALLOWED_ORIGINS = "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"
LOG_STREAMS = ("PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED", "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED")
SERVERS_ONLY = (*PREFECT_DATABASE, MLFLOW_DATABASE, MLFLOW_ARTIFACTS, PREFECT_AUTH, MLFLOW_AUTH)
"""Variables that the worker, and so the flows, have no use for."""


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """The three processes and where they are."""

    prefect: Background
    mlflow: Background
    worker: Background
    host: str
    prefect_port: int
    mlflow_port: int

    @property
    def prefect_url(self) -> str:
        return f"http://{self._name}:{self.prefect_port}"

    @property
    def mlflow_url(self) -> str:
        return f"http://{self._name}:{self.mlflow_port}"

    @property
    def processes(self) -> tuple[Background, Background, Background]:
        return self.worker, self.mlflow, self.prefect

    @property
    def _name(self) -> str:
        return "127.0.0.1" if self.host == "0.0.0.0" else self.host


def serve_folder() -> Path:
    """Return the folder of pid files, logs and databases, for this user alone."""
    folder = home() / "serve"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def read_service_config(folder: Path) -> ServiceConfig:
    """Return host and ports: those of what runs, else of the environment; raise ValueError where both differ."""
    prefect, mlflow, worker = (Background(folder, name) for name in ("prefect", "mlflow", "worker"))
    host, prefect_port = host_and_port(prefect, "PREFECT_PORT", 4200)
    mlflow_host, mlflow_port = host_and_port(mlflow, "MLFLOW_PORT", 5000)
    host = mlflow_host if prefect.running() is None and mlflow.running() else host
    return ServiceConfig(
        prefect=prefect, mlflow=mlflow, worker=worker, host=host, prefect_port=prefect_port, mlflow_port=mlflow_port
    )


def host_and_port(process: Background, variable: str, default: int) -> tuple[str, int]:
    """Return host and port of a server."""
    record = process.running()
    host = os.environ.get("HOST") or (record.host if record else "127.0.0.1")
    port = os.environ.get(variable) or str(record.port if record else default)
    try:
        ipaddress.IPv4Address(host)
    except ValueError as error:
        raise ValueError(f"HOST: expected an address such as 127.0.0.1 or 0.0.0.0, found {host!r}") from error
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{variable}: expected a port from 1 to 65535, found {port!r}")
    if record and (host, int(port)) != (record.host, record.port):
        raise ValueError(f"{process.name} runs on {record.host}:{record.port}; `make stop` ends it, for {host}:{port}")
    return host, int(port)


def check_ports(config: ServiceConfig, missing: list[Background]) -> None:
    """Raise ValueError where something else has the port of a server that is to be started."""
    wanted = ((config.prefect, "PREFECT_PORT", config.prefect_port), (config.mlflow, "MLFLOW_PORT", config.mlflow_port))
    for process, variable, port in wanted:
        if process in missing and not is_free(config.host, port):
            raise ValueError(
                f"{config.host}:{port} is taken by something else: end that, or choose a port for {process.name} with "
                f"{variable}; `make stop` ends what an earlier `make serve` left"
            )


def check_packages() -> None:
    """Raise ValueError where a variable asks for a package that is not installed."""
    for variable, start, module, package in (
        (MLFLOW_DATABASE, "postgresql", "psycopg2", "psycopg2-binary"),
        (MLFLOW_ARTIFACTS, "s3://", "boto3", "boto3"),
        (MLFLOW_AUTH, "", "flask_wtf", "Flask-WTF"),
    ):
        value = os.environ.get(variable, "")
        if value and value.startswith(start) and importlib.util.find_spec(module) is None:
            raise ValueError(f"{variable}: expected the package {package}, found none: pip install 'llmdiff[servers]'")


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def environment(config: ServiceConfig) -> dict[str, str]:
    """Return the environment of all three processes: the user's, no proxy, Prefect's files beside the pid files."""
    own_host = () if config.host in ("127.0.0.1", "0.0.0.0") else (config.host,)
    ours = {
        **isolation(*own_host),
        "PREFECT_HOME": str(config.prefect.folder / "prefect"),
        "LLMDIFF_HOME": str(home()),
        "PYTHONUNBUFFERED": "1",
    }
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**quiet, **child_environment(), **ours}


def prefect_environment(config: ServiceConfig) -> dict[str, str]:
    """Return the environment of Prefect's server. Its page alone asks it, by its own address; logs reach `--watch`.

    Who holds which concurrency limit is kept on the disk: a server that was started again would not know it, and then
    Prefect ends the flow run.
    """
    defaults = {
        "PREFECT_SERVER_UI_API_URL": "/api",
        ALLOWED_ORIGINS: config.prefect_url,
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        **dict.fromkeys(LOG_STREAMS, "true"),
    }
    return {**defaults, **environment(config), "PREFECT_API_URL": f"{config.prefect_url}/api"}


def mlflow_environment(config: ServiceConfig) -> dict[str, str]:
    """Return the environment of MLflow: SQLite and artifacts in the folder unless said otherwise, one process."""
    folder = config.mlflow.folder
    defaults = {
        MLFLOW_DATABASE: f"sqlite:///{folder / 'mlflow.db'}",
        MLFLOW_ARTIFACTS: str(folder / "mlartifacts"),
        "MLFLOW_WORKERS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    defaults["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secrets.token_hex(32)
    defaults["MLFLOW_AUTH_CONFIG_PATH"] = str(write_auth_config(folder))
    if names := allowed_names():
        from mlflow.server.security_utils import get_default_allowed_hosts

        named = (pattern for name in names for pattern in (name, f"{name}:*"))
        defaults["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join([*get_default_allowed_hosts(), *named])
    given = {name: value for name, value in environment(config).items() if name != "MLFLOW_TRACKING_URI"}
    return {**defaults, **given}


def write_auth_config(folder: Path) -> Path:
    """Write MLflow's own settings of its users, with their database in the folder."""
    import mlflow

    parser = configparser.ConfigParser()
    parser.read(Path(mlflow.__file__).parent / "server" / "auth" / "basic_auth.ini")
    parser["mlflow"]["database_uri"] = f"sqlite:///{folder / 'mlflow-users.db'}"
    parser["mlflow"]["auth_cache_ttl_seconds"] = "60"  # a password takes a tenth of a second to check, at each request
    path = folder / "mlflow-auth.ini"
    with path.open("w") as file:
        parser.write(file)
    return path


def allowed_names() -> list[str]:
    """Return the names of `ALLOWED_HOSTS`."""
    return [name for part in os.environ.get(ALLOWED_HOSTS, "").split(",") if (name := part.strip().lower())]


def worker_environment(config: ServiceConfig) -> dict[str, str]:
    """Return the worker's environment: where flows report to, and how they log in; none of the servers' secrets."""
    ours = {name: value for name, value in environment(config).items() if name not in SERVERS_ONLY}
    ours |= {"PREFECT_API_URL": f"{config.prefect_url}/api", "MLFLOW_TRACKING_URI": config.mlflow_url}
    if login := os.environ.get(PREFECT_AUTH):
        ours["PREFECT_API_AUTH_STRING"] = login
    if password := os.environ.get(MLFLOW_AUTH):
        ours["MLFLOW_TRACKING_USERNAME"] = mlflow_user()
        ours["MLFLOW_TRACKING_PASSWORD"] = password
    defaults = {
        "PREFECT_WORKER_QUERY_SECONDS": "3",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # a silent run is told from a living one; see automations.yaml
        "PREFECT_CLIENT_MAX_RETRIES": "8",  # a server that is started again may be away for minutes
    }
    return {**defaults, **ours}


def mlflow_user() -> str:
    """Return the name of MLflow's administrator."""
    return os.environ.get(MLFLOW_USER, "admin")


def worker_name() -> str:
    """Return its name. There is one worker a machine: several may share a database."""
    return f"serve-{socket.gethostname()}"
