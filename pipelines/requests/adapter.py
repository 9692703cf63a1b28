"""Which adapter a stage is asked about, and the models that go with it."""

from __future__ import annotations

from pipelines.requests.base import Request


class AdapterRequest(Request):
    """A request to a stage that draws with an adapter."""

    adapter: str | None = None
    """Adapter folder, version in the registry, or name on the hub (`hf:owner/name[@revision]`); default: the registry's
    candidate, else the newest folder."""
    llm: str | None = None
    """Folder, GGUF file or name of the adapter's LLM; default: as registered."""
    diffusion: str | None = None
    """Folder, name or single file of the base model; default: the one that the adapter was trained on."""
