"""The shared folder of an adapter: weights, a configuration without anything private, a model card; and its upload."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from infra.environment import home
from infra.tracking.lineage import data_files, data_tags
from infra.tracking.registry import adapter_tags, fetch_adapter
from llmdiff.adapter.config import CONFIG, WEIGHTS, AdapterConfig
from llmdiff.adapter.files import FILES, check_adapter, config_bytes
from llmdiff.adapter.hub import NAME
from llmdiff.model_files.manifest import MANIFEST, write_manifest
from pipelines.reports.model_card import model_card, read_scores
from pipelines.requests.push import PushRequest
from storage.io.files import write_file

PRIVATE = ("hosts", "output", "parent", "start_from", "store", "validation_prompts")
"""Settings of training that say where things lie, or that hold texts of the user's."""
CARD, GRID = "README.md", "samples.png"


def write_shared(request: PushRequest) -> Path:
    """Write the folder that is uploaded, and return it: an adapter's `FILES` with their manifest, `CARD`, and `GRID`.

    Raises:
        FileNotFoundError: there is no such adapter, picture or report.
        ValueError: the repository's name can't be one, the report holds no scores, or the adapter is damaged.
    """
    validate_repo_id(request.repo)
    if NAME.fullmatch(request.repo) is None:
        raise ValueError(f"repository: expected owner/name, found {request.repo!r}")
    source = fetch_adapter(request.adapter)
    config = check_adapter(source)
    scores = read_scores(request.evaluation) if request.evaluation else None
    grid = Path(request.grid) if request.grid else newest_samples(source)
    llm = request.llm or adapter_tags(request.adapter).get("llm") or config.llm
    public = public_config(config, llm, request.diffusion)
    folder = Path(request.output or home() / "shared" / request.repo.replace("/", "--"))
    folder.mkdir(parents=True, exist_ok=True)
    if grid is not None:
        shutil.copyfile(grid, folder / GRID)
    else:
        (folder / GRID).unlink(missing_ok=True)  # an earlier call's
    shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)
    write_file(folder / CONFIG, config_bytes(public))
    card = model_card(
        public, request.repo, request.license, lineage(config), GRID if grid is not None else None, scores
    )
    write_file(folder / CARD, card.encode())
    write_manifest(folder, FILES)
    return folder


def upload(folder: Path, request: PushRequest) -> str:
    """Upload a shared folder's files as one commit, and return the commit's address; OSError where the hub refuses."""
    api = HfApi(library_name="llmdiff")
    api.create_repo(request.repo, private=request.private, exist_ok=True)
    files = [CARD, CONFIG, GRID, WEIGHTS, MANIFEST]
    return str(
        api.upload_folder(
            repo_id=request.repo, folder_path=folder, allow_patterns=files, commit_message="Upload an LLMDiff-Adapter"
        )
    )


def public_config(config: AdapterConfig, llm: str, diffusion: str | None) -> AdapterConfig:
    """Return a configuration that names models by their names on the hub, and no path of this machine."""
    values = {**config.model_dump(), "store": "", "base_model": diffusion or config.base_model}
    values["llm"] = llm if is_hub_name(llm) else config.llm
    values["training"] = {key: value for key, value in config.training.items() if key not in PRIVATE}
    described = values.pop("encoder_description")  # hashes and settings, which loading compares
    return AdapterConfig(**without_paths(values), encoder_description=described)


def without_paths(value: Any) -> Any:
    """Return JSON values with empty texts in place of paths and addresses."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if not isinstance(value, str) or "/" not in value or is_hub_name(value):
        return value
    return "" if value.startswith(("/", "~", ".")) or "://" in value or Path(value).exists() else value


def is_hub_name(text: str) -> bool:
    """Return whether a text is a name on the hub, and no folder here."""
    return NAME.fullmatch(text) is not None and not Path(text).exists()


def lineage(config: AdapterConfig) -> dict[str, str]:
    """Return how many files and rows an adapter was trained on, and their digest; nothing where its store is gone."""
    if not config.store:
        return {}
    try:
        store_id = config.training.get("store_id", "")
        return data_tags(data_files(config.store, config.store_version, config.encoder_fingerprint, store_id))
    except (OSError, ValueError):
        return {}


def newest_samples(adapter: Path) -> Path | None:
    """Return the newest picture of validation samples of the run that an adapter's folder is in."""
    found = sorted((adapter.parent / "samples").glob("step-*.png"))
    return found[-1] if found else None
