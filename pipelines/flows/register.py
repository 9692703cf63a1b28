"""The register flow: a trained adapter becomes a version in the MLflow registry."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from infra.tracking.registry import Registered, register_adapter
from pipelines.requests.register import RegisterRequest
from pipelines.runtime.stage import stage


@stage("register")
def register_flow(request: RegisterRequest) -> Registered:
    """Register an adapter folder and point the alias at the new version."""
    registered = register_version(request)
    show(registered)
    return registered


@task(name="register version", cache_policy=NO_CACHE)
def register_version(request: RegisterRequest) -> Registered:
    """Store the files and make the version; see `infra.tracking.registry.register_adapter`."""
    tags = {**({"llm": request.llm} if request.llm else {}), **(request.tags or {})}
    return register_adapter(
        Path(request.adapter), run_id=request.run_id, name=request.name, alias=request.alias, tags=tags
    )


@task(name="show version", cache_policy=NO_CACHE)
def show(registered: Registered) -> None:
    """Name the version in the Prefect UI."""
    text = (
        f"`{registered.name}` version {registered.version}, alias `{registered.alias}`: `{registered.uri}`; "
        f"MLflow run `{registered.run_id}`; `llmdiff lineage {registered.version}` shows what it came from"
    )
    create_markdown_artifact(text, key="registered-adapter")
