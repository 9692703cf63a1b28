"""The initial checkpoint of a training run: an adapter, found in a folder or in the registry, and checked."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from infra.tracking.registry import fetch_adapter, pinned_address
from infra.tracking.registry_names import SCHEME
from llmdiff.adapter.files import check_adapter
from llmdiff.encoder.config import CHAT, EncoderConfig
from llmdiff.encoder.readings import Reading
from llmdiff.encoder.schedules import resolve_schedule
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

    Before anything is encoded with them: no run could start from it then. What only the loaded LLM tells is left to the
    fingerprint: whether it is the same, its chat template, and which layers are meant that are counted from the end.
    """
    trained = check_adapter(fetch_adapter(start_from)).encoder_description
    trained = {**NEUTRAL, **trained} if trained else {}
    for name, value in _described(settings, trained).items():
        if name in trained and trained[name] != value:
            expected = "expected the same, or to start from scratch"
            found = f"trained with {name} {trained[name]!r}, found {value!r}"
            raise ValueError(f"{start_from}: can't start from it: {found}; {expected}")


NEUTRAL = {"reading": "score", "template_keep": "all", "quantization": "none"}
"""What a description leaves out."""


def _described(settings: EncoderConfig, trained: dict[str, Any]) -> dict[str, Any]:
    """Return what an encoder with these settings will say of them, as far as that is known without its LLM.

    A schedule is resolved for as many blocks as there were in what was `trained`.
    """
    from llmdiff.encoder.description import describe_settings

    blocks = len(trained.get("g") or ())
    g, h = (
        value if isinstance(value, tuple) else resolve_schedule(value, blocks) for value in (settings.g, settings.h)
    )
    settings = dataclasses.replace(settings, dtype=settings.dtype or "bfloat16")
    reading = Reading.parse(settings.reading)
    found = {"kind": "llm"} | NEUTRAL | {"reading": str(reading)} | describe_settings(settings, g, h, noise_std=())
    found.pop("noise_std", None)  # follows from h
    if settings.template == CHAT:
        del found["template"]
    if min(reading.layers, default=0) < 0 and Reading.parse(trained.get("reading", "score")).kind == "layers":
        del found["reading"]
    return found


def check_start(config: TrainConfig) -> None:
    """Raise ValueError where the run can't start from it; what only the loaded U-Net tells is left to the run.

    Warn where it was trained on another store, were it at the same path: its weights are of use, of other data.
    """
    if config.start_from is None:
        return
    from llmdiff.training.checkpoints.warm_start import SETTINGS, check_initial_checkpoint

    initial = check_adapter(Path(config.start_from))
    if (trained_on := initial.training.get("store_id")) and trained_on != config.store_id:
        logger.warning(
            "%s was trained on the store %s at %s; this run reads the store %s at %s",
            *(config.parent or config.start_from, trained_on, initial.store, config.store_id, config.store),
        )
    facts = {"encoder_fingerprint": config.fingerprint, **{name: getattr(config.adapter, name) for name in SETTINGS}}
    check_initial_checkpoint(initial, config.parent or config.start_from, config.base, facts)
