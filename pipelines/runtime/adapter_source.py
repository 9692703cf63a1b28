"""The three parts of an adapted model, found in folders or in the registry, and loaded ready to draw."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.tracking.adapter_folder import given_adapter
from infra.tracking.registry_names import SCHEME
from llmdiff.adapter.config import AdapterConfig
from llmdiff.adapter.files import check_adapter
from llmdiff.sampling import Sampling, load_pipeline
from pipelines.runtime.progress import quieten_loading
from pipelines.runtime.stage import task


class Source(BaseModel):
    """The three parts of an adapted model: each a folder or a name."""

    model_config = ConfigDict(frozen=True)

    adapter: str
    llm: str | None
    diffusion: str


@task("resolve adapter")
def resolve_adapter(adapter: str, llm: str | None, diffusion: str | None) -> Source:
    """Return the adapter's files on this machine, and the models that go with it."""
    folder, tags = find_adapter(adapter)
    config = check_adapter(folder)
    if config.encoder == "base":
        llm = None
    elif llm is None and (llm := tags.get("llm") or named_llm(config)) is None:
        raise ValueError(f"{adapter}: trained on an LLM's encodings: expected --llm, the LLM's folder or name")
    if not (diffusion or config.base_model):
        raise ValueError(f"{adapter}: does not name its base model: expected --diffusion, its folder or name")
    return Source(adapter=str(folder), llm=llm, diffusion=diffusion or config.base_model)


def find_adapter(adapter: str) -> tuple[Path, dict[str, str]]:
    """Return an adapter's folder, and its tags where it is a version in the registry; MLflow is imported for those."""
    if not adapter.startswith(SCHEME):
        return given_adapter(adapter), {}
    from infra.tracking.registry import adapter_tags, fetch_adapter

    return fetch_adapter(adapter), adapter_tags(adapter)


def named_llm(config: AdapterConfig) -> str | None:
    """Return the LLM that an adapter names, where that is a name on the hub."""
    return config.llm if re.fullmatch(r"[\w.-]+/[\w.-]+", config.llm) else None


def load_source(source: Source, adapted: bool, sampling: Sampling) -> Any:
    """Load the base model's pipeline, with the adapter in it or as it was loaded."""
    quieten_loading()
    adapter, llm = (source.adapter, source.llm) if adapted else (None, None)
    return load_pipeline(source.diffusion, adapter, llm, **sampling.loading())
