"""What is in a store: counts and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.io.names import shard_folder
from storage.io.paths import tree_size
from storage.schema import ShardInfo
from storage.store import EncodingStore

COLUMNS = ["fingerprint", "caption_hash", "encoding_shard", "token_count", "latent_key", "latent_shard", "source"]


def summarise(store: EncodingStore) -> dict[str, Any]:
    """Return counts and sizes of the version that the store shows, as plain JSON values."""
    snapshot = store.snapshot()
    rows = snapshot.read([*COLUMNS, "latent_shape"])
    samples = rows.filter(pc.is_valid(rows["source"]))
    shards = sorted(_names(rows["encoding_shard"]) | _names(rows["latent_shard"]))
    fingerprints = {key: _of_fingerprint(rows, samples, key) for key in store.fingerprints()}
    latents = rows.group_by(["latent_key", "latent_shape"]).aggregate([])
    captions = sum(entry["captions"] for entry in fingerprints.values())
    encoding_bytes = sum(store.size(f"shards/{shard}/encodings") for shard in shards)
    return {
        "path": str(store.path),
        "id": store.id,
        "version": snapshot.version,
        "samples": len(samples),
        "captions": captions,
        "tokens": sum(entry["tokens"] for entry in fingerprints.values()),
        "latents": pc.count_distinct(rows["latent_key"]).as_py(),
        "latent_shapes": _counts(latents["latent_shape"]),
        "sources": len(_names(samples["source"])),
        "repeats": len(snapshot.repeats()),
        "rejects": _counts(store.rejects()["reason"]),
        "shards": len(shards),
        "bytes": {
            "encodings": encoding_bytes,
            "latents": sum(store.size(f"shards/{shard}/latents") for shard in shards),
            "index": store.size("index", "rejects", "repeats", "fingerprints", "data"),
        },
        "bytes_per_caption": round(encoding_bytes / captions, 1) if captions else None,
        "fingerprints": fingerprints,
        "being_written": store.locks.held(),
    }


def list_shards(store: EncodingStore) -> list[ShardInfo]:
    """Return the shards that the store's version names, by name."""
    rows = store.snapshot().read([*COLUMNS, "first_token", "latent_index", "latent_shape", "shard"])
    encodings = rows.group_by(["encoding_shard", "fingerprint", "first_token"]).aggregate([("token_count", "min")])
    tokens = encodings.group_by("encoding_shard").aggregate([("token_count_min", "sum")])
    tokens_of = dict(zip(*(column.to_pylist() for column in tokens.columns), strict=True))
    latents = rows.group_by(["latent_shard", "latent_shape", "latent_index"]).aggregate([])
    encodings_of, latents_of = _counts(encodings["encoding_shard"]), _counts(latents["latent_shard"])
    samples_of = _counts(rows.filter(pc.is_valid(rows["source"]))["shard"])
    return [
        ShardInfo(
            name=name,
            samples=samples_of.get(name, 0),
            encodings=encodings_of.get(name, 0),
            tokens=tokens_of.get(name, 0),
            latents=latents_of.get(name, 0),
            bytes=tree_size(shard_folder(store.path, name)),
        )
        for name in sorted(encodings_of.keys() | latents_of.keys())
    ]


def _of_fingerprint(rows: pa.Table, samples: pa.Table, fingerprint: str) -> dict[str, int]:
    """Count samples of an encoder, its distinct captions, and the tokens of those."""
    ours = rows.filter(pc.equal(rows["fingerprint"], fingerprint))
    captions = ours["caption_hash"].combine_chunks().dictionary_encode()
    _, first = np.unique(captions.indices.to_numpy(), return_index=True)
    return {
        "samples": pc.sum(pc.equal(samples["fingerprint"], fingerprint)).as_py() or 0,
        "captions": len(first),
        "tokens": int(ours["token_count"].to_numpy()[first].sum()),
    }


def _names(column: pa.ChunkedArray) -> set[str]:
    return set(pc.unique(column.cast(pa.string())).drop_null().to_pylist())


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    counts = pc.value_counts(column.cast(pa.string()).drop_null())
    return {item["values"]: item["counts"] for item in counts.to_pylist()}
