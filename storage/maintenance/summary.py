"""A summary of a store: counts and sizes."""

from __future__ import annotations

from collections import Counter
from typing import Any

from storage.maintenance.counts import counts_of
from storage.maintenance.rejects import count_rows, open_rejects
from storage.schema import ShardInfo
from storage.store import EncodingStore


def summarise(store: EncodingStore) -> dict[str, Any]:
    """Return counts and sizes of the version that the store shows, as plain JSON values; see `counts_of`.

    ``captions`` are those that have an encoding; one that two writers encoded at once has two, and counts as two.
    """
    counts = counts_of(store)
    samples, encodings, tokens = (counts.total(what) for what in ("samples", "encodings", "tokens"))
    latents, sizes = counts.total("latents"), counts.total("bytes")
    named = [name for name, shard in counts.shards.items() if shard.encodings or shard.latents]
    captions = encodings.total()
    return {
        "path": str(store.path),
        "id": store.id,
        "version": store.version,
        "samples": samples.total(),
        "captions": captions,
        "tokens": tokens.total(),
        "latents": latents.total(),
        "latent_shapes": dict(latents),
        "sources": len(counts.sources),
        "repeats": _repeats(store),
        "rejects": dict(Counter(reason for batch in open_rejects(store) for reason in batch["reason"].to_pylist())),
        "shards": len(named),
        "bytes": {
            "encodings": sizes["encodings"],
            "latents": sizes["latents"],
            "index": store.size("index", "rejects", "repeats", "fingerprints", "data"),
        },
        "bytes_per_caption": round(sizes["encodings"] / captions, 1) if captions else None,
        "fingerprints": {
            key: {"samples": samples[key], "captions": encodings[key], "tokens": tokens[key]}
            for key in store.fingerprints()
        },
        "being_written": store.locks.held(),
    }


def _repeats(store: EncodingStore) -> int:
    return count_rows(store.repeat_table, store.repeat_table.newest()) if store.is_up_to_date else 0


def list_shards(store: EncodingStore) -> list[ShardInfo]:
    """Return the shards that the store's version names, by name."""
    return [
        ShardInfo(
            name=name,
            samples=sum(shard.samples.values()),
            encodings=sum(shard.encodings.values()),
            tokens=sum(shard.tokens.values()),
            latents=sum(shard.latents.values()),
            bytes=shard.bytes.get("all", 0),
        )
        for name, shard in sorted(counts_of(store).shards.items())
        if shard.encodings or shard.latents
    ]
