"""The register flow: a trained adapter becomes a version in the MLflow registry."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from infra.tracking.registry import MODEL, Registered, register_adapter


@flow(name="register")
def register_flow(
    adapter: str,
    run_id: str | None = None,
    name: str = MODEL,
    alias: str = "candidate",
    llm: str | None = None,
    tags: dict[str, str] | None = None,
) -> Registered:
    """Registers an adapter folder and points the alias at the new version.

    Args:
        adapter: folder with ``adapter.safetensors`` and ``adapter_config.json``.
        run_id: MLflow run of its training.
        name: registered model.
        alias: moved to the new version.
        llm: where the LLM is found, recorded so that `generate` finds it too.
        tags: more tags for the version; ``parent`` is the address of the one that training went on from.
    """
    registered = register_version(adapter, run_id, name, alias, {**({"llm": llm} if llm else {}), **(tags or {})})
    show(registered)
    return registered


@task(name="register version", cache_policy=NO_CACHE)
def register_version(adapter: str, run_id: str | None, name: str, alias: str, tags: dict[str, str]) -> Registered:
    """Stores the files and makes the version; see `infra.tracking.registry.register_adapter`."""
    return register_adapter(Path(adapter), run_id=run_id, name=name, alias=alias, tags=tags)


@task(name="show version", cache_policy=NO_CACHE)
def show(registered: Registered) -> None:
    """Names the version in the Prefect UI."""
    text = (
        f"`{registered.name}` version {registered.version}, alias `{registered.alias}`: `{registered.uri}`; "
        f"MLflow run `{registered.run_id}`; `llmdiff lineage {registered.version}` shows what it came from"
    )
    create_markdown_artifact(text, key="registered-adapter")
