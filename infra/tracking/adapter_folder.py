"""Adapters that are in no registry: folders, and names on the hub. Needs no MLflow, which takes a second to import."""

from __future__ import annotations

from pathlib import Path

from infra.tracking.registry_names import CANDIDATE
from llmdiff.adapter.hub import adapter_folder


def given_adapter(name: str) -> Path:
    """Return an adapter's folder as it is, or the files of a name that `llmdiff.adapter.hub.adapter_folder` takes.

    Raises:
        FileNotFoundError: no such folder.
    """
    folder = adapter_folder(name)
    if not folder.is_dir():
        raise FileNotFoundError(f"{name}: no such adapter folder; expected one, or {CANDIDATE}")
    return folder
