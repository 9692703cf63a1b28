"""The register flow: a trained adapter becomes a version in the MLflow registry."""

from __future__ import annotations

from pathlib import Path

from infra.tracking.registry import Registered, register_adapter
from pipelines.requests.register import RegisterRequest
from pipelines.runtime.artifacts import show_text
from pipelines.runtime.stage import stage, task


@stage("register")
def register_flow(request: RegisterRequest) -> Registered:
    """Register an adapter folder and point the alias at the new version."""
    registered = register_version(request)
    show(registered)
    return registered


@task("register version")
def register_version(request: RegisterRequest) -> Registered:
    """Store the files and make the version; see `infra.tracking.registry.register_adapter`."""
    tags = {**({"llm": request.llm} if request.llm else {}), **(request.tags or {})}
    return register_adapter(
        Path(request.adapter), run_id=request.run_id, name=request.name, alias=request.alias, tags=tags
    )


@task("show version")
def show(registered: Registered) -> None:
    """Name the version in the Prefect UI."""
    text = (
        f"`{registered.name}` version {registered.version}, alias `{registered.alias}`: `{registered.uri}`; "
        f"MLflow run `{registered.run_id}`; `llmdiff lineage {registered.version}` shows what it came from"
    )
    show_text(text, key="registered-adapter")
