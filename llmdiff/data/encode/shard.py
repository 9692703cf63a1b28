"""Encodes a source shard into the store: rows in; encodings, latents, samples and rejects out, in one commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np

from llmdiff.data.encode.captions import as_bits, encode_finite, reject, shard_id
from llmdiff.data.encode.encoder_set import EncoderSet, LatentEncoding
from llmdiff.data.encode.repeats import Repeats
from llmdiff.data.encode.shard_report import ShardReport
from llmdiff.data.fetch import fetch_pictures
from llmdiff.data.images import Crop, load_image
from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import Row, SourceShard
from storage import EncodingStore, Sample, ShardWriter, caption_hash, content_hash

T = TypeVar("T")

ROWS_AT_ONCE = 256
"""Rows whose pictures are held in memory together, and whose captions the encoder sorts into batches."""
PICTURES_AT_ONCE = 16
"""Pictures that the autoencoder takes at once."""
TRY_AGAIN = ("no_answer",)
"""Reasons that may have gone by the next run; the others are final."""
EXAMPLES = 5
"""Refused rows of a shard that its report spells out; the store's rejects have them all."""


def encode_shard(
    store: EncodingStore, source: SourceShard, encoders: EncoderSet, progress: Callable[[int], None] = lambda rows: None
) -> ShardReport:
    """Encodes every row of a shard that the store does not know, as one commit; nothing where it knows them all.

    A row is known by its shard's content and its number, without a look at it, or by its picture and caption.

    Args:
        store: opened for writing.
        source: the shard.
        encoders: what `prepare` returned for this store.
        progress: called with the number of rows done.

    Raises:
        ValueError: the shard can't be read, or has pictures and the encoders no autoencoder. No row of it is committed
            then.
        OSError: the disk is full, or the store can't be written.
    """
    start = time.perf_counter()
    if source.has_pictures and encoders.latents is None:
        raise ValueError(f"{source.name}: expected captions alone, for there is no autoencoder; found pictures")
    snapshot = store.snapshot()
    samples = snapshot.sample_rows(encoders.fingerprint, source.content_hash)
    repeated = snapshot.repeat_rows(encoders.fingerprint, source.content_hash)
    bad = snapshot.reject_rows(encoders.fingerprint, source.content_hash, besides=TRY_AGAIN)
    known = samples | repeated | bad
    report = ShardReport(
        source=source.name,
        source_hash=source.content_hash,
        rows=source.count,
        known=len(known),
        known_bad=len(bad - samples - repeated),
    )
    progress(report.known)
    if report.known < report.rows:
        before = getattr(encoders.encoder, "truncated", 0)
        with ShardWriter(store, shard_id(source.name), encoders.fingerprint) as writer:
            encoder = RowEncoder(store, writer, source, encoders, report, progress)
            new = ((number, row) for number, row in source.rows() if number not in known)
            for rows in _chunks(new, ROWS_AT_ONCE):
                encoder.encode(rows)
        report.known, report.samples = report.known + writer.left_out, report.samples - writer.left_out
        report.truncated = getattr(encoders.encoder, "truncated", 0) - before
        report.unread = source.unread
    report.seconds = time.perf_counter() - start
    return report


class Picture(NamedTuple):
    """A picture ready for the autoencoder."""

    hash: str
    """Of its bytes."""
    latent_key: str
    square: np.ndarray
    crop: Crop


