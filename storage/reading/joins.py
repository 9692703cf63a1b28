"""Looks up where the samples' captions lie under another encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.index.hash_numbers import HASH, hash_numbers
from storage.index.names import Names
from storage.reading.hashes import HashParts, same
from storage.reading.sorting import in_parts
from storage.store import EncodingStore

SAMPLE = np.dtype([("hash", HASH), ("sample", "<i8")])
COLUMNS = ("caption_hash", "encoding_shard", "first_token", "token_count", "encoding_checksum")


def join(store: EncodingStore, fingerprint: str, kind: str, records: np.ndarray, folder: Path) -> list[str]:
    """Write where each sample's caption lies under another encoder into a field of the records.

    Samples and encodings are both dealt to parts by the caption's hash, and each part is joined in memory.

    Args:
        store: at the version to read.
        fingerprint: the other encoder.
        kind: the field, ``base`` or ``pooled``, which an error names.
        records: of the samples, sorted.
        folder: for temporary files.

    Returns:
        The shards that the field's ``place`` counts.

    Raises:
        ValueError: a caption has no such encoding.
    """
    encoding = np.dtype([("hash", HASH), ("rows", records.dtype[kind])])
    temporary = folder / "join"
    temporary.mkdir()
    samples = HashParts(temporary / "samples", SAMPLE, len(records))
    for start, part in in_parts(records):
        rows = np.empty(len(part), SAMPLE)
        rows["hash"], rows["sample"] = part["hash"], np.arange(start, start + len(part))
        samples.add(rows)
    encodings, shards = HashParts(temporary / "encodings", encoding, len(records)), Names()
    for group in store.snapshot().stream(COLUMNS, fingerprint):  # in order: of equal ones the first counts
        there = group.filter(pc.is_valid(group["encoding_shard"])).combine_chunks()
        rows = np.empty(len(there), encoding)
        rows["hash"] = hash_numbers(_whole(there["caption_hash"]))
        rows["rows"]["place"] = shards.numbers(_whole(there["encoding_shard"]))
        for name, column in (("first", "first_token"), ("count", "token_count"), ("checksum", "encoding_checksum")):
            rows["rows"][name] = there[column].to_numpy()
        encodings.add(rows)
    missing, first = 0, len(records)
    for of_samples, of_encodings in zip(samples.arrays(), encodings.arrays(), strict=True):
        found, places = _look_up(of_encodings["hash"], of_samples["hash"])
        records[kind][of_samples["sample"][found]] = of_encodings["rows"][places[found]]
        missing += int((~found).sum())
        first = int(of_samples["sample"][~found].min(initial=first))
    shutil.rmtree(temporary)
    if missing:
        raise ValueError(
            f"{store.path}: {missing} of {len(records)} samples have no encoding under the {kind} "
            f"fingerprint {fingerprint}; caption {records['hash'][first].tobytes().hex()} is the first: "
            "encode again with --diffusion of that base"
        )
    return shards.values


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks else column.combine_chunks()


def _look_up(known: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which of some sorted hashes are among others that are sorted, and the first place of each there."""
    merged = np.concatenate([known, wanted])
    order = np.lexsort((merged[:, 1], merged[:, 0]))  # stable: of equal ones the known come first
    begins = np.flatnonzero(~same(merged[order]))
    first = np.empty(len(merged), np.int64)
    first[order] = np.repeat(order[begins], np.diff(np.append(begins, len(merged))))
    first = first[len(known) :]
    return first < len(known), first
