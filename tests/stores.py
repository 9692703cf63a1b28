"""What a store holds, to be compared, and what in it belongs to nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage import EncodingStore
from storage.maintenance.summary import list_shards
from storage.maintenance.verify import verify


def contents(store: EncodingStore, *but: str) -> dict[str, Any]:
    """Return all that a store says and holds, checksums included, without the shards' names and their order."""
    assert verify(store) == []
    places = ["shard", "encoding_shard", "first_token", "latent_shard", "latent_index"]
    samples = store.samples()
    (fingerprint,) = set(samples["fingerprint"].to_pylist())
    captions = set(samples["caption_hash"].to_pylist())
    return {
        "samples": samples.drop_columns([*places, *but]).to_pylist(),
        "rejects": store.rejects().drop_columns(["shard"]).to_pylist(),
        "fingerprints": store.fingerprints(),
        "encodings": {key: store.encoding(fingerprint, key).tobytes() for key in captions},
    }


def left_behind(store: EncodingStore) -> list[str]:
    """Claims and folders of shards that no commit names."""
    named = {shard.name for shard in list_shards(store)}
    return [
        *store.locks.held(),
        *(path.name for path in Path(str(store.path), "shards").iterdir() if path.name not in named),
    ]
