"""What the page shows of a store's newest version: samples with their pictures, rejects, sources, nearest captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.training.data.stored_encodings import iterate_encodings
from storage import EncodingStore
from storage.index.snapshot import Snapshot
from storage.io.arrays import check_row, is_pair, open_array, read_rows
from storage.io.names import shard_folder
from storage.maintenance.summary import list_shards
from storage.schema import INDEX

PAGE = 24
"""Samples shown at once."""
COMPARED = 4096
"""Number of captions that a prompt is compared with at most."""
COLUMNS = (
    *("caption", "caption_hash", "source", "row", "crop", "token_count", "fingerprint"),
    *("latent_key", "latent_shard", "latent_shape", "latent_index", "latent_checksum"),
)


def find_samples(snapshot: Snapshot, words: str = "", fingerprint: str | None = None) -> pa.Table:
    """Return the samples whose captions hold all the words, in any case, ordered by source and row."""
    wanted = pc.field("source").is_valid()
    if fingerprint:
        wanted &= pc.field("fingerprint") == fingerprint
    for word in words.split():
        wanted &= pc.match_substring(pc.field("caption"), word, ignore_case=True)
    rows = snapshot.read(COLUMNS, wanted).cast(pa.schema([INDEX.field(name) for name in COLUMNS]))
    return rows.sort_by([(name, "ascending") for name in ("source", "row", "fingerprint")])


def decode_pictures(
    store: EncodingStore, rows: Sequence[dict[str, Any]], latent_encoder: LatentEncoder
) -> dict[str, Image.Image]:
    """Return the pictures of samples by the keys of their latents; a picture with its mirror image comes alone.

    Raises:
        ValueError: a latent is not as it was committed, or is of another autoencoder's shape.
    """
    latents = {row["latent_key"]: read_latent(store, row) for row in rows if row["latent_key"] is not None}
    return {key: Image.fromarray(latent_encoder.decode(latent[None])[0]) for key, latent in latents.items()}


def read_latent(store: EncodingStore, row: dict[str, Any]) -> torch.Tensor:
    """Return a sample's latent ``(channel, height, width)`` float16."""
    shard, shape, index = row["latent_shard"], row["latent_shape"], row["latent_index"]
    array = open_array(shard_folder(store.path, shard), f"latents/{shape}")
    bits = read_rows(array, index, index + 1)[0]
    check_row(bits, row["latent_checksum"], f"{store.path}: {shard}/latents/{shape}: row {index}")
    return torch.from_numpy(bits[0] if is_pair(shape) else bits)


def describe_sample(row: dict[str, Any]) -> str:
    """Return a sample's caption, and below it where it is from, its length and its crop."""
    facts = [f"{row['source']} row {row['row']}", f"{row['token_count']} tokens", cut(row)]
    return f"{row['caption']}\n{' · '.join(filter(None, facts))}"


def cut(row: dict[str, Any]) -> str:
    """Return a sample's size in the data and where its latent was cut from it; empty for a caption alone."""
    if (crop := row["crop"]) is None:
        return ""
    width, height, left, top = crop
    return f"{width}x{height} pixels, cut at {left},{top}"


def sources(store: EncodingStore) -> list[list[Any]]:
    """Return a row a source: its name, samples, distinct captions, tokens, latents, rejects, bytes of its shards."""
    rows = store.snapshot().read(
        ["source", "caption_hash", "token_count", "latent_key", "shard"], pc.field("source").is_valid()
    )
    rows = rows.cast(pa.schema([INDEX.field(name) for name in rows.column_names]))
    counted = rows.group_by("source").aggregate(
        [("caption_hash", "count"), ("caption_hash", "count_distinct"), ("token_count", "sum")]
        + [("latent_key", "count_distinct"), ("shard", "distinct")]
    )
    of_shard = {shard.name: shard.bytes for shard in list_shards(store)}
    refused = _counts(store.rejects()["source"])
    found = {
        row["source"]: [
            row["caption_hash_count"],
            row["caption_hash_count_distinct"],
            row["token_count_sum"],
            row["latent_key_count_distinct"],
            refused.get(row["source"], 0),
            sum(of_shard.get(shard, 0) for shard in row["shard_distinct"]),
        ]
        for row in counted.to_pylist()
    }
    nothing = {source: [0, 0, 0, 0, count, 0] for source, count in refused.items() if source not in found}
    return [[source, *numbers] for source, numbers in sorted({**found, **nothing}.items())]


def nearest(
    store: EncodingStore, fingerprint: str, encoding: torch.Tensor, count: int = PAGE
) -> list[tuple[float, dict[str, Any]]]:
    """Return the samples whose captions' encodings are nearest to one, with their cosines, the nearest first.

    Compared are means over tokens, after the mean of all is taken away, which every caption of an LLM has in common.

    Args:
        store: the store; of a large one, the first `COMPARED` captions are compared.
        fingerprint: of the encoder.
        encoding: ``([band,] token, hidden)`` of a prompt.
        count: how many to return.

    Raises:
        ValueError: the store holds no encoding under this fingerprint.
    """
    rows = {row["caption_hash"]: row for row in find_samples(store.snapshot(), "", fingerprint).to_pylist()}
    refs = store.snapshot().encodings(fingerprint, list(rows)[:COMPARED])
    if not refs:
        raise ValueError(f"{store.path}: no caption under {fingerprint}, the adapter's encoder: choose its store")
    hashes = sorted(refs, key=lambda key: (refs[key].shard, refs[key].first_token))
    means = torch.stack([mean_of(each) for each in iterate_encodings(store, fingerprint, hashes)])
    centre = means.mean(0)
    cosines = torch.cosine_similarity(means - centre, (mean_of(encoding) - centre)[None])
    best = cosines.topk(min(count, len(hashes)))
    return [(float(cosine), rows[hashes[i]]) for cosine, i in zip(best.values, best.indices.tolist(), strict=True)]


def mean_of(encoding: torch.Tensor) -> torch.Tensor:
    """Return the mean over tokens: ``([band,] token, hidden)`` -> ``(band * hidden,)`` float32."""
    return encoding.float().mean(-2).flatten()


def encoders(store: EncodingStore) -> dict[str, str]:
    """Return the fingerprints of the encoders that samples have, the one of most samples first, and what to call each.

    That is its model and the first signs of its fingerprint.
    """
    counts = _counts(store.snapshot().read(["fingerprint"], pc.field("source").is_valid())["fingerprint"])
    known = store.fingerprints()
    return {name: f"{model_of(known[name])} · {name[:8]}" for name in sorted(counts, key=lambda name: -counts[name])}


def model_of(description: dict[str, Any]) -> str:
    """Return the class of an encoder's model, and what it reads where that is not the scores."""
    model = description.get("llm", {}).get("class") or description.get("model") or description.get("kind", "encoder")
    reading = description.get("reading")
    return f"{model}, {reading}" if reading else str(model)


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    counted = pc.value_counts(column.cast(pa.string()).drop_null())
    return {item["values"]: item["counts"] for item in counted.to_pylist()}
