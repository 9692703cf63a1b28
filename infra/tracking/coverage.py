"""Which data the versions in the registry were trained on, and which none of them has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mlflow.entities.model_registry import ModelVersion

from infra.tracking.lineage import DataFile, data_files, digest, files_in
from infra.tracking.run import client


def unseen_files(name: str, store: str, store_version: int, fingerprint: str) -> list[DataFile]:
    """Return the files of a store's samples that no version of a model was trained on, or on fewer of their rows.

    A file that lost rows since is no new one: there is nothing in it to train on that the version has not seen.

    Versions are asked by what they record, so it does not matter which process came to encode the files, or when.

    Args:
        name: registered model.
        store: folder of the store.
        store_version: its snapshot.
        fingerprint: of the encodings; versions trained on others have seen none of these samples.
    """
    files = data_files(store, store_version, fingerprint)
    versions = [
        version
        for version in client().search_model_versions(f"name='{name}'")
        if version.tags.get("encoder_fingerprint") == fingerprint and "data_digest" in version.tags
    ]
    if any(version.tags["data_digest"] == digest(files) for version in versions):
        return []
    newest = max(versions, key=lambda version: int(version.version), default=None)
    try:
        seen = rows_by_hash(recorded_files(newest)) if newest is not None else Counter()
    except (OSError, ValueError):  # its digest is another one, and that is all that is left to know
        seen = Counter()
    now = rows_by_hash(files)
    return [file for file in files if now[file.hash] > seen[file.hash]]


def rows_by_hash(files: Iterable[DataFile]) -> Counter[str]:
    """Return how many rows of each content were trained on, under whatever names."""
    rows: Counter[str] = Counter()
    for file in files:
        rows[file.hash] += file.rows
    return rows


def recorded_files(version: ModelVersion) -> list[DataFile]:
    """Return the files a version was trained on: from its run's inputs, or where they were too many, from the store.

    Raises:
        FileNotFoundError, ValueError: they are in neither (any more).
    """
    tags = version.tags
    listed = files_in(client().get_run(version.run_id).inputs.dataset_inputs, tags["data_digest"])
    version_of = tags["store"], int(tags["store_version"]), tags["encoder_fingerprint"], tags.get("store_id", "")
    return listed or data_files(*version_of)
