"""The request of the page."""

from __future__ import annotations

from pydantic import Field

from pipelines.requests.base import OptionalPathText, Request


class AppRequest(Request):
    """Serve a page to try an adapter, see why it draws what it draws, browse the store, and watch a run."""

    adapter: str | None = None
    """Adapter folder, version in the registry, or name on the hub (`hf:owner/name[@revision]`); default: the registry's
    candidate, else the newest folder."""
    llm: str | None = None
    """Folder, GGUF file or name of the adapter's LLM; default: as registered."""
    diffusion: str | None = None
    """Folder, name or single file of the base model; default: the one that the adapter was trained on."""
    store: OptionalPathText = None
    """Encoding store to browse; default: the one that the adapter was trained on."""
    host: str = "127.0.0.1"
    """Address to listen at; others than this machine's own reach it at 0.0.0.0."""
    port: int = Field(default=7860, ge=1, le=65535)
    """Port to listen at."""
