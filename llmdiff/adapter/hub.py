"""Adapters by name: ``hf:owner/name[@revision]``, or the name alone where there is no such folder."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from llmdiff.adapter.config import CONFIG, WEIGHTS
from llmdiff.model_files.manifest import MANIFEST
from llmdiff.model_files.model_folders import first_line

SCHEME = "hf:"
NAME = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?")


def adapter_folder(name: str | os.PathLike[str]) -> Path:
    """Return an adapter's folder: one of this machine as it is, or the files of the hub, which are fetched once.

    Of the hub, weights in safetensors, the configuration in JSON, and where there is one the manifest with their
    checksums are fetched, and nothing else. Its address and the token are those of huggingface_hub: ``HF_ENDPOINT``,
    ``HF_TOKEN``; ``HF_HUB_OFFLINE`` takes what was fetched before.

    Raises:
        FileNotFoundError: there is no such folder, and no such adapter on the hub that can be read.
        ValueError: what follows ``hf:`` is no name on the hub.
    """
    text = os.fspath(name)
    if (parts := hub_parts(text)) is None:
        return Path(text)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repo, revision = parts
    try:
        config = Path(hf_hub_download(repo, CONFIG, revision=revision))
        weights = Path(hf_hub_download(repo, WEIGHTS, revision=config.parent.name))  # from the same commit
        with suppress(EntryNotFoundError):  # earlier versions uploaded none
            hf_hub_download(repo, MANIFEST, revision=config.parent.name)
    except (OSError, ValueError) as error:  # huggingface_hub's errors are subclasses of these
        expected = f"expected one, or an adapter's repository with {CONFIG} and {WEIGHTS}"
        raise FileNotFoundError(
            f"{text}: no such adapter folder; {expected}; from the hub: {first_line(error)}"
        ) from error
    return weights.parent


def hub_parts(text: str) -> tuple[str, str | None] | None:
    """Return repository and revision of a name on the hub; None for a folder, and for what can only mean a folder."""
    asked = text.startswith(SCHEME)
    found = NAME.fullmatch(text.removeprefix(SCHEME))
    if asked and found is None:
        raise ValueError(f"{text}: expected {SCHEME}owner/name or {SCHEME}owner/name@revision")
    if found is None or (not asked and Path(text).exists()):
        return None
    return found["repo"], found["revision"]
