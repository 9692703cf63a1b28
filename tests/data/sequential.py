"""A shard encoded one step after the other in one thread: what `encode_shard` has to give, bit for bit."""

from __future__ import annotations

from itertools import islice

import numpy as np

from llmdiff.data.encode import EncoderSet, as_bits, encode_finite
from llmdiff.data.encode.captions import reject
from llmdiff.data.encode.reading import ROWS_AT_ONCE
from llmdiff.data.images import load_image
from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import Row, SourceShard
from storage import EncodingStore, Repeat, Sample, ShardWriter, caption_hash, content_hash


def encode_in_turn(store: EncodingStore, source: SourceShard, encoders: EncoderSet) -> None:
    """Encode all rows of a shard into a store that knows none of them."""
    rows = source.rows()
    with ShardWriter(store, "in-turn", encoders.fingerprint) as writer:
        written: set[str] = set()
        samples: set[tuple[str, str]] = set()
        failed: dict[str, BadRow] = {}
        while chunk := list(islice(rows, ROWS_AT_ONCE)):
            encode_chunk(writer, source, encoders, chunk, written, failed, samples)


def encode_chunk(
    writer: ShardWriter,
    source: SourceShard,
    encoders: EncoderSet,
    chunk: list[tuple[int, Row | BadRow]],
    written: set[str],
    failed: dict[str, BadRow],
    samples: set[tuple[str, str]],
) -> None:
    assert encoders.latents is not None
    loaded = []
    for number, row in chunk:
        try:
            if isinstance(row, BadRow):
                raise row
            assert isinstance(row.image, bytes)
            loaded.append((row, *load_image(row.image, encoders.latents.size, min_side=encoders.latents.min_side)))
        except BadRow as bad:
            writer.reject(reject(source.name, source.content_hash, number, bad, encoders.fingerprint))
    captions = {caption_hash(row.caption): row.caption for row, *_ in loaded}
    new = {key: text for key, text in captions.items() if key not in written and key not in failed}
    for key, encoding in encode_finite(encoders.encoder, new):
        if isinstance(encoding, BadRow):
            failed[key] = encoding
        else:
            writer.add_encoding(key, as_bits(encoding))
            written.add(key)
    for start in range(0, len(loaded), encoders.latents.encoder.at_once):
        batch = loaded[start : start + encoders.latents.encoder.at_once]
        squares = {encoders.latents.key(content_hash(row.image)): square for row, square, _ in batch}
        squares = {key: square for key, square in squares.items() if key not in written}
        if squares:
            latents = encoders.latents.encoder(np.stack(list(squares.values()))).numpy()
            for key, latent in zip(squares, latents, strict=True):
                writer.add_latent(key, latent)
            written.update(squares)
    for row, _, crop in loaded:
        key = caption_hash(row.caption)
        if key in failed:
            writer.reject(reject(source.name, source.content_hash, row.row, failed[key], encoders.fingerprint))
            continue
        of_image = content_hash(row.image)
        if (of_image, key) in samples:
            place = {"source": source.name, "source_hash": source.content_hash, "row": row.row}
            writer.add_repeat(Repeat(fingerprint=encoders.fingerprint, caption_hash=key, image_hash=of_image, **place))
            continue
        samples.add((of_image, key))
        writer.add_sample(
            Sample(
                caption=row.caption,
                caption_hash=key,
                image_hash=of_image,
                latent_key=encoders.latents.key(of_image),
                fingerprint=encoders.fingerprint,
                source=source.name,
                source_hash=source.content_hash,
                row=row.row,
                crop=crop,
            )
        )
