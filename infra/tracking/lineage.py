"""The origin of an adapter, read where it is registered: data files, models, code."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from mlflow.entities import Dataset, DatasetInput, InputTag

from infra.tracking.hub_cache import hub_revision
from llmdiff.data.sources.rows import hash_file
from llmdiff.model_files.model_folders import weights_hash
from storage import EncodingStore
from storage.reading.trainable import trainable_rows

LONGEST_PROFILE = 16_000_000  # bytes; MLflow's limit is 16 MiB


@dataclass(frozen=True)
class DataFile:
    """A file of the data, and how many of its rows were trained on."""

    source: str
    hash: str
    rows: int


def data_files(store: str, version: int | None, fingerprint: str, store_id: str = "") -> list[DataFile]:
    """Return the files behind the samples that training reads from a version of a store, ordered by name.

    Raises:
        FileNotFoundError: there is no such store.
        ValueError: the store has no such version any more, or is not that of `store_id`, where one is given.
    """
    opened = EncodingStore.open(store, version)
    if store_id not in ("", opened.id):
        raise ValueError(f"{store}: expected the store {store_id}, found the store {opened.id}")
    rows: Counter[tuple[str, str]] = Counter()
    for batch in trainable_rows(opened, fingerprint, ["source", "source_hash"]):
        counts = pa.Table.from_batches([batch]).group_by(batch.schema.names).aggregate([([], "count_all")])
        for source, of, count in zip(*(column.to_pylist() for column in counts.columns), strict=True):
            rows[source, of] += count
    return [DataFile(source, of, count) for (source, of), count in sorted(rows.items())]


def data_tags(files: list[DataFile]) -> dict[str, str]:
    """Return tags of a version that sum up its data; the files themselves are in `data_input`."""
    rows = sum(file.rows for file in files)
    return {"data_files": str(len(files)), "data_rows": str(rows), "data_digest": digest(files)}


def data_input(config: dict[str, Any], files: list[DataFile]) -> DatasetInput:
    """Return the data as an input of an MLflow run: the store as a data set, its files in the profile."""
    store, tags = config["store"], data_tags(files)
    remote = "://" in store
    profile: dict[str, Any] = {"num_rows": int(tags["data_rows"]), "num_files": len(files)}
    listed = json.dumps({**profile, "files": [asdict(file) for file in files]})
    dataset = Dataset(
        name=store.rstrip("/").rpartition("/")[2],
        digest=tags["data_digest"],
        source_type="s3" if remote else "local",
        source=json.dumps({"uri": store if remote else str(Path(store).resolve())}),
        profile=listed if len(listed) <= LONGEST_PROFILE else json.dumps(profile),
    )
    about = {
        "mlflow.data.context": "training",
        "store_version": str(config.get("store_version")),
        "encoder_fingerprint": config["encoder_fingerprint"],
    }
    if store_id := config.get("training", {}).get("store_id"):
        about["store_id"] = store_id
    return DatasetInput(dataset, [InputTag(key, value) for key, value in about.items()])


def files_in(inputs: list[DatasetInput], wanted: str) -> list[DataFile] | None:
    """Return the files that a run's inputs list under a digest; None where they list none."""
    for found in inputs:
        profile = json.loads(found.dataset.profile or "{}") if found.dataset.digest == wanted else {}
        if "files" in profile:
            return [DataFile(**file) for file in profile["files"]]
    return None


def digest(files: list[DataFile]) -> str:
    """Return a hash of a list of files, of the 36 digits that MLflow takes."""
    return hashlib.sha256(json.dumps([asdict(file) for file in files]).encode()).hexdigest()[:36]


def origin_tags(config: dict[str, Any]) -> dict[str, str]:
    """Return encoder, models, store and code as tags, out of an ``adapter_config.json``."""
    keys = ("encoder", "encoder_fingerprint", "llm", "llm_revision", "base_model", "store", "store_version")
    tags = {key: str(config[key]) for key in keys if config.get(key) not in (None, "")}
    described, training = config.get("encoder_description", {}), config.get("training", {})
    found = {
        "store_id": training.get("store_id"),
        "encoder_content": described.get("llm", {}).get("content") or described.get("weights"),
        "code_commit": code_commit(),
        "parent": training.get("parent"),
        "start_from": None if training.get("parent") else training.get("start_from"),  # a folder of no version
    }
    if base := config.get("base_model"):
        found |= {
            "base_revision": hub_revision(base, "unet/config.json"),
            "base_content": base_content(Path(base)),
        }
    return {**tags, **{key: value for key, value in found.items() if value}}


def base_content(base: Path) -> str:
    """Return a hash of a base's U-Net, or of all of a single file; empty for what is not on this machine.

    The same base as a folder and as a file has two.
    """
    return hash_file(base) if base.is_file() else weights_hash(base / "unet")


def code_commit() -> str:
    """Return the commit of this checkout, marked where files differ from it; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
