"""What is in a store: counts and sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.claims import claimed
from storage.files import folder_size
from storage.records import ShardInfo

if TYPE_CHECKING:
    from storage.store import EncodingStore

COLUMNS = ["fingerprint", "caption_hash", "encoding_shard", "token_count", "latent_key", "latent_shard", "source"]


def summarise(store: EncodingStore) -> dict[str, Any]:
    """Counts and sizes of the version that the store shows, as plain JSON values."""
    snapshot = store.snapshot()
    rows = store.index.read(snapshot, COLUMNS)
    encodings = _encodings(rows)
    samples = rows.filter(pc.is_valid(rows["source"]))
    shards = sorted(_names(rows["encoding_shard"]) | _names(rows["latent_shard"]))
    encoding_bytes = sum(store.size(f"shards/{shard}/encodings") for shard in shards)
    return {
        "path": str(store.path),
        "version": snapshot.version,
        "samples": len(samples),
        "captions": len(encodings),
        "tokens": pc.sum(encodings["token_count"]).as_py() or 0,
        "latents": pc.count_distinct(rows["latent_key"]).as_py(),
        "sources": pc.count_distinct(samples["source"]).as_py(),
        "rejects": _counts(store.rejects()["reason"]),
        "shards": len(shards),
        "bytes": {
            "encodings": encoding_bytes,
            "latents": sum(store.size(f"shards/{shard}/latents") for shard in shards),
            "index": store.size("index", "rejects", "fingerprints"),
        },
        "bytes_per_caption": round(encoding_bytes / len(encodings), 1) if len(encodings) else None,
        "fingerprints": {key: _of_fingerprint(store, key, encodings, samples) for key in store.fingerprints()},
        "being_written": claimed(store.path / "writing"),
    }


def list_shards(store: EncodingStore) -> list[ShardInfo]:
    """The shards that the store's version names, by name."""
    rows = store.index.read(store.snapshot(), [*COLUMNS, "shard"])
    encodings = _encodings(rows)
    latents = rows.group_by("latent_key").aggregate([("latent_shard", "min")])
    samples = _counts(rows.filter(pc.is_valid(rows["source"]))["shard"])
    per_shard = _counts(encodings["encoding_shard"])
    tokens = encodings.group_by("encoding_shard").aggregate([("token_count", "sum")])
    tokens_of = dict(zip(tokens["encoding_shard"].to_pylist(), tokens["token_count_sum"].to_pylist(), strict=True))
    latents_of = _counts(latents["latent_shard_min"])
    names = _names(rows["encoding_shard"]) | _names(rows["latent_shard"])
    return [
        ShardInfo(
            name=name,
            samples=samples.get(name, 0),
            encodings=per_shard.get(name, 0),
            tokens=tokens_of.get(name, 0),
            latents=latents_of.get(name, 0),
            bytes=folder_size(store.path / "shards" / name),
        )
        for name in sorted(names)
    ]


def _encodings(rows: pa.Table) -> pa.Table:
    """A row a caption and fingerprint."""
    rows = rows.filter(pc.is_valid(rows["caption_hash"]))
    grouped = rows.group_by(["fingerprint", "caption_hash"])
    table = grouped.aggregate([("token_count", "min"), ("encoding_shard", "min")])
    return table.rename_columns(["fingerprint", "caption_hash", "token_count", "encoding_shard"])


def _of_fingerprint(store: EncodingStore, key: str, encodings: pa.Table, samples: pa.Table) -> dict[str, Any]:
    ours = encodings.filter(pc.equal(encodings["fingerprint"], key))
    return {
        "samples": len(samples.filter(pc.equal(samples["fingerprint"], key))),
        "captions": len(ours),
        "tokens": pc.sum(ours["token_count"]).as_py() or 0,
    }


def _names(column: pa.ChunkedArray) -> set[str]:
    return set(pc.unique(column.drop_null()).to_pylist())


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(column.drop_null()).to_pylist()}
