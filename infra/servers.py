"""The servers that commands are going to ask, and whether they answer: asked before any work, of which much is lost.

Nothing heavy is imported, for `llmdiff doctor` looks at the same.
"""

from __future__ import annotations

import importlib.util
import os
import ssl
import threading
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit

from infra.environment import LOOPBACK, home, tracking_uri
from infra.service.secrets import redacted

SECONDS = 3.0
PREFECT_URL = "PREFECT_API_URL"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
AWAY = (502, 503, 504)
"""What a proxy answers in the place of a server that does not."""


class Setting(NamedTuple):
    """An address, and where it is set."""

    url: str
    where: str


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
        check_answer("MLflow's", Setting(uri, "MLFLOW_TRACKING_URI"))


def check_answer(whose: str, setting: Setting) -> None:
    """Raise ConnectionError where a server does not answer."""
    if reason := silence(setting.url):
        raise ConnectionError(f"{setting.where}: {whose} server {redacted(setting.url)} does not answer: {reason}")


def prefect_server() -> Setting | None:
    """Return the server that flows report to, as Prefect finds it; None where they start their own."""
    if url := os.environ.get(PREFECT_URL):
        return Setting(url, PREFECT_URL)
    for name, keys in (("prefect.toml", ()), ("pyproject.toml", ("tool", "prefect"))):
        if url := _within(_toml(Path(name)), *keys, "api", "url"):
            return Setting(str(url), name)
    file = Path(os.environ.get("PREFECT_PROFILES_PATH", prefect_folder() / "profiles.toml"))
    profiles = _toml(file)
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    url = _within(profiles, "profiles", str(active), PREFECT_URL)
    return Setting(str(url), f"{PREFECT_URL} of the profile {active!r} in {file}") if url else None


def prefect_folder() -> Path:
    """Return the folder of Prefect's files: the user's, else the one that `infra.environment.prepare_engine` gives."""
    users = Path("~/.prefect").expanduser()
    ours = users if (users / "profiles.toml").exists() else home() / "prefect"
    return Path(os.environ.get("PREFECT_HOME", ours))


def silence(url: str) -> str | None:
    """Return why a server does not answer; None where it does, whatever it says."""
    found: list[str | None] = []
    asked = threading.Thread(target=lambda: found.append(_ask(url)), daemon=True)  # names may take minutes to resolve
    asked.start()
    asked.join(SECONDS + 1.5)
    return found[0] if found else f"nothing came in {SECONDS:.0f} s"


def _ask(url: str) -> str | None:
    proxied = urllib.request.ProxyHandler({} if urlsplit(url).hostname in LOOPBACK else None)
    try:
        urllib.request.build_opener(proxied).open(f"{url.rstrip('/')}/health", timeout=SECONDS).close()
    except HTTPError as error:
        return f"HTTP {error.code}" if error.code in AWAY else None
    except TimeoutError:  # it took the question: a busy machine answers late
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return None if isinstance(reason, ssl.SSLError) else " ".join(str(reason).split())
    return None


def proxies() -> Iterator[Setting]:
    """Return the proxies that the environment names."""
    for name in PROXIES:
        for variable in (name, name.upper()):
            if url := os.environ.get(variable):
                yield Setting(url, variable)


def check_proxies() -> None:
    """Raise ValueError where a proxy needs a package that is missing: Prefect's client would say so without a name."""
    for url, variable in proxies():
        if url.startswith("socks") and importlib.util.find_spec("socksio") is None:
            raise ValueError(f"{variable}: a SOCKS proxy needs the package socksio: pip install 'httpx[socks]'")


def _toml(path: Path) -> dict[str, Any]:
    """Return a file's tables; none where there is no such file, or Prefect is to say what is wrong in it."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _within(tables: Any, *keys: str) -> Any:
    for key in keys:
        tables = tables.get(key) if isinstance(tables, dict) else None
    return tables
