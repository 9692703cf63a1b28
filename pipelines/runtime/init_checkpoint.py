"""The initial checkpoint of a training run: an adapter, found in a folder or in the registry, and checked."""

from __future__ import annotations

from pathlib import Path

from infra.tracking.registry import fetch_adapter, pinned_address
from infra.tracking.registry_names import SCHEME
from llmdiff.adapter.config import read_config
from llmdiff.training.config import TrainConfig


def resolve_initial(start_from: str | None) -> dict[str, str]:
    """Return the folder of its files, and for a version its address: a number, for an alias moves on.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the registry has no such version.
    """
    if start_from is None:
        return {}
    folder = str(fetch_adapter(start_from).resolve())
    return {"start_from": folder, "parent": pinned_address(start_from) if start_from.startswith(SCHEME) else ""}


def check_start(config: TrainConfig) -> None:
    """Raise ValueError where the run can't start from it; what only the loaded U-Net tells is left to the run."""
    if config.start_from is None:
        return
    from llmdiff.training.warm_start import check_initial_checkpoint

    facts = {"encoder_fingerprint": config.fingerprint, **config.adapter.model_dump(include={"base_context", "paths"})}
    check_initial_checkpoint(
        read_config(Path(config.start_from)), config.parent or config.start_from, config.base, facts
    )
