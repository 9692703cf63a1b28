"""The servers that commands are going to ask, and whether they answer: asked before any work, of which much is lost.

Nothing heavy is imported, for `llmdiff doctor` looks at the same.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import tomllib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from infra.environment import PROXIES, both_cases, home, hostname, is_loopback, tracking_uri
from infra.service.secrets import redacted

SECONDS = 3.0
PREFECT_URL = "PREFECT_API_URL"
TRACKING_URL = "MLFLOW_TRACKING_URI"
MLFLOW_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
SCHEMES = ("http", "https", "socks5", "socks5h")
"""Schemes of proxies that HTTPX can use; with any other, it refuses every request."""
AWAY = (404, 502, 503, 504)
"""HTTP statuses that something else answers with in the place of a server."""


class Setting(NamedTuple):
    """An address, where it is set, and how to ask there with the login that the environment has."""

    url: str
    where: str
    path: str = "/health"
    headers: tuple[tuple[str, str], ...] = ()
    login: str = ""
    """Names of the variables that hold the login."""


def check_servers(*, tracking: bool) -> None:
    """Ask the Prefect server that is configured, and with `tracking` MLflow's.

    Raises:
        ValueError: a setting can't be used.
        ConnectionError: a server does not answer within `SECONDS`.
    """
    check_proxies()
    if found := prefect_server():
        check_answer("Prefect's", found)
    if tracking:
        check_tracking()


def check_tracking() -> None:
    """Ask the MLflow server that is configured; raise as `check_servers` does."""
    if (uri := tracking_uri()).startswith("http"):
        if proxy_before(uri).startswith("socks") and importlib.util.find_spec("socks") is None:
            where = f"{TRACKING_URL}: MLflow's server {redacted(uri)} is behind a SOCKS proxy"
            raise ValueError(f"{where}, which its client needs the package PySocks for: pip install PySocks")
        check_answer("MLflow's", mlflow_server(uri))


def check_answer(whose: str, setting: Setting) -> None:
    """Raise ConnectionError where a server does not answer, or refuses the login."""
    if reason := silence(setting):
        raise ConnectionError(f"{setting.where}: {whose} server {redacted(setting.url)} {reason}")


def proxy_before(url: str) -> str:
    """Return the proxy through which an address is asked; empty where there is none."""
    if proxy_bypass(urlsplit(url).netloc):
        return ""
    found = getproxies()
    return found.get(urlsplit(url).scheme) or found.get("all", "")


def prefect_server() -> Setting | None:
    """Return the server that flows report to, as Prefect finds it; None where they start their own."""
    if url := os.environ.get(PREFECT_URL):
        return of_prefect(url, PREFECT_URL)
    if url := _dotenv(Path(".env")).get(PREFECT_URL):
        return of_prefect(url, ".env")
    for name, keys in (("prefect.toml", ()), ("pyproject.toml", ("tool", "prefect"))):
        if url := _within(_toml(Path(name)), *keys, "api", "url"):
            return of_prefect(str(url), name)
    file = Path(os.environ.get("PREFECT_PROFILES_PATH", prefect_folder() / "profiles.toml"))
    profiles = _toml(file)
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    url = _within(profiles, "profiles", str(active), PREFECT_URL)
    return of_prefect(str(url), f"{PREFECT_URL} of the profile {active!r} in {file}") if url else None


def of_prefect(url: str, where: str) -> Setting:
    """Return how to ask Prefect's server what it tells nobody without a login, where that is the environment's."""
    login = os.environ.get("PREFECT_API_AUTH_STRING")
    if where != PREFECT_URL or os.environ.get("PREFECT_API_KEY"):  # the login, too, may be in the file; or it is a key
        return Setting(url, where)
    return Setting(url, where, "/admin/version", basic(login), "PREFECT_API_AUTH_STRING")


def mlflow_server(uri: str) -> Setting:
    """Return how to ask MLflow's server likewise."""
    if os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return Setting(uri, TRACKING_URL)
    user, password = (os.environ.get(name) for name in MLFLOW_LOGIN)
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    login = f"{user}:{password}" if user and password else None
    return Setting(uri, TRACKING_URL, path, basic(login), " and ".join(MLFLOW_LOGIN))


