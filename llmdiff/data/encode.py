"""Encodes a source shard into the store: rows in; encodings, latents, samples and rejects out, in one commit."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from llmdiff.data.images import BadRow, Crop, load_image
from llmdiff.data.sources import Row, SourceShard
from llmdiff.diffusion.latents import LatentEncoder
from storage import EncodingStore, Reject, Sample, caption_hash, content_hash

if TYPE_CHECKING:
    from storage.writer import ShardWriter

logger = logging.getLogger(__name__)
T = TypeVar("T")

ROWS_AT_ONCE = 256
"""Rows whose pictures are held in memory together, and whose captions the encoder sorts into batches."""
PICTURES_AT_ONCE = 16
"""Pictures that the autoencoder takes at once."""
EXAMPLES = 5
"""Refused rows of a shard that its report spells out; the store's rejects have them all."""


class TextEncoder(Protocol):
    """What `llmdiff.encoder.Encoder` and `llmdiff.diffusion.text.BaseTextEncoder` have in common."""

    def __call__(self, captions: Sequence[str]) -> list[Tensor]: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How rows become encodings and latents; each part under the fingerprint of all that decides its numbers."""

    encoder: TextEncoder
    fingerprint: str
    latent_encoder: LatentEncoder
    latent_fingerprint: str
    size: int

    def latent_key(self, image_hash: str) -> str:
        return content_hash(f"{self.latent_fingerprint}:{image_hash}".encode())


@dataclass(kw_only=True)
class ShardReport:
    """What became of a shard's rows: ``rows == known + samples + sum(rejected.values())``."""

    source: str
    """The shard's name."""
    rows: int = 0
    """Rows in it."""
    known: int = 0
    """Rows that an earlier run committed or rejected: nothing was done for them."""
    known_bad: int = 0
    """Those of them that it rejected."""
    samples: int = 0
    """Rows committed now."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Rows refused now, by reason."""
    examples: list[str] = field(default_factory=list)
    """The first few rows refused now: file, row, reason, what was found."""
    captions: int = 0
    """Captions that went through the text encoder; the other samples' were in the store, or twice in the shard."""
    tokens: int = 0
    """Tokens of their encodings."""
    latents: int = 0
    """Pictures that went through the autoencoder."""
    truncated: int = 0
    """Captions cut to the token limit."""
    seconds: float = 0.0


def prepare(store: EncodingStore, encoder: TextEncoder, latent_encoder: LatentEncoder, size: int) -> Recipe:
    """Registers both encoders in the store, and the empty caption's encoding that caption dropout and guidance need.

    Raises:
        ValueError: `size` does not fit the autoencoder, the store holds latents of another one or another size, or the
            empty caption's encoding is not finite.
    """
    if size < 1 or size % latent_encoder.factor:
        raise ValueError(f"size: expected a multiple of {latent_encoder.factor} pixels, found {size}")
    description = {**latent_encoder.describe(), "size": size, "crop": "centre"}
    for fingerprint, other in store.fingerprints().items():
        if other.get("kind") == "vae" and other != description:
            key = next(key for key in description if other.get(key) != description[key])
            found = f"expected {key} {other.get(key)!r}, found {description[key]!r}"
            raise ValueError(
                f"{store.path}: its latents are of another kind ({fingerprint}): {found}: use another store"
            )
    recipe = Recipe(
        encoder=encoder,
        fingerprint=str(store.register_fingerprint(encoder.describe())),
        latent_encoder=latent_encoder,
        latent_fingerprint=str(store.register_fingerprint(description)),
        size=size,
    )
    encode_captions(store, recipe.fingerprint, encoder, [""])
    if not store.find_encodings(recipe.fingerprint, [caption_hash("")]):
        reason = "holds NaN or infinity, and training needs it; the store's rejects say in which block"
        raise ValueError(f"{store.path}: the empty caption's encoding {reason}")
    return recipe


