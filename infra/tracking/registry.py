"""The MLflow registry: every trained adapter is a version of `MODEL`, with the lineage that it came from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from infra.environment import home, tracking_uri
from infra.service.secrets import redacted
from infra.tracking.adapter_folder import given_adapter
from infra.tracking.lineage import data_files, data_input, data_tags, origin_tags
from infra.tracking.registry_names import MODEL, SCHEME
from infra.tracking.run import client, tracked_run
from llmdiff.adapter.files import FILES, check_whole
from llmdiff.model_files.manifest import MANIFEST, write_manifest

INSIDE = "artifacts/adapter"
"""Folder of the adapter's files in an MLflow model."""
CHAMPION = "champion"
PREVIOUS = "previous_champion"
ROLLED_BACK = "rolled_back"


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
    """Store an adapter folder's files in an MLflow model, a new version of `name`, and point the alias at it.

    Args:
        folder: holds ``adapter.safetensors`` and ``adapter_config.json``.
        run_id: MLflow run of the training; a run is made where there is none.
        name: registered model, made if it is missing.
        alias: moved to the new version.
        tags: more tags than the lineage, or other ones; ``llm`` is where the LLM is found.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: one is damaged.
    """
    check_whole(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    if run_id is None:
        with tracked_run("register", {}, {}) as run:
            run_id = run.run_id
    tags = {**origin_tags(config), **log_data(run_id, config), **tags}
    source = log_model(run_id, folder, {"diffusion": found(tags.get("base_model")), "llm": found(tags.get("llm"))})
    _ensure_model(name)
    api = client()
    version = api.create_model_version(name, source, run_id, tags=tags)
    api.set_registered_model_alias(name, alias, version.version)
    return Registered(name, int(version.version), alias, f"{SCHEME}{name}@{alias}", run_id)


def log_data(run_id: str, config: dict[str, Any]) -> dict[str, str]:
    """Make the data files an input of the run, and return tags that sum them up, or why they can't be read."""
    store, version = config.get("store", ""), config.get("store_version")
    if not store:
        return {}
    try:
        store_id = config.get("training", {}).get("store_id", "")
        files = data_files(store, version, config["encoder_fingerprint"], store_id)
    except (OSError, ValueError) as error:
        return {"data_files": f"not read: {error}"}
    client().log_inputs(run_id, [data_input(config, files)])
    return data_tags(files)


def log_model(run_id: str, folder: Path, parts: dict[str, str]) -> str:
    """Make an adapter folder an MLflow model among the run's artifacts, and return its address."""
    total = hashlib.sha256(json.dumps(parts).encode())
    for name in FILES:
        total.update((folder / name).read_bytes())
    path = f"adapter-{total.hexdigest()[:12]}"  # what a version has is never written over
    api = client()
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "model"
        save_model(folder, model, parts)
        api.log_artifacts(run_id, str(model), path)
    return f"{api.get_run(run_id).info.artifact_uri}/{path}"


def save_model(folder: Path, model: Path, parts: dict[str, str]) -> None:
    """Write the MLflow model: `infra.tracking.pyfunc_model`, the adapter's files, a signature; nothing is pickled."""
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model as save_pyfunc
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    params = [ParamSpec("seed", "long", 0), ParamSpec("steps", "long", 30), ParamSpec("guidance", "double", 5.0)]
    outputs = {"prompt": DataType.string, "seed": DataType.long, "image": DataType.binary}
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([ColSpec(kind, name) for name, kind in outputs.items()]),
        params=ParamSchema(params),
    )
    needed = importlib.metadata.requires("llmdiff") or []  # the light core; MLflow adds itself
    with tempfile.TemporaryDirectory() as temporary:
        adapter = Path(temporary) / "adapter"
        copy_adapter(folder, adapter)
        save_pyfunc(
            model,
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"adapter": str(adapter)},
            model_config=parts,
            signature=signature,
            input_example=["a red circle to the left of a blue square"],
            pip_requirements=[line for line in needed if "extra ==" not in line],
        )


def copy_adapter(folder: Path, copy: Path) -> None:
    """Copy an adapter's files, and list the copies once they are found to be as the folder's own manifest says."""
    copy.mkdir()
    for name in (*FILES, MANIFEST):
        if (folder / name).exists():  # earlier versions wrote no manifest
            shutil.copy2(folder / name, copy)
    check_whole(copy)
    write_manifest(copy, FILES)


def found(model: str | None) -> str:
    """Return where a folder or a hub name is found from any working directory."""
    return str(Path(model).resolve()) if model and Path(model).exists() else model or ""


