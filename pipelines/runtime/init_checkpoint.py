"""The initial checkpoint of a training run: an adapter, found in a folder or in the registry, and checked."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from infra.tracking.registry import fetch_adapter, pinned_address
from infra.tracking.registry_names import SCHEME
from llmdiff.adapter.files import check_adapter
from llmdiff.encoder.config import CHAT, EncoderConfig
from llmdiff.encoder.readings import Reading
from llmdiff.training.config import TrainConfig

logger = logging.getLogger(__name__)


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


def check_same_encodings(start_from: str, settings: EncoderConfig) -> None:
    """Raise ValueError where settings of an LLM's encoder are others than those that an adapter was trained with.

    Before anything is encoded with them: no run could start from it then. Whether the LLM is the same, and which layers
    are meant, its weights' fingerprint tells.
    """
    described = check_adapter(fetch_adapter(start_from)).encoder_description
    plain = settings.to_dict()
    asked: dict[str, Any] = {"kind": "llm"} | {
        name: plain[name] for name in ("bands", "max_tokens", "append_eos", "template_keep")
    }
    asked |= {"reading": Reading.parse(settings.reading).kind, "dtype": settings.dtype or "bfloat16"}
    asked |= {} if settings.template == CHAT else {"template": settings.template}
    reading = Reading.parse(described.get("reading", "score")).kind
    known = {"template_keep": "all", **described, "reading": reading} if described else {}
    for name, value in asked.items():
        if name in known and known[name] != value:
            expected = "expected the same, or to start from scratch"
            trained = f"trained with {name} {known[name]!r}, found {value!r}"
            raise ValueError(f"{start_from}: can't start from it: {trained}; {expected}")


def check_start(config: TrainConfig) -> None:
    """Raise ValueError where the run can't start from it; what only the loaded U-Net tells is left to the run.

    Warn where it was trained on another store, were it at the same path: its weights are of use, of other data.
    """
    if config.start_from is None:
        return
    from llmdiff.training.warm_start import SETTINGS, check_initial_checkpoint

    initial = check_adapter(Path(config.start_from))
    if (trained_on := initial.training.get("store_id")) and trained_on != config.store_id:
        logger.warning(
            "%s was trained on the store %s at %s; this run reads the store %s at %s",
            *(config.parent or config.start_from, trained_on, initial.store, config.store_id, config.store),
        )
    facts = {"encoder_fingerprint": config.fingerprint, **{name: getattr(config.adapter, name) for name in SETTINGS}}
    check_initial_checkpoint(initial, config.parent or config.start_from, config.base, facts)