def encode_captions(store: EncodingStore, fingerprint: str, encoder: TextEncoder, captions: Sequence[str]) -> int:
    """Stores captions that belong to no picture, such as validation prompts; returns how many were new.

    One whose encoding is not finite becomes a reject, of source ``captions``, and is not tried again.
    """
    texts = {caption_hash(caption): caption for caption in captions}
    known = store.find_encodings(fingerprint, list(texts))
    rejects = store.reject_table.snapshot()
    new = {
        key: text
        for key, text in texts.items()
        if key not in known and not store.reject_rows_in(rejects, fingerprint, key)
    }
    if not new:
        return 0
    written = 0
    with store.writer(_shard_id("captions"), fingerprint) as writer:
        for key, encoding in encode_finite(encoder, new):
            if isinstance(encoding, BadRow):
                logger.warning("%s", encoding)
                writer.reject(_reject("captions", key, 0, encoding, fingerprint))
                continue
            writer.add_encoding(key, as_bits(encoding))
            written += 1
    return written


def encode_finite(encoder: TextEncoder, captions: dict[str, str]) -> Iterator[tuple[str, Tensor | BadRow]]:
    """The encodings of captions by hash; a reason in place of one that is not finite."""
    if not captions:
        return
    encode = getattr(encoder, "encode", encoder)  # `encode` gives errors in their place
    for (key, text), encoding in zip(captions.items(), encode(list(captions.values())), strict=True):
        if isinstance(encoding, Exception):
            yield key, BadRow("not_finite", str(encoding))
        elif not encoding.isfinite().all():
            yield key, BadRow("not_finite", f"caption {text!r}: non-finite encoding")
        else:
            yield key, encoding


def encode_shard(
    store: EncodingStore, source: SourceShard, recipe: Recipe, progress: Callable[[int], None] = lambda rows: None
) -> ShardReport:
    """Encodes every row of a shard that the store does not know, as one commit; nothing where it knows them all.

    Args:
        store: opened for writing.
        source: the shard.
        recipe: what `prepare` returned for this store.
        progress: called with the number of rows done.

    Raises:
        ValueError: the shard can't be read. No row of it is committed then.
        OSError: the disk is full, or the store can't be written.
    """
    start = time.perf_counter()
    known = store.find_samples(recipe.fingerprint, source.content_hash)
    bad = store.reject_rows_in(store.reject_table.snapshot(), recipe.fingerprint, source.content_hash)
    report = ShardReport(source=source.name, rows=source.count, known=len(known), known_bad=len(bad))
    progress(report.known)
    if report.known < report.rows:
        before = getattr(recipe.encoder, "truncated", 0)
        with store.writer(_shard_id(source.name), recipe.fingerprint) as writer:
            encoder = RowEncoder(store, writer, source, recipe, report, progress)
            new = ((number, row) for number, row in source.rows() if number not in known)
            for rows in _chunks(new, ROWS_AT_ONCE):
                encoder.encode(rows)
        report.truncated = getattr(recipe.encoder, "truncated", 0) - before
    report.seconds = time.perf_counter() - start
    return report