def fetch_adapter(uri: str) -> Path:
    """Return the folder of an adapter: a folder as it is, or the files of a version's ``models:/`` address.

    A version's files never change, so they are fetched once, into ``adapters/`` below the folder of runs; again only
    where the copy there was damaged since. A name on the hub is one that `llmdiff.adapter.hub.adapter_folder` takes.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the registry has no such model, version or alias, or its files are damaged.
    """
    if not uri.startswith(SCHEME):
        return given_adapter(uri)
    version = find_version(uri)
    source = client().get_model_version_download_uri(version.name, version.version)
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    folder = home() / "adapters" / f"{version.name}-{version.version}-{digest}"
    if not _is_whole(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            fetched = _download(source, part)
            _check_fetched(uri, fetched)
            if folder.is_dir() and not _is_whole(folder):
                folder.rename(part / "damaged")
            if not folder.is_dir():  # unless another process was faster
                fetched.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        check_whole(folder)
    except (OSError, ValueError):
        return False
    return True


def _check_fetched(uri: str, folder: Path) -> None:
    """Raise ValueError naming the version where its files are not as they were registered."""
    try:
        check_whole(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{uri}: what the registry holds is damaged: {error}") from error


def adapter_tags(uri: str) -> dict[str, str]:
    """Return the tags of a version in the registry; none for a folder."""
    return dict(find_version(uri).tags) if uri.startswith(SCHEME) else {}


def find_version(uri: str) -> ModelVersion:
    """Return the version that a ``models:/`` address names; raise ValueError where there is none."""
    rest = uri.removeprefix(SCHEME)
    name, at, alias = rest.partition("@") if "@" in rest else rest.partition("/")
    if not at or (at == "/" and not alias.isdigit()):
        raise ValueError(f"{uri}: expected {SCHEME}<name>@<alias> or {SCHEME}<name>/<version>")
    api = client()
    try:
        number = api.get_model_version_by_alias(name, alias).version if at == "@" else alias
        return api.get_model_version(name, str(number))
    except MlflowException as error:
        raise ValueError(f"{uri}: not in the registry {redacted(tracking_uri())}: {error.message}") from error


def pinned_address(uri: str) -> str:
    """Return ``models:/name/version`` of an address that may be an alias; raise ValueError as `find_version`."""
    return address_of(find_version(uri))


def address_of(version: ModelVersion) -> str:
    """Return ``models:/name/version``, which always names the same version."""
    return f"{SCHEME}{version.name}/{version.version}"


def find_champion(name: str = MODEL) -> ModelVersion | None:
    """Return the champion; None where the registered model has none yet, or there is no such model."""
    return find_alias(CHAMPION, name)


def find_alias(alias: str, name: str = MODEL) -> ModelVersion | None:
    """Return the version that has an alias; None where none has."""
    try:
        version = client().get_registered_model(name).aliases.get(alias)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return None if version is None else find_version(f"{SCHEME}{name}/{version}")


def set_champion(version: ModelVersion) -> None:
    """Make a version the champion, after noting on it which one was."""
    before = find_champion(version.name)
    if before is not None and before.version != version.version:
        client().set_model_version_tag(version.name, version.version, PREVIOUS, str(before.version))
    client().set_registered_model_alias(version.name, CHAMPION, version.version)


def rollback(name: str = MODEL) -> tuple[int, int]:
    """Make the previous champion the champion again; return the one that was and the one that is.

    Raises:
        ValueError: there is no champion, none before it, or that one was deleted.
    """
    champion = find_version(f"{SCHEME}{name}@{CHAMPION}")
    if (previous := champion.tags.get(PREVIOUS)) is None:
        raise ValueError(f"{SCHEME}{name}@{CHAMPION}: version {champion.version} is the first champion: none to go to")
    back = find_version(f"{SCHEME}{name}/{previous}")
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    client().set_model_version_tag(name, champion.version, ROLLED_BACK, now)
    client().set_registered_model_alias(name, CHAMPION, back.version)
    return int(champion.version), int(back.version)


def _download(source: str, folder: Path) -> Path:
    """Fetch an adapter's files; versions made before they were MLflow models have them at the top."""
    repository = get_artifact_repository(source)
    is_model = any(file.path == "MLmodel" for file in repository.list_artifacts())
    inside = INSIDE if is_model else None
    there = {PurePosixPath(file.path).name for file in repository.list_artifacts(inside)}
    for file in (*FILES, *({MANIFEST} & there)):
        repository.download_artifacts(f"{inside}/{file}" if inside else file, str(folder))
    return folder / INSIDE if is_model else folder


def _ensure_model(name: str) -> None:
    try:
        client().create_registered_model(
            name, description="Adapters that let a decoder-only LLM tell a diffusion model what to draw."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
