"""Made-up encoders, sources and shards, the same at every call, to compare a store with what should be in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from storage import EncodingStore, Reject, Sample, ShardWriter, caption_hash, content_hash
from storage.io.arrays import check_row, open_array, read_rows
from storage.io.names import shard_folder

HIDDEN = 16
LLM = {"kind": "llm", "bands": 1, "g": [1.0, 1.0]}
BASE = {"kind": "base"}


def rng(*key: object) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(repr(key).encode()).digest()))


def encoding(caption: str, width: int = HIDDEN, longest: int = 40) -> np.ndarray:
    """uint16 ``(token, width)``: what an encoder would make of a caption."""
    random = rng(caption, width)
    values = random.normal(size=(random.integers(1, longest), width)).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)  # the upper half is a bfloat16


def latent(image: str, shape: tuple[int, ...] = (4, 8, 8)) -> np.ndarray:
    return rng(image, shape).normal(size=shape).astype(np.float16)


def sample(fingerprint: str, source: str, row: int, caption: str) -> Sample:
    return Sample(
        caption=caption,
        caption_hash=caption_hash(caption),
        fingerprint=fingerprint,
        source=f"{source}.parquet",
        source_hash=content_hash(source.encode()),
        row=row,
        image_hash=content_hash(f"{source}/{row}".encode()),
        latent_key=latent_key(source, row),
        crop=(64, 48, 8, 0),
    )


def reject(fingerprint: str, source: str, row: int) -> Reject:
    return Reject(
        source=f"{source}.parquet",
        source_hash=content_hash(source.encode()),
        row=row,
        reason="empty_caption",
        detail="the caption is empty",
        fingerprint=fingerprint,
    )


def latent_key(source: str, row: int) -> str:
    return content_hash(f"latent of {source}/{row}".encode())


def caption(source: str, row: int) -> str:
    """Every fourth row's caption is one that all sources share."""
    return f"shared caption {row}" if row % 4 == 0 else f"caption {row} of {source}"


def encode(
    store: EncodingStore,
    fingerprint: str,
    source: str,
    rows: Iterable[int] = range(20),
    shard: str | None = None,
    base: str | None = None,
) -> int:
    """What an encode does: skips what is known, rejects every seventh row; returns how many rows it took on."""
    done = store.snapshot().known_rows(fingerprint, content_hash(source.encode()))
    new = [row for row in rows if row not in done]
    if not new:
        return 0
    known = store.snapshot().encodings(fingerprint, [caption_hash(caption(source, row)) for row in new])
    with ShardWriter(store, shard, fingerprint) as writer:
        for row in new:
            if row % 7 == 6:
                writer.reject(reject(fingerprint, source, row))
                continue
            text = caption(source, row)
            if caption_hash(text) not in known:
                writer.add_encoding(caption_hash(text), encoding(text))
            if base is not None:
                writer.add_encoding(caption_hash(text), encoding(text, width=8, longest=5), base)
            writer.add_latent(latent_key(source, row), latent(f"{source}/{row}"))
            writer.add_sample(sample(fingerprint, source, row, text))
    return len(new)


def rows_of(store: EncodingStore, fingerprint: str) -> list[tuple[str, int, str]]:
    """Source, row and caption of each sample, one entry each time it is there."""
    table = store.samples(fingerprint)
    columns = (table[name].to_pylist() for name in ("source", "row", "caption"))
    return sorted(zip(*columns, strict=True))


def expected_rows(source: str, rows: Iterable[int] = range(20)) -> list[tuple[str, int, str]]:
    return [(f"{source}.parquet", row, caption(source, row)) for row in rows if row % 7 != 6]


def check_encodings(store: EncodingStore, fingerprint: str, captions: Iterable[str]) -> None:
    """Each caption's encoding is what the encoder made of it; every array is opened once, unlike `store.encoding`."""
    hashes = {caption_hash(text): text for text in captions}
    refs = store.snapshot().encodings(fingerprint, list(hashes))
    shards = {ref.shard for ref in refs.values()}
    arrays = {shard: open_array(shard_folder(store.path, shard), f"encodings/{fingerprint}") for shard in shards}
    for key, text in hashes.items():
        ref = refs[key]
        bits = read_rows(arrays[ref.shard], ref.first_token, ref.first_token + ref.token_count)
        check_row(bits, ref.checksum, text)
        np.testing.assert_array_equal(bits, encoding(text))


def make_store(path: Path | str) -> tuple[EncodingStore, str]:
    store = EncodingStore.create(path)
    return store, store.register_fingerprint(LLM)
