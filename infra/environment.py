"""Default places of a machine's runs, tracking database and flow engine."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

HOME_VARIABLE = "LLMDIFF_HOME"
SAFE_PATH = "PYTHONSAFEPATH"
"""Variable that keeps Python from looking for modules in the working directory."""
NO_PROXY = ("no_proxy", "NO_PROXY")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ADDRESSES = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HF_ENDPOINT")
"""Variables with the addresses of what commands talk to."""
ENGINE_BYTES = 20_000_000
"""Bytes that Prefect's records take at first; on a fuller disk its engine would wait three minutes without a word."""


def home() -> Path:
    """Return the folder of runs, tracking and flow records: ``LLMDIFF_HOME``, or ``runs`` in the working directory."""
    return Path(os.environ.get(HOME_VARIABLE, "runs")).resolve()


def isolate_process() -> None:
    """Have this process and all that it starts ask loopback directly, and find no modules in the working directory.

    A user's folder may hold a package of the name of one of ours, and a proxy can't reach servers of this machine.
    """
    os.environ.update(isolation())


def isolation(*hosts: str) -> dict[str, str]:
    """Return the variables that do so, for loopback and more hosts of this machine.

    Desktops name a SOCKS proxy ``socks://``, which HTTPX does not know: there it becomes ``socks5://``.
    """
    own = (host for name in ADDRESSES if is_loopback(host := hostname(os.environ.get(name, ""))))
    given = {name: os.environ.get(name, "") for name in both_cases(PROXIES)}
    socks = {name: f"socks5{url[5:]}" for name, url in given.items() if url.lower().startswith("socks://")}
    return {SAFE_PATH: "1", **socks, **dict.fromkeys(NO_PROXY, without_proxy((*LOOPBACK, *own, *hosts)))}


def both_cases(names: Iterable[str]) -> Iterator[str]:
    """Return each variable's name in small letters, and in capitals."""
    return (name for small in names for name in (small, small.upper()))


def hostname(url: str) -> str:
    """Return the host of an address; empty where it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine by its name or address alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def without_proxy(hosts: Iterable[str]) -> str:
    """Return the hosts that the environment says are asked directly, and some more, as ``no_proxy`` lists them."""
    given = (part for name in NO_PROXY for part in os.environ.get(name, "").split(","))
    named = [host for part in given if (host := _listed(part.strip()))]
    return "*" if "*" in named else ",".join(dict.fromkeys((*named, *hosts)))


def _listed(host: str) -> str:
    """Return a host as HTTPX takes it in ``no_proxy``; empty for one over which it would refuse every request."""
    bare = host[1:].partition("]")[0] if host.startswith("[") else host
    is_range = bare.count(":") > 1 and "/" in bare
    return bare if bare.isascii() and not is_range else ""


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
