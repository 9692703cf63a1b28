"""The record of the last scan of growing data, so that data which did not change since need no other.

A file below the folder of runs. It saves time alone: without it, all is read again, and what the store holds is found.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.environment import home
from infra.tracking.hub_cache import hub_revision
from llmdiff.data.sources import signature
from pipelines.requests.encode import EncodeRequest
from storage.io.files import write_file

RUN_ONLY = {"vae_batch", "processes", "ray", "limit", "device_map", "attention", "readiness"}
RUN_ONLY |= {"torch_compile", "channels_last"}
"""Fields of the encode request that say how a run goes, not what it writes; what was unfinished is in the record."""


class ScanRecord(BaseModel):
    """A record of what a scan found of one data set, for one store and encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    """Signature of the data's files, without those that were being written."""
    models: list[str]
    """Signatures of the models that encoded them."""
    fingerprint: str
    store_id: str
    store_version: int
    """Version of the store afterwards: one that has fewer is an older copy."""
    broken: dict[str, str]
    """Files that could not be read, and why."""


def scan_cache_path(request: EncodeRequest) -> Path:
    """Return the file of a scan's record; all that decides what the store holds afterwards goes into its name."""
    facts = request.model_dump(mode="json", exclude=RUN_ONLY)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return home() / "retrain" / f"{digest[:16]}.json"


def recall(path: Path) -> ScanRecord | None:
    """Return the scan's record; None where there is none, or another version of the program wrote it."""
    try:
        return ScanRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def keep(path: Path, record: ScanRecord) -> None:
    """Keep a scan's record in place of the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, record.model_dump_json().encode())


def model_signature(model: str | None) -> str:
    """Return a signature that changes with a folder's files, or with a hub name's commit in this machine's cache."""
    if model is None:
        return ""
    return signature(Path(model)) if Path(model).exists() else hub_revision(model)
