"""The request to share an adapter."""

from __future__ import annotations

from typing import Annotated

from pipelines.requests.base import CommandLine, OptionalPathText, Request


class PushRequest(Request):
    """Share an adapter on the Hugging Face hub."""

    adapter: Annotated[str, CommandLine(argument=True)]
    """Adapter folder, or version in the registry."""
    repo: Annotated[str, CommandLine(argument=True)]
    """Repository on the hub: owner/name; made where it is missing."""
    llm: str | None = None
    """Name on the hub of the adapter's LLM, for whoever loads it; default: as recorded, if that is one."""
    diffusion: str | None = None
    """Name on the hub of the base model; default: as recorded, if that is one."""
    license: str = "other"
    """Licence of the weights, as the hub writes it: apache-2.0, cc-by-4.0, …"""
    grid: OptionalPathText = None
    """Picture for the model card; default: the newest validation samples of the run that the folder is in."""
    evaluation: OptionalPathText = None
    """`report.json` of `llmdiff evaluate`, for a table on the model card."""
    output: OptionalPathText = None
    """Folder to write what is uploaded into; default: one below the folder of runs."""
    private: bool = False
    """Make the repository a private one, where it is made."""
    dry_run: bool = False
    """Write the folder, and upload nothing."""
