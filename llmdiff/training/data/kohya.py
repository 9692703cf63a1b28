"""Repeats of the pictures of a store's sources in an epoch, from the names of their folders."""

from __future__ import annotations

from llmdiff.data.sources.folders.kohya import folder_repeats
from llmdiff.training.config import TrainConfig
from storage import EncodingStore
from storage.reading.trainable import trainable_rows


def read_repeats(config: TrainConfig) -> dict[str, int]:
    """Return the repeats of a resolved run's sources, by name; those without a number are left out.

    Raises:
        ValueError: no source's name has a number, or one has 0.
    """
    store = EncodingStore.open(config.store, version=config.store_version)
    batches = trainable_rows(store, config.fingerprint, ["source"])
    sources = {source for batch in batches for source in batch["source"].unique().to_pylist()}
    repeats = folder_repeats(sources)
    if not repeats:
        found = ", ".join(sorted(sources)[:5])
        raise ValueError(f"kohya_repeats: expected folders of pictures named as 10_name in {store.path}, found {found}")
    if none := [source for source, times in repeats.items() if times < 1]:
        raise ValueError(f"kohya_repeats: expected numbers from 1, found the folder {none[0]} in {store.path}")
    return repeats
