"""Resolve a training run once: snapshot, encodings, batch and processes, into one file that the workers read.

Needs no torch, so a flow can resolve a run before anything heavy is imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmdiff.adapter.config import check_bands
from llmdiff.training.checkpoints.newest import newest_state
from llmdiff.training.config import CONFIG, TrainConfig
from llmdiff.training.data.kohya import read_repeats
from storage import EncodingStore, caption_hash


def resolve(draft: TrainConfig, kind: str | None = None, xl: bool = False) -> TrainConfig:
    """Return a run's configuration with all that it depends on pinned; refuse what contradicts an earlier start.

    Args:
        draft: the configuration. A snapshot of None is the one that the run began with, or the newest; fingerprints may
            be empty.
        kind: kind of the encodings, "llm" or "base", where the draft names no fingerprint.
        xl: whether the base is an SDXL model, which reads pooled embeddings too.

    Raises:
        FileNotFoundError: there is no such store.
        ValueError: the store has no such snapshot or encodings, or not one kind alone where none is named, or too few
            bands for gates; or the run in the folder began otherwise, such as on another store.
    """
    folder = Path(draft.output)
    check_same_store(folder, EncodingStore.open(draft.store))
    store = EncodingStore.open(draft.store, version=pinned_version(folder, draft.store_version))
    pinned: dict[str, object] = {
        "store_id": store.id,
        "store_version": store.version,
        "fingerprint": find_fingerprint(store, kind, draft.fingerprint or None),
    }
    if draft.adapter.base_context == "clip":
        pinned["base_fingerprint"] = find_fingerprint(store, "base", draft.base_fingerprint or None)
    if xl or draft.pooled_fingerprint is not None:
        pinned["pooled_fingerprint"] = find_fingerprint(store, "pooled", draft.pooled_fingerprint)
    config = draft.model_copy(update=pinned)
    if config.adapter.band_gates:
        encoding = store.encoding(config.fingerprint, caption_hash(""))
        check_bands(encoding.shape[0] if encoding.ndim == 3 else 1, config.fingerprint)
    if config.kohya_repeats:
        read_repeats(config)  # raises where there are none
    config.check_same(config.path)
    if (state := newest_state(folder / "checkpoints")) is not None:
        state.check_batch(config, config.processes)
    return config


def check_resolved(config: TrainConfig, processes: int) -> None:
    """Raise ValueError where a worker's configuration is not one that `resolve` made for as many processes."""
    if config.store_version is None:
        raise ValueError(
            f"{config.output}: expected a resolved run, as `llmdiff train` leaves it, found no store_version"
        )
    if config.processes != processes:
        raise ValueError(
            f"{config.output}: expected {config.processes} processes, as it was resolved for, found {processes}"
        )


def began_with(folder: Path) -> TrainConfig | None:
    """Return the configuration that the run in a folder began with; None where none did."""
    path = folder / CONFIG
    return TrainConfig.read(path) if path.exists() else None


def check_same_store(folder: Path, store: EncodingStore) -> None:
    """Raise ValueError where the run in a folder began on another store, even one at the same path."""
    before = began_with(folder)
    if before is not None and before.store_id not in ("", store.id):
        raise ValueError(
            f"{folder}: the run began on the store {before.store_id} at {before.store}, found the store {store.id} at "
            f"{store.path}: restart, or use another output"
        )


def check_store(config: TrainConfig, store: EncodingStore) -> None:
    """Raise ValueError where another store lies at the path by now than the one that a run was resolved for."""
    if config.store_id not in ("", store.id):
        raise ValueError(f"{config.store}: expected the store {config.store_id}, found the store {store.id}")


def pinned_version(folder: Path, wanted: int | None) -> int | None:
    """Return the snapshot that a run began with, if it has begun; raise ValueError where another one is wanted."""
    before = began_with(folder)
    began = wanted if before is None else before.store_version
    if wanted not in (None, began):
        raise ValueError(
            f"{folder}: the run began with store version {began}, found {wanted}: leave the version out to go on, "
            "restart, or use another output"
        )
    return began


def find_fingerprint(store: EncodingStore, kind: str | None, wanted: str | None) -> str:
    """Return the fingerprint of the store's only encodings of a kind, or the wanted one if the store has it."""
    known = store.fingerprints()
    found = [
        key for key, about in known.items() if (key == wanted if wanted is not None else about.get("kind") == kind)
    ]
    if len(found) != 1:
        expected = f"encodings of {wanted}" if wanted is not None else f'one kind of "{kind}" encodings'
        how = "name a fingerprint" if found else "encode first, or name a fingerprint"
        if kind == "pooled":
            how = "encode again with --diffusion of this base, or name a fingerprint"
        there = ", ".join(f"{key} ({_in_words(about)})" for key, about in known.items()) or "none"
        raise ValueError(f"{store.path}: expected {expected}, found {there}: {how}")
    return found[0]


def _in_words(about: dict[str, Any]) -> str:
    """Return in words how an LLM's encoder differs from others: its reading, bands and template."""
    if about.get("kind") != "llm":
        return str(about.get("kind"))
    facts = [about.get("llm", {}).get("class", "LLM"), about.get("reading", "score")]
    facts += [f"{about['bands']} bands"] if about.get("bands", 1) != 1 else []
    facts += [f"template {about['template']!r:.60}"] if about.get("template", "{caption}") != "{caption}" else []
    facts += [f"keep {about['template_keep']}"] if "template_keep" in about else []
    return ", ".join(map(str, facts))