@dataclass
class RowEncoder:
    """Encodes rows into the shard that `writer` is writing, each caption and picture once."""

    store: EncodingStore
    writer: ShardWriter
    source: SourceShard
    encoders: EncoderSet
    report: ShardReport
    progress: Callable[[int], None]
    written: set[Any] = field(default_factory=set)
    """Keys of latents; fingerprints and hashes of encodings."""
    failed: dict[str, BadRow] = field(default_factory=dict)
    last: tuple[bytes, Picture | BadRow] = (b"", BadRow("no_image", "expected a picture, found no bytes"))

    def __post_init__(self) -> None:
        self.repeats = Repeats(self.store, self.writer, self.source, self.encoders.fingerprint, self.report)

    def encode(self, rows: Sequence[tuple[int, Row | BadRow]]) -> None:
        """Pictures are read first, so that no caption is encoded for a row that is refused."""
        new = self.repeats.without_known(fetch_pictures(rows))
        loaded = [usable for number, row in new if (usable := self.load(number, row)) is not None]
        self.progress(len(rows) - len(loaded))
        self.add_encodings({caption_hash(row.caption): row.caption for row, _ in loaded})
        keys = {picture.latent_key for _, picture in loaded if picture is not None}
        known = self.store.snapshot().latents(keys).keys() if keys else set()  # once for all: it reads the whole index
        for batch in _chunks(loaded, PICTURES_AT_ONCE):
            pictures = [picture for _, picture in batch if picture is not None]
            self.add_latents({new.latent_key: new.square for new in pictures if new.latent_key not in known})
            for row, picture in batch:
                self.add_sample(row, picture)
            self.progress(len(batch))

    def load(self, number: int, row: Row | BadRow) -> tuple[Row, Picture | None] | None:
        """The row with its picture's pixels, where it has one; None where it is refused."""
        if isinstance(row, BadRow):
            self.reject(number, row)
            return None
        picture = self.picture(row.image) if isinstance(row.image, bytes) else None
        if isinstance(picture, BadRow):
            self.reject(number, picture, row.place)
            return None
        return row, picture

    def picture(self, data: bytes) -> Picture | BadRow:
        """The picture, or why it can't be used; decoded once for rows of one picture that follow each other."""
        if data != self.last[0]:
            assert self.encoders.latents is not None  # `encode_shard` looked
            self.last = data, load_picture(data, self.encoders.latents)
        return self.last[1]

    def add_encodings(self, captions: dict[str, str]) -> None:
        """Encodes and writes captions by hash, but for those that the store or this shard has."""
        for text_encoding in self.encoders.of_captions:
            fingerprint = text_encoding.fingerprint
            known = self.store.snapshot().encodings(fingerprint, list(captions)).keys() | self.failed.keys()
            new = {
                key: text
                for key, text in captions.items()
                if key not in known and (fingerprint, key) not in self.written
            }
            for key, encoding in encode_finite(text_encoding.encoder, new):
                if isinstance(encoding, BadRow):
                    self.failed[key] = encoding
                    continue
                bits = as_bits(encoding)
                self.writer.add_encoding(key, bits, fingerprint)
                self.written.add((fingerprint, key))
                if text_encoding is self.encoders:
                    self.report.captions += 1
                    self.report.tokens += len(bits)

    def add_latents(self, squares: dict[str, np.ndarray]) -> None:
        """Encodes and writes pictures by latent key, but for those that this shard has."""
        new = {key: square for key, square in squares.items() if key not in self.written}
        if not new:
            return
        assert self.encoders.latents is not None
        latents = self.encoders.latents.encoder(np.stack(list(new.values()))).cpu().numpy()
        for key, latent in zip(new, latents, strict=True):
            self.writer.add_latent(key, latent)
        self.written.update(new)
        self.report.latents += len(new)

    def add_sample(self, row: Row, picture: Picture | None) -> None:
        """Adds a row to the index; or to the rejects, where its caption's encoding failed."""
        of_caption = caption_hash(row.caption)
        if of_caption in self.failed:
            self.reject(row.row, self.failed[of_caption], row.place)
            return
        if self.repeats.is_repeat(row.row, (picture and picture.hash, of_caption)):
            return
        self.writer.add_sample(
            Sample(
                caption=row.caption,
                caption_hash=of_caption,
                image_hash=picture and picture.hash,
                latent_key=picture and picture.latent_key,
                fingerprint=self.encoders.fingerprint,
                source=self.source.name,
                source_hash=self.source.content_hash,
                row=row.row,
                crop=picture and picture.crop,
            )
        )
        self.report.samples += 1

    def reject(self, number: int, bad: BadRow, place: str = "") -> None:
        """Adds a row to the rejects; `place` is told where `bad` does not know it."""
        bad = BadRow(bad.reason, place + bad.detail)
        source, of_source = self.source.name, self.source.content_hash
        self.writer.reject(reject(source, of_source, number, bad, self.encoders.fingerprint))
        self.report.rejected[bad.reason] += 1
        if len(self.report.examples) < EXAMPLES:
            self.report.examples.append(f"{self.source.name} row {number}: {bad}")


def load_picture(data: bytes, latents: LatentEncoding) -> Picture | BadRow:
    """A picture's square with its keys, or why it can't be used."""
    try:
        square, crop = load_image(data, latents.size, min_side=latents.min_side)
    except BadRow as bad:
        return bad
    of_image = content_hash(data)
    return Picture(of_image, latents.key(of_image), square, crop)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