@dataclass
class RowEncoder:
    """Encodes rows into the shard that `writer` is writing, each caption and picture once."""

    store: EncodingStore
    writer: ShardWriter
    source: SourceShard
    recipe: Recipe
    report: ShardReport
    progress: Callable[[int], None]
    written: set[str] = field(default_factory=set)
    failed: dict[str, BadRow] = field(default_factory=dict)

    def encode(self, rows: Sequence[tuple[int, Row | BadRow]]) -> None:
        """Pictures are read first, so that no caption is encoded for a row that is refused."""
        loaded = [usable for number, row in rows if (usable := self.load(number, row)) is not None]
        self.progress(len(rows) - len(loaded))
        self.add_encodings({caption_hash(row.caption): row.caption for row, _, _ in loaded})
        for batch in _chunks(loaded, PICTURES_AT_ONCE):
            hashes = [content_hash(row.image) for row, _, _ in batch]
            squares = (square for _, square, _ in batch)
            self.add_latents(dict(zip(map(self.recipe.latent_key, hashes), squares, strict=True)))
            for (row, _, crop), of_image in zip(batch, hashes, strict=True):
                self.add_sample(row, of_image, crop)
            self.progress(len(batch))

    def load(self, number: int, row: Row | BadRow) -> tuple[Row, np.ndarray, Crop] | None:
        """The row with its picture's pixels; None where it is refused."""
        try:
            if isinstance(row, BadRow):
                raise row
            return row, *load_image(row.image, self.recipe.size)
        except BadRow as bad:
            self.reject(number, bad)
            return None

    def add_encodings(self, captions: dict[str, str]) -> None:
        """Encodes and writes captions by hash, but for those that the store or this shard has."""
        known = (
            self.store.find_encodings(self.recipe.fingerprint, list(captions)).keys()
            | self.written
            | self.failed.keys()
        )
        new = {key: text for key, text in captions.items() if key not in known}
        for key, encoding in encode_finite(self.recipe.encoder, new):
            if isinstance(encoding, BadRow):
                self.failed[key] = encoding
                continue
            bits = as_bits(encoding)
            self.writer.add_encoding(key, bits)
            self.written.add(key)
            self.report.captions += 1
            self.report.tokens += len(bits)

    def add_latents(self, squares: dict[str, np.ndarray]) -> None:
        """Encodes and writes pictures by latent key, but for those that the store or this shard has."""
        known = self.store.find_latents(list(squares)).keys() | self.written
        new = {key: square for key, square in squares.items() if key not in known}
        if not new:
            return
        latents = self.recipe.latent_encoder(np.stack(list(new.values()))).cpu().numpy()
        for key, latent in zip(new, latents, strict=True):
            self.writer.add_latent(key, latent)
        self.written.update(new)
        self.report.latents += len(new)

    def add_sample(self, row: Row, of_image: str, crop: Crop) -> None:
        """Adds a row to the index; or to the rejects, where its caption's encoding failed."""
        of_caption = caption_hash(row.caption)
        if of_caption in self.failed:
            self.reject(row.row, self.failed[of_caption])
            return
        self.writer.add_sample(
            Sample(
                caption=row.caption,
                caption_hash=of_caption,
                image_hash=of_image,
                latent_key=self.recipe.latent_key(of_image),
                fingerprint=self.recipe.fingerprint,
                source=self.source.name,
                source_hash=self.source.content_hash,
                row=row.row,
                crop=crop,
            )
        )
        self.report.samples += 1

    def reject(self, number: int, bad: BadRow) -> None:
        self.writer.reject(_reject(self.source.name, self.source.content_hash, number, bad, self.recipe.fingerprint))
        self.report.rejected[bad.reason] += 1
        if len(self.report.examples) < EXAMPLES:
            self.report.examples.append(f"{self.source.name} row {number}: {bad}")


def _reject(source: str, source_hash: str, row: int, bad: BadRow, fingerprint: str) -> Reject:
    return Reject(
        source=source,
        source_hash=source_hash,
        row=row,
        reason=bad.reason,
        detail=bad.detail,
        fingerprint=fingerprint,
    )


def as_bits(encoding: Tensor) -> np.ndarray:
    """``([band,] token, hidden)`` as bfloat16 bits, uint16 ``(token, band * hidden)``."""
    tokens = encoding if encoding.ndim == 2 else encoding.transpose(0, 1).flatten(1)
    return tokens.to(torch.bfloat16).contiguous().view(torch.uint16).cpu().numpy()


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _shard_id(name: str) -> str:
    """A new folder's name that tells people where it came from."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name.removesuffix(".parquet")).strip("-")[-60:]
    return f"{readable}-{uuid.uuid4().hex[:12]}"
