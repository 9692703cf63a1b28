"""Which commits of models this machine's cache of the hub has; needs no MLflow."""

from __future__ import annotations

from pathlib import Path


def hub_revision(model: str | None, file: str = "config.json") -> str:
    """Return the commit of a hub model, by one of its files in this machine's cache; empty where there is none."""
    if model is None or Path(model).exists():
        return ""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, file)
    except HFValidationError:  # a folder that is not there any more
        return ""
    return Path(found).parents[file.count("/")].name if isinstance(found, str) else ""
