"""The logins of both servers: those that the environment gives, else random ones in files for this user alone.

Loopback keeps other machines out, not the pages in this machine's own browser: whoever can make a deployment can run
code here.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from infra.service.config import MLFLOW_AUTH, PREFECT_AUTH

PREFECT_FILE = "prefect-login"
MLFLOW_FILE = "mlflow-password"
MADE = {PREFECT_AUTH: (PREFECT_FILE, "llmdiff:"), MLFLOW_AUTH: (MLFLOW_FILE, "")}
"""File of each login that is made here, and the text before its random part, by the variable that gives the login."""


def complete_logins(folder: Path) -> None:
    """Complete the environment with missing logins: those that an earlier start made in a folder, else new ones."""
    for variable, (name, prefix) in MADE.items():
        if not os.environ.get(variable):
            os.environ[variable] = kept_secret(folder / name, prefix)


def kept_secret(path: Path, prefix: str) -> str:
    """Return a file's secret; make file and secret, readable by the owner alone, where there is none."""
    if not path.is_file():
        made = path.with_name(f".{path.name}.new")
        made.unlink(missing_ok=True)
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{prefix}{secrets.token_urlsafe(32)}\n")
        made.replace(path)
    path.chmod(0o600)
    return path.read_text().strip()


def made_here(folder: Path, variable: str) -> Path | None:
    """Return the file of a login that was made here; None where the environment gave it."""
    path = folder / MADE[variable][0]
    return path if path.is_file() and path.read_text().strip() == os.environ.get(variable) else None
