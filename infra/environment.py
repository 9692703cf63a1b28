"""Where a machine's runs, tracking database and flow engine live when nothing else is said."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

HOME_VARIABLE = "LLMDIFF_HOME"
SAFE_PATH = "PYTHONSAFEPATH"
"""Keeps Python from looking for modules in the working directory."""
NO_PROXY = ("no_proxy", "NO_PROXY")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ENGINE_BYTES = 20_000_000
"""What Prefect's records take at first; on a fuller disk its engine would wait three minutes to say nothing of it."""


def home() -> Path:
    """Return the folder of runs, tracking and flow records: ``LLMDIFF_HOME``, or ``runs`` in the working directory."""
    return Path(os.environ.get(HOME_VARIABLE, "runs")).resolve()


def isolate_process() -> None:
    """Have this process and all that it starts ask loopback directly, and find no modules in the working directory.

    A user's folder may hold a package of the name of one of ours, and a proxy can't reach servers of this machine.
    """
    os.environ.update(isolation())


def isolation(*hosts: str) -> dict[str, str]:
    """Return the variables that do so, for loopback and more hosts of this machine."""
    return {SAFE_PATH: "1", **dict.fromkeys(NO_PROXY, without_proxy((*LOOPBACK, *hosts)))}


def without_proxy(hosts: Iterable[str]) -> str:
    """Return the hosts that the environment says are asked directly, and some more, as ``no_proxy`` lists them."""
    given = next((os.environ[name] for name in NO_PROXY if os.environ.get(name)), "")
    listed = [host for part in given.split(",") if (host := part.strip())]
    return ",".join(listed + [host for host in hosts if host not in listed])


def child_environment() -> dict[str, str]:
    """Return the environment of a process that runs our own modules: these are first, and none of the user's."""
    root = str(Path(__file__).resolve().parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != root]
    return {**os.environ, SAFE_PATH: "1", "PYTHONPATH": os.pathsep.join([root, *paths])}


def tracking_uri() -> str:
    """Return MLflow's tracking and registry: ``MLFLOW_TRACKING_URI``, or SQLite below `home`.

    Raise ValueError where a server's address has a login in it, for MLflow repeats the address in its errors, and where
    it is a folder, which MLflow takes no more.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
    if uri.startswith("http") and "@" in urlsplit(uri).netloc:
        raise ValueError(
            "MLFLOW_TRACKING_URI: expected an address alone, found a login in it, which errors would show; "
            "put it into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    folders = os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")
    if urlsplit(uri).scheme in ("", "file") and not folders:
        expected = "expected a server's address or a database such as sqlite:///mlflow.db"
        raise ValueError(f"MLFLOW_TRACKING_URI: {expected}, found {uri!r}: MLflow takes no folders any more")
    return uri


def prepare_engine(debug: bool = False) -> None:
    """Make the settings for flows run in this process: of Prefect, MLflow and the models, before any is imported.

    Where a stage needs Prefect's engine and no server is set, Prefect starts its own for as long as the process lives,
    with its records below `home`. Where the user has a server (``PREFECT_API_URL``) or a Prefect home of their own,
    those are used. OSError where the disk is full.
    """
    defaults = {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if debug else "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # a busy machine takes longer than the default 20
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "DEBUG" if debug else "WARNING",
        "RAY_USAGE_STATS_ENABLED": "0",
        "DO_NOT_TRACK": "1",
        "TRANSFORMERS_VERBOSITY": "warning" if debug else "error",
        "DIFFUSERS_VERBOSITY": "warning" if debug else "error",
        "HF_HUB_VERBOSITY": "warning" if debug else "error",
    }
    if "PREFECT_API_URL" not in os.environ and not Path("~/.prefect/profiles.toml").expanduser().exists():
        defaults["PREFECT_HOME"] = str(home() / "prefect")
        home().mkdir(parents=True, exist_ok=True)  # Prefect makes its own folder, but none above it
        check_room(home(), ENGINE_BYTES)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def check_room(folder: Path, expected: int) -> None:
    """Raise OSError where the disk of a folder has fewer bytes free than expected."""
    if (free := shutil.disk_usage(folder).free) < expected:
        room = f"expected {expected / 1e6:.0f} MB free for runs and flow records, found {free / 1e6:.1f} MB"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {room}", str(folder))
