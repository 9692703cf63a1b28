"""Made-up rows of an index, the same at every call, and real commits of them, without arrays."""

from __future__ import annotations

import json
import time

import numpy as np
import pyarrow as pa

from storage import EncodingStore, Sample, content_hash
from storage.index.delta import DataFile, add_action, entry_of, now, remove_action
from storage.index.transaction import append
from storage.schema import INDEX, EncodingRef, LatentRef
from storage.writing.commit import ShardRows, commit_shard
from storage.writing.optimize import compact

SHARD_ROWS = 4096
HASHES = ("caption_hash", "image_hash", "latent_key")
WORDS = 12
"""Of a caption; of 4 to 9 letters."""


def shard_columns(fingerprint: str, shard: int, rows: int = SHARD_ROWS) -> pa.Table:
    """Return what a shard adds to the index."""
    random = np.random.default_rng(shard)
    name = f"train-{shard:06}-{content_hash(f'shard {shard}'.encode())[:12]}"
    source = content_hash(f"source {shard}".encode())
    letters = np.frombuffer(random.bytes(2000), np.uint8) % 26 + ord("a")
    words = [letters[i : i + 4 + i % 6].tobytes().decode() for i in range(1000)]
    picked = random.integers(0, 1000, (rows, WORDS)).tolist()
    counts = random.integers(10, 60, rows)
    constant = {"fingerprint": fingerprint, "encoding_shard": name, "latent_shard": name, "latent_shape": "4x64x64"}
    constant |= {"source": f"train-{shard:06}.parquet", "source_hash": source, "shard": name}
    columns: dict[str, object] = {key: [value] * rows for key, value in constant.items()}
    columns |= {key: hashes(shard, key, rows) for key in HASHES}
    columns |= {
        "caption": [" ".join(words[i] for i in row) for row in picked],
        "first_token": np.cumsum(counts) - counts,
        "token_count": counts,
        "encoding_checksum": random.integers(0, 1 << 32, rows),
        "latent_index": np.arange(rows),
        "latent_checksum": random.integers(0, 1 << 32, rows),
        "row": np.arange(rows),
        "crop": [[512, 384, 64, 0]] * rows,
    }
    return pa.Table.from_pydict({key: columns[key] for key in INDEX.names}, INDEX)


def hashes(shard: int, column: str, rows: int = SHARD_ROWS) -> list[str]:
    """Return a shard's hashes of one column."""
    text = np.random.default_rng([shard, HASHES.index(column)]).bytes(16 * rows).hex()
    return [text[i : i + 32] for i in range(0, len(text), 32)]


def grow(store: EncodingStore, fingerprint: str, shard: int, rows: int = SHARD_ROWS) -> None:
    """Commit a shard's rows without a look whether they are there, and compact as every writer does."""
    table = shard_columns(fingerprint, shard, rows)
    with store.locks.committing():
        append(store.index, table["shard"][0].as_py(), lambda version: (table, [f"{fingerprint}/contents"]))
    compact(store)


def age(store: EncodingStore, commits: int) -> None:
    """Give the index the log that so many commits leave, whose files were merged since and are not there."""
    log, held = store.index.log, []
    for version in range(store.version + 1, commits + 1):
        file = DataFile(f"old-{content_hash(str(version).encode())}.parquet", 1, 1000, now(), 0)
        stats = json.dumps({"numRecords": 1})
        actions = [add_action(file, stats)] if len(held) < 31 else [remove_action(each, False) for each in held]
        held = [*held, file] if len(held) < 31 else []
        log.entry(version).write_bytes(entry_of(actions, [file.name.removesuffix(".parquet"), "encoder/contents"], {}))
        if version % 10_000 == 0:
            log.checkpoint()
    if held:
        removed = entry_of([remove_action(each, False) for each in held], ["merged"], {})
        log.entry(commits + 1).write_bytes(removed)
    log.checkpoint()


def commit(store: EncodingStore, fingerprint: str, shard: int, rows: int = SHARD_ROWS) -> tuple[float, float]:
    """Commit a shard's rows as `ShardWriter` does, and compact; return seconds and CPU seconds of the commit."""
    found = shard_columns(fingerprint, shard, rows).to_pylist()
    added = ShardRows(found[0]["shard"])
    for row in found:
        key = fingerprint, row["caption_hash"]
        added.encodings[key] = EncodingRef(*(row[name] for name in ENCODING))
        added.latents[row["latent_key"]] = LatentRef(*(row[name] for name in LATENT))
        sample = Sample(**{name: row[name] for name in SAMPLE})
        added.samples[fingerprint, sample.source_hash, sample.row, sample.caption_hash] = sample
    start, cpu = time.perf_counter(), time.thread_time()
    commit_shard(store, added)
    taken = time.perf_counter() - start, time.thread_time() - cpu
    compact(store)
    return taken


ENCODING = ("encoding_shard", "first_token", "token_count", "encoding_checksum")
LATENT = ("latent_shard", "latent_index", "latent_shape", "latent_checksum")
SAMPLE = tuple(Sample.__dataclass_fields__)
