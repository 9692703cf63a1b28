"""Put what the models made of a shard's rows into the shard that is being written, and count it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from llmdiff.data.encode.captions import as_bits, reject
from llmdiff.data.encode.encoder_set import EncoderSet
from llmdiff.data.encode.reading import LoadedRow, Picture
from llmdiff.data.encode.repeats import RowContent, content_of
from llmdiff.data.encode.shard_report import ShardReport
from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import Row, SourceShard
from storage import Repeat, Sample, ShardWriter, caption_hash

EXAMPLES = 5
"""Most refused rows that a shard's report spells out; the store's rejects have them all."""


@dataclass
class RowWriter:
    """Adds encodings, latents, samples, repeats and rejects to a shard; one thread at a time may call it."""

    writer: ShardWriter
    source: SourceShard
    encoders: EncoderSet
    report: ShardReport
    added: set[RowContent] = field(default_factory=set)
    """Contents of this shard's samples."""

    def add_latents(self, keys: Sequence[str], latents: Tensor) -> None:
        """Add latents, float16 ``(picture, channel, height, width)`` on any device, by key."""
        for key, latent in zip(keys, latents.cpu().numpy(), strict=True):
            self.writer.add_latent(key, latent)
        self.report.latents += len(keys)

    def add_encodings(self, fingerprint: str, encodings: Mapping[str, Tensor]) -> None:
        """Add encodings, float32 ``([band,] token, hidden)``, by their captions' hashes."""
        for key, encoding in encodings.items():
            bits = as_bits(encoding)
            self.writer.add_encoding(key, bits, fingerprint)
            if fingerprint == self.encoders.fingerprint:
                self.report.captions += 1
                self.report.tokens += len(bits)

    def add_rows(self, rows: Sequence[LoadedRow], failed: Mapping[str, BadRow]) -> None:
        """Add rows to the samples, the repeats or the rejects.

        `failed` says of captions, by hash, why they have no encoding.
        """
        for number, row, _ in rows:
            if isinstance(row, BadRow):
                self.reject(number, row)
            elif isinstance(row, RowContent):
                self.add_repeat(number, row)
        for _, row, picture in rows:
            if isinstance(row, Row):
                self.add_row(row, picture, failed.get(caption_hash(row.caption)))

    def add_row(self, row: Row, picture: Picture | None, bad: BadRow | None) -> None:
        """Add a row to the samples; to the repeats if a sample holds the same; to the rejects if it has no encoding."""
        if bad is not None:
            self.reject(row.row, BadRow(bad.reason, row.place + bad.detail))
            return
        content = content_of(row, picture and picture.hash)
        if content in self.added:
            self.add_repeat(row.row, content)
            return
        self.added.add(content)
        self.writer.add_sample(
            Sample(
                caption=row.caption,
                caption_hash=content.caption_hash,
                image_hash=content.image_hash,
                latent_key=picture and picture.latent_key,
                fingerprint=self.encoders.fingerprint,
                source=self.source.name,
                source_hash=self.source.content_hash,
                row=row.row,
                crop=picture and picture.crop,
            )
        )
        self.report.samples += 1

    def add_repeat(self, number: int, content: RowContent) -> None:
        """Add a row to the repeats: the next run knows it by its number, as it knows samples, and reads no picture."""
        self.writer.add_repeat(
            Repeat(
                fingerprint=self.encoders.fingerprint,
                source=self.source.name,
                source_hash=self.source.content_hash,
                row=number,
                caption_hash=content.caption_hash,
                image_hash=content.image_hash,
            )
        )
        self.report.known += 1
        self.report.repeated += 1

    def reject(self, number: int, bad: BadRow) -> None:
        """Add a row to the rejects."""
        source, of_source = self.source.name, self.source.content_hash
        self.writer.reject(reject(source, of_source, number, bad, self.encoders.fingerprint))
        self.report.rejected[bad.reason] += 1
        if len(self.report.examples) < EXAMPLES:
            self.report.examples.append(f"{self.source.name} row {number}: {bad}")
