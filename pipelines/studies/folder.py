"""The folder of studies."""

from __future__ import annotations

from pathlib import Path

from infra.environment import home


def studies_folder(output: str | None) -> Path:
    """Return the folder of studies; when nothing else is said, one below the folder of runs."""
    return Path(output) if output is not None else home() / "studies"
