"""What the last look at growing data found, so that data which did not change since need no other.

A file below the folder of runs. It saves time alone: without it, all is read again, and what the store holds is found.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.environment import home
from infra.tracking.lineage import hub_revision
from llmdiff.data.sources import signature
from storage.io.files import write_file


class ScanRecord(BaseModel):
    """Of one data set, store and encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    """Signature of the data's files, without those that were being written."""
    models: list[str]
    """Of the models that encoded them."""
    fingerprint: str
    store_version: int
    """Of the store afterwards: one that has fewer was made anew."""
    broken: dict[str, str]
    """Files that could not be read, and why."""


def scan_cache_path(arguments: dict[str, Any]) -> Path:
    """The file of a look; another one where any argument of the encoding is."""
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True, default=str).encode()).hexdigest()
    return home() / "retrain" / f"{digest[:16]}.json"


def recall(path: Path) -> ScanRecord | None:
    """What was kept; None where nothing was, or another version of the program kept it."""
    try:
        return ScanRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def keep(path: Path, look: ScanRecord) -> None:
    """Keeps a look in place of the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, look.model_dump_json().encode())


def model_signature(model: str | None) -> str:
    """Another one where a folder's files changed, or the commit of a hub name in this machine's cache did."""
    if model is None:
        return ""
    return signature(Path(model)) if Path(model).is_dir() else hub_revision(model)
