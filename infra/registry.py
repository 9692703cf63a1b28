"""The MLflow registry: every trained adapter is a version of `MODEL`, with the lineage that it came from."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from infra.local import home
from infra.tracking import client, tracked_run

MODEL = "llmdiff-adapter"
SCHEME = "models:/"
FILES = ("adapter.safetensors", "adapter_config.json")


class Registered(NamedTuple):
    """A version in the registry."""

    name: str
    version: int
    alias: str
    uri: str
    run_id: str


def register_adapter(
    folder: Path, *, run_id: str | None = None, name: str = MODEL, alias: str = "candidate", tags: dict[str, str]
) -> Registered:
    """Stores an adapter folder's two files as a new version of a registered model and points the alias at it.

    Args:
        folder: holds ``adapter.safetensors`` and ``adapter_config.json``.
        run_id: MLflow run of the training; a run is made where there is none.
        name: registered model, made if it is missing.
        alias: moved to the new version.
        tags: more tags than the lineage in ``adapter_config.json``.
    """
    for file in FILES:
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"{folder / file}: no such file; expected an adapter folder with {' and '.join(FILES)}"
            )
    config = json.loads((folder / "adapter_config.json").read_text())
    if run_id is None:
        with tracked_run("register", {}, {}) as run:
            run_id = run.run_id
    api = client()
    for file in FILES:
        api.log_artifact(run_id, str(folder / file), "adapter")
    source = f"{api.get_run(run_id).info.artifact_uri}/adapter"
    _ensure_model(name)
    version = api.create_model_version(name, source, run_id, tags={**lineage(config), **tags})
    api.set_registered_model_alias(name, alias, version.version)
    return Registered(name, int(version.version), alias, f"{SCHEME}{name}@{alias}", run_id)


def lineage(config: dict[str, Any]) -> dict[str, str]:
    """What a version came from, as tags, out of its ``adapter_config.json``."""
    keys = ("encoder", "encoder_fingerprint", "llm", "base_model", "store", "store_version")
    tags = {key: str(config[key]) for key in keys if config.get(key) not in (None, "")}
    return {**tags, "code_commit": code_commit()}


def code_commit() -> str:
    """The commit of this checkout, marked where files differ from it; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def fetch_adapter(uri: str) -> Path:
    """The folder of an adapter: a folder as it is, or the files of ``models:/name@alias`` and ``models:/name/version``.

    A version's files never change, so they are fetched once, into ``adapters/`` below the folder of runs.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the registry has no such model, version or alias.
    """
    if not uri.startswith(SCHEME):
        folder = Path(uri)
        if not folder.is_dir():
            raise FileNotFoundError(f"{uri}: no such adapter folder; expected one, or {SCHEME}{MODEL}@candidate")
        return folder
    name, version = _resolve(uri)
    source = client().get_model_version_download_uri(name, version)
    folder = home() / "adapters" / f"{name}-{version}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            for file in FILES:
                get_artifact_repository(source).download_artifacts(file, str(part))
            if not folder.is_dir():  # unless another process was faster
                part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def adapter_tags(uri: str) -> dict[str, str]:
    """The tags of a version in the registry; none for a folder."""
    if not uri.startswith(SCHEME):
        return {}
    return dict(client().get_model_version(*_resolve(uri)).tags)


def _resolve(uri: str) -> tuple[str, str]:
    """Model and version that a ``models:/`` address names."""
    rest = uri.removeprefix(SCHEME)
    name, at, alias = rest.partition("@") if "@" in rest else rest.partition("/")
    if not at or (at == "/" and not alias.isdigit()):
        raise ValueError(f"{uri}: expected {SCHEME}<name>@<alias> or {SCHEME}<name>/<version>")
    try:
        by_alias = client().get_model_version_by_alias if at == "@" else client().get_model_version
        return name, str(by_alias(name, alias).version)
    except MlflowException as error:
        raise ValueError(f"{uri}: not in the registry: {error.message}") from error


def _ensure_model(name: str) -> None:
    try:
        client().create_registered_model(
            name, description="Adapters that let a decoder-only LLM tell a diffusion model what to draw."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