def basic(login: str | None) -> tuple[tuple[str, str], ...]:
    """Return the header of a login; none where there is none."""
    return (("Authorization", f"Basic {b64encode(login.encode()).decode()}"),) if login else ()


def prefect_folder() -> Path:
    """Return the folder of Prefect's files: the user's, else the one that `infra.environment.prepare_engine` gives."""
    users = Path("~/.prefect").expanduser()
    ours = users if (users / "profiles.toml").exists() else home() / "prefect"
    return Path(os.environ.get("PREFECT_HOME", ours))


def silence(setting: Setting) -> str | None:
    """Return in what way a server is of no use; None where it answers."""
    found: list[str | None] = []
    asked = threading.Thread(target=lambda: found.append(_ask(setting)), daemon=True)  # a name may take minutes
    asked.start()
    asked.join(SECONDS + 1.5)
    return found[0] if found else _late(setting)


def _late(setting: Setting) -> str | None:
    """Return what is said where nothing came in time: nothing of this machine's own servers, for it may be busy."""
    return None if is_loopback(hostname(setting.url)) else f"does not answer: nothing came in {SECONDS:.0f} s"


def _ask(setting: Setting) -> str | None:
    if importlib.util.find_spec("httpx") is None:
        return "can't be asked without the package httpx"
    import httpx  # Prefect's own client, which takes the same proxies

    local = is_loopback(hostname(setting.url))
    try:
        with httpx.Client(trust_env=not local, timeout=SECONDS) as client:
            answer = client.get(setting.url.rstrip("/") + setting.path, headers=dict(setting.headers))
    except httpx.TimeoutException:
        return _late(setting)
    except Exception as error:  # a SOCKS proxy's answers are read by a library with errors of its own
        reason = " ".join(str(error).split())
        return None if "SSL" in reason else f"does not answer: {reason}"
    if answer.status_code == 401 and setting.login:
        return f"refuses the login: expected it in {setting.login}; `make serve` says what to export"
    return f"does not answer: HTTP {answer.status_code}" if answer.status_code in AWAY else None


def proxies() -> Iterator[Setting]:
    """Return the proxies that the environment names."""
    for variable in both_cases(PROXIES):
        if url := os.environ.get(variable):
            yield Setting(url, variable)


def check_proxies() -> None:
    """Raise ValueError where a proxy can't be used, or needs a package that is missing.

    Prefect's client would not name the variable, and takes it ill where only this machine is asked, too.
    """
    for proxy in proxies():
        scheme = proxy.url.partition("://")[0].lower() if "://" in proxy.url else "http"
        if scheme not in SCHEMES:
            expected = f"expected {', '.join(f'{known}://' for known in SCHEMES)}"
            raise ValueError(f"{proxy.where}: {expected}, found {redacted(proxy.url)}")
        if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
            raise ValueError(f"{proxy.where}: a SOCKS proxy needs the package socksio: pip install 'httpx[socks]'")
        _check_port(proxy)


def _check_port(proxy: Setting) -> None:
    try:
        parts = urlsplit(proxy.url if "://" in proxy.url else f"//{proxy.url}")
        found = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        found = False
    if not found:
        raise ValueError(f"{proxy.where}: expected a host and a port, found {redacted(proxy.url)}")


def _toml(path: Path) -> dict[str, Any]:
    """Return a file's tables; none where there is no such file, or Prefect is to say what is wrong in it."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _dotenv(path: Path) -> dict[str, str | None]:
    """Return a file's variables; none where there is no such file."""
    if not path.is_file() or importlib.util.find_spec("dotenv") is None:
        return {}
    from dotenv import dotenv_values  # which Prefect reads it with, and brings along

    return dict(dotenv_values(path))


def _within(tables: Any, *keys: str) -> Any:
    for key in keys:
        tables = tables.get(key) if isinstance(tables, dict) else None
    return tables
