"""Made-up rows of an index, the same at every call, and real commits of them, without arrays."""

from __future__ import annotations

import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import EncodingStore, Sample, content_hash
from storage.index.delta import DataFile, add_action, entry_of, now, remove_action
from storage.index.transaction import append
from storage.schema import INDEX, EncodingRef, LatentRef
from storage.writing.commit import ShardRows, commit_shard
from storage.writing.optimize import compact

SHARD_ROWS = 4096
HASHES = ("caption_hash", "image_hash", "latent_key")
BYTES = {"encodings": 671_000_000, "latents": 134_000_000, "all": 805_020_000}
"""Bytes of a shard's files, which are not there."""
WORDS = 12
"""Number of words of a caption, of 4 to 9 letters each."""


def shard_columns(fingerprint: str, shard: int, rows: int = SHARD_ROWS) -> pa.Table:
    """Return what a shard adds to the index; more rows than a shard's are of several, each with its own source."""
    random = np.random.default_rng(shard)
    parts = np.arange(rows) // SHARD_ROWS
    names = [shard_name(shard, part) for part in range(parts[-1] + 1)]
    sources = [content_hash(f"source {shard}{f'-{part}' if part else ''}".encode()) for part in range(len(names))]
    letters = np.frombuffer(random.bytes(2000), np.uint8) % 26 + ord("a")
    words = [letters[i : i + 4 + i % 6].tobytes().decode() for i in range(1000)]
    picked = random.integers(0, 1000, (WORDS, rows))
    counts = random.integers(10, 60, rows)
    constant = {"fingerprint": fingerprint, "latent_shape": "4x64x64"}
    columns: dict[str, object] = {key: pa.repeat(value, rows) for key, value in constant.items()}
    columns |= {key: pa.array(names).take(parts) for key in ("shard", "encoding_shard", "latent_shard")}
    columns["source"] = pa.array([f"{name[:16]}.parquet" for name in names]).take(parts)
    columns["source_hash"] = pa.array(sources).take(parts)
    columns |= {key: hash_column(shard, key, rows) for key in HASHES}
    columns |= {
        "caption": pc.binary_join_element_wise(*(pa.array(words).take(pa.array(each)) for each in picked), " "),
        "first_token": first_in_shard(counts, parts),
        "token_count": counts,
        "encoding_checksum": random.integers(0, 1 << 32, rows),
        "latent_index": np.arange(rows) % SHARD_ROWS,
        "latent_checksum": random.integers(0, 1 << 32, rows),
        "row": np.arange(rows) % SHARD_ROWS,
        "crop": pa.ListArray.from_arrays(np.arange(0, 4 * rows + 1, 4), np.tile([512, 384, 64, 0], rows)),
    }
    return pa.Table.from_pydict({key: columns[key] for key in INDEX.names}, INDEX)


def shard_name(shard: int, part: int) -> str:
    """Return the name of the shard of some of the rows."""
    return f"train-{shard:06}-{part:03}-{content_hash(f'shard {shard} {part}'.encode())[:12]}"


def first_in_shard(counts: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return where each row's tokens begin in its shard."""
    begins = np.cumsum(counts) - counts
    return begins - begins[np.flatnonzero(np.diff(parts, prepend=-1))][parts]


def hashes(shard: int, column: str, rows: int = SHARD_ROWS) -> list[str]:
    """Return a shard's hashes of one column."""
    found: list[str] = hash_column(shard, column, rows).to_pylist()
    return found


def hash_column(shard: int, column: str, rows: int) -> pa.Array:
    """Return a shard's hashes as a column."""
    text = np.random.default_rng([shard, HASHES.index(column)]).bytes(16 * rows).hex().encode()
    offsets = np.arange(0, len(text) + 1, 32, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def grow(store: EncodingStore, fingerprint: str, shard: int, rows: int = SHARD_ROWS) -> None:
    """Commit a shard's rows without a look whether they are there, and compact as every writer does."""
    table = shard_columns(fingerprint, shard, rows)
    sizes = dict.fromkeys(table["shard"].unique().to_pylist(), BYTES)
    with store.locks.committing():
        append(store.index, table["shard"][0].as_py(), lambda version: (table, [f"{fingerprint}/contents"]), sizes)
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
    return commit_rows(store, shard_rows(fingerprint, shard, rows))


def shard_rows(fingerprint: str, shard: int, rows: int = SHARD_ROWS) -> ShardRows:
    """Return what a shard's writer commits."""
    found = shard_columns(fingerprint, shard, rows).to_pylist()
    added = ShardRows(found[0]["shard"], bytes=BYTES)
    for row in found:
        key = fingerprint, row["caption_hash"]
        added.encodings[key] = EncodingRef(*(row[name] for name in ENCODING))
        added.latents[row["latent_key"]] = LatentRef(*(row[name] for name in LATENT))
        sample = Sample(**{name: row[name] for name in SAMPLE})
        added.samples[fingerprint, sample.source_hash, sample.row, sample.caption_hash] = sample
    return added


def commit_rows(store: EncodingStore, added: ShardRows) -> tuple[float, float]:
    """Commit a shard's rows, and compact; return seconds and CPU seconds of the commit."""
    start, cpu = time.perf_counter(), time.thread_time()
    commit_shard(store, added)
    taken = time.perf_counter() - start, time.thread_time() - cpu
    compact(store)
    return taken


ENCODING = ("encoding_shard", "first_token", "token_count", "encoding_checksum")
LATENT = ("latent_shard", "latent_index", "latent_shape", "latent_checksum")
SAMPLE = tuple(Sample.__dataclass_fields__)
