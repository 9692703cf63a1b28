"""The lineage of a version in the registry, back to the data files."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from infra.tracking.coverage import recorded_files
from infra.tracking.registry import address_of, find_version
from infra.tracking.registry_names import MODEL, SCHEME

PARTS = {
    "base": {"name": "base_model", "revision": "base_revision", "content": "base_content"},
    "llm": {"name": "llm", "revision": "llm_revision"},
    "encoder": {"kind": "encoder", "fingerprint": "encoder_fingerprint", "content": "encoder_content"},
    "store": {"path": "store", "id": "store_id", "version": "store_version"},
}
"""Parts of the chain: the facts of each, and the tags that hold them."""


def address(version: str, name: str = MODEL) -> str:
    """Return ``models:/…`` of a version's number or an alias; an address as it is."""
    if version.startswith(SCHEME):
        return version
    return f"{SCHEME}{name}/{version}" if version.isdigit() else f"{SCHEME}{name}@{version}"


def chain(uri: str) -> dict[str, Any]:
    """Return a version's whole lineage, as plain JSON values.

    ``data.files`` lists every file with its hash and the rows trained on. ``parent`` is the chain of the version that
    training went on from, or None; ``start_from`` the folder, where that is no version.
    """
    version = find_version(uri)
    tags = version.tags
    parts = {part: {key: tags[tag] for key, tag in named.items() if tag in tags} for part, named in PARTS.items()}
    parent = tags.get("parent")
    return {
        "version": address_of(version),
        "aliases": sorted(version.aliases),
        "registered": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(version.creation_timestamp / 1000)),
        "run": version.run_id,
        "code": tags.get("code_commit"),
        **parts,
        "data": data(version),
        "start_from": tags.get("start_from"),
        "parent": None if parent is None else chain(parent),
    }


def data(version: ModelVersion) -> dict[str, Any]:
    """Return the data files, or why they are not known."""
    tags = version.tags
    if "data_digest" not in tags:
        return {"files": [], "unknown": tags.get("data_files", "not recorded")}
    files = [asdict(file) for file in recorded_files(version)]
    return {"digest": tags["data_digest"], "rows": int(tags["data_rows"]), "files": files}
