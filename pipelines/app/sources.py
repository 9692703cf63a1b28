"""The choices of the page's menus: versions in the registry, adapter folders, models and stores."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from infra.environment import home, tracking_uri
from infra.tracking.registry_names import CANDIDATE, MODEL, SCHEME
from llmdiff.adapter.config import CONFIG, WEIGHTS, AdapterConfig, read_config
from llmdiff.shapes import DIFFUSION, LLAMA, PHI
from pipelines.requests.app import AppRequest

logger = logging.getLogger(__name__)
FOLDERS = ("*/adapter", "*/*/adapter")
"""Patterns of adapter folders below the folder of runs; the registry's own copies are not among the choices."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Choices of the page's menus, the first of each chosen."""

    adapters: list[str]
    llms: list[str]
    bases: list[str]
    stores: list[str]


def choices(request: AppRequest) -> Choices:
    """Return what was asked for, then what is found; reads the registry and the folder of runs anew."""
    versions = registered()
    known = readable(adapter_folders())
    folders, configs = list(known), list(known.values())
    bases = [config.base_model for config in configs if config.base_model]
    stores = [config.store for config in configs if config.store]
    return Choices(
        adapters=unique(request.adapter, *versions, *map(str, folders)),
        llms=unique(request.llm, *(tags["llm"] for tags in versions.values() if "llm" in tags), str(LLAMA), str(PHI)),
        bases=unique(request.diffusion, *bases, str(DIFFUSION)),
        stores=unique(request.store, *(tags["store"] for tags in versions.values() if "store" in tags), *stores),
    )


def registered() -> dict[str, dict[str, str]]:
    """Return the tags of each version in the registry by its address, the candidate first, then the newest."""
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return {}
    from infra.tracking.run import client

    found = sorted(client().search_model_versions(f"name='{MODEL}'"), key=lambda version: -int(version.version))
    tags = {f"{SCHEME}{MODEL}/{version.version}": dict(version.tags) for version in found}
    aliases = client().get_registered_model(MODEL).aliases if found else {}
    candidate = tags.get(f"{SCHEME}{MODEL}/{aliases.get('candidate')}")
    return {**({CANDIDATE: candidate} if candidate is not None else {}), **tags}


def adapter_folders() -> list[Path]:
    """Return the folders below the folder of runs that hold a whole adapter, the newest first."""
    found = {path for pattern in FOLDERS for path in home().glob(f"{pattern}/{CONFIG}")}
    whole = [path.parent for path in found if (path.parent / WEIGHTS).is_file()]
    return sorted(whole, key=lambda folder: (-(folder / CONFIG).stat().st_mtime, str(folder)))


def readable(folders: list[Path]) -> dict[Path, AdapterConfig]:
    """Return the configurations of those adapters that have one: a damaged one is no choice."""
    found = {}
    for folder in folders:
        try:
            found[folder] = read_config(folder)
        except (OSError, ValueError) as error:
            logger.warning("left out of the menus: %s", " ".join(str(error).split()))
    return found


def unique(*values: str | None) -> list[str]:
    """Return the values that there are, each once."""
    return list(dict.fromkeys(value for value in values if value))
