"""The request of the register stage."""

from __future__ import annotations

from infra.tracking.registry_names import MODEL
from pipelines.requests.base import Request


class RegisterRequest(Request):
    """Make a trained adapter a version in the registry."""

    adapter: str
    """Folder with `adapter.safetensors` and `adapter_config.json`."""
    run_id: str | None = None
    """MLflow run of the adapter's training."""
    name: str = MODEL
    """Registered model."""
    alias: str = "candidate"
    """Alias that is moved to the new version."""
    llm: str | None = None
    """Where the LLM is found, recorded so that `generate` finds it too."""
    tags: dict[str, str] | None = None
    """More tags for the version; `parent` is the address of the one that training went on from."""
