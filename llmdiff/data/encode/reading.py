"""Read, look up and decode a shard's rows in threads, ahead of the models, as steps of work in the rows' order."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np

from llmdiff.data.encode.encoder_set import EncoderSet, LatentEncoding
from llmdiff.data.encode.pipeline import ahead
from llmdiff.data.encode.repeats import ReadRow, tell_repeats
from llmdiff.data.fetch import NumberedRow, with_pictures
from llmdiff.data.images import Crop, load_image
from llmdiff.data.in_order import in_order
from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import Row
from storage import caption_hash, content_hash
from storage.index.snapshot import Snapshot

ROWS_AT_ONCE, BYTES_AT_ONCE = 256, 256 * 1024**2
"""Most rows and most bytes of a chunk, whose rows are looked up and whose captions are batched together.

As many pictures are decoded ahead. Memory holds some four times as many bytes."""
CHUNKS_AHEAD, STEPS_AHEAD = 1, 2
"""Chunks that are read ahead, and steps that are stacked ahead."""


class Picture(NamedTuple):
    """The index's entry of a picture."""

    hash: str
    """Hash of the picture's bytes."""
    latent_key: str
    crop: Crop


class LoadedRow(NamedTuple):
    """A row after reading, without its picture's bytes; or why it can't be used."""

    number: int
    row: ReadRow
    picture: Picture | None = None


class Step(NamedTuple):
    """The next work of the models."""

    keys: tuple[str, ...]
    """Keys of the latents that this step makes."""
    pixels: np.ndarray
    """The pictures of these latents, all of one size: uint8 ``(picture, height, width, 3)``."""
    done: int
    """Number of rows that this step completes."""
    rows: list[LoadedRow]
    """All rows of a chunk in its last step; none in its earlier steps."""
    known: dict[str, set[str]]
    """Hashes of the chunk's captions that the store has encodings of, by fingerprint."""


@dataclass(eq=False)
class Chunk:
    """Rows that are looked up in the store together."""

    rows: list[tuple[int, ReadRow, str]]
    """Number, row and hash of the picture's bytes, which is empty where there is no picture."""
    latents: set[str]
    """Keys of those of the rows' latents that the store has."""
    encodings: dict[str, set[str]]
    """Hashes of those of the rows' captions that the store has encodings of, by fingerprint."""


Decoded = tuple[np.ndarray, Picture] | BadRow | None


@dataclass
class ShardReader:
    """Reads, looks up and decodes a shard's rows, once.

    Three stages work at the same time. One thread reads rows and has their URLs fetched, a chunk ahead. One thread a
    core decodes pictures, at most `ROWS_AT_ONCE` ahead. One thread stacks the pictures of a step.
    """

    snapshot: Snapshot
    """The store as it was before the shard. Rows are looked up in it; commits of other writers are seen when the
    shard is committed."""
    encoders: EncoderSet
    allow_private: bool = False
    """Whether pictures' URLs may lead to this machine and its network."""
    stopped: threading.Event = field(default_factory=threading.Event)
    planned: set[str] = field(default_factory=set)
    """Keys of the latents that earlier steps make."""
    last: tuple[str, Future[Decoded]] | None = None
    """Hash and result of the newest picture: successive rows of one picture decode it once."""

    @contextmanager
    def steps(self, rows: Iterable[NumberedRow]) -> Iterator[Iterator[Step]]:
        """Yield an iterator of the steps of numbered rows; every thread has ended at the end of the ``with`` block."""
        decoders = ThreadPoolExecutor(self.encoders.threads or cores(), "decode")
        read = self._chunks(rows)
        chunks = ahead(read, CHUNKS_AHEAD, "read")
        steps = ahead(self._steps(chunks, decoders), STEPS_AHEAD, "stack")
        try:
            yield steps
        finally:
            self.stopped.set()
            decoders.shutdown(wait=False, cancel_futures=True)
            steps.close()
            chunks.close()
            read.close()
            decoders.shutdown()

    def _chunks(self, rows: Iterable[NumberedRow]) -> Generator[Chunk, None, None]:
        """Yield chunks of rows with what the store has of them."""
        fetched = with_pictures(rows, self.stopped.is_set, allow_private=self.allow_private)
        for chunk in in_chunks(fetched, ROWS_AT_ONCE, BYTES_AT_ONCE):
            read = [(number, row, _hash(row)) for number, row in chunk]
            found = tell_repeats(self.snapshot, self.encoders.fingerprint, read)
            captions = {caption_hash(row.caption) for _, row, _ in found if isinstance(row, Row)}
            keys = {self._latents.key(of_image) for _, _, of_image in found if of_image}
            of = [each.fingerprint for each in self.encoders.of_captions]
            yield Chunk(
                rows=found,
                latents=set(self.snapshot.latents(keys)) if keys else set(),
                encodings={fingerprint: set(self.snapshot.encodings(fingerprint, captions)) for fingerprint in of},
            )

    def _steps(self, chunks: Iterable[Chunk], decoders: ThreadPoolExecutor) -> Iterator[Step]:
        """Decode the pictures of chunks, and stack as many of one size as the autoencoder takes at once."""

        def start(item: tuple[Chunk, int, ReadRow, str]) -> Future[Decoded]:
            return self._decode(decoders, item[2], item[3])

        items = ((chunk, *row) for chunk in chunks for row in chunk.rows)
        in_turn = in_order(start, items, ROWS_AT_ONCE, lambda item: bytes_of(item[2]), BYTES_AT_ONCE)
        for chunk, rows in groupby(in_turn, key=lambda found: found[0][0]):
            yield from self._steps_of(chunk, ((number, row, decoded) for (_, number, row, _), decoded in rows))

    def _steps_of(self, chunk: Chunk, rows: Iterable[tuple[int, ReadRow, Decoded]]) -> Iterator[Step]:
        at_once = 0 if self.encoders.latents is None else self.encoders.latents.encoder.at_once
        loaded: list[LoadedRow] = []
        batches: dict[tuple[int, ...], list[tuple[np.ndarray, Picture]]] = {}
        done = 0
        for number, row, decoded in rows:
            loaded.append(_loaded(number, row, decoded))
            if not isinstance(decoded, tuple):
                continue
            shape = decoded[0].shape
            batches.setdefault(shape, []).append(decoded)
            if len(batches[shape]) == at_once:
                yield self._step(chunk, batches.pop(shape), len(loaded) - done, [])
                done = len(loaded)
        *others, last = batches.values() or [[]]
        for batch in others:
            yield self._step(chunk, batch, 0, [])
        yield self._step(chunk, last, len(loaded) - done, loaded)

    def _step(self, chunk: Chunk, batch: list[tuple[np.ndarray, Picture]], done: int, rows: list[LoadedRow]) -> Step:
        """Stack the pictures of one size whose latents are yet to be made."""
        pixels = {picture.latent_key: pixels for pixels, picture in batch}
        new = [key for key in pixels if key not in chunk.latents and key not in self.planned]
        self.planned.update(new)
        stacked = np.stack([pixels[key] for key in new]) if new else np.empty(0, np.uint8)
        return Step(tuple(new), stacked, done, rows, chunk.encodings)

    def _decode(self, decoders: ThreadPoolExecutor, row: ReadRow, of_image: str) -> Future[Decoded]:
        if not isinstance(row, Row) or not isinstance(row.image, bytes):
            nothing: Future[Decoded] = Future()
            nothing.set_result(None)
            return nothing
        if self.last is None or self.last[0] != of_image:
            self.last = of_image, decoders.submit(decode, row.image, of_image, self._latents)
        return self.last[1]

    @property
    def _latents(self) -> LatentEncoding:
        assert self.encoders.latents is not None  # `encode_shard` checked
        return self.encoders.latents


def in_chunks(rows: Iterable[NumberedRow], count: int, most: int) -> Iterator[list[NumberedRow]]:
    """Yield rows in lists of `count`, or of fewer once a list has `most` bytes."""
    chunk: list[NumberedRow] = []
    size = 0
    for numbered in rows:
        chunk.append(numbered)
        size += bytes_of(numbered[1])
        if len(chunk) == count or size >= most:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def bytes_of(row: ReadRow) -> int:
    """Return the approximate number of bytes that a row holds."""
    if not isinstance(row, Row):
        return 0
    return len(row.caption) + (len(row.image) if isinstance(row.image, bytes) else 0)


def decode(data: bytes, of_image: str, latents: LatentEncoding) -> tuple[np.ndarray, Picture] | BadRow:
    """Return a picture's pixels and what the index keeps of it, or why it is refused; `of_image` is its bytes' hash."""
    try:
        pixels, crop = load_image(data, latents.size, min_side=latents.min_side, buckets=latents.buckets)
    except BadRow as bad:
        return bad
    return pixels, Picture(of_image, latents.key(of_image), crop)


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _hash(row: Row | BadRow) -> str:
    return content_hash(row.image) if isinstance(row, Row) and isinstance(row.image, bytes) else ""


def _loaded(number: int, row: ReadRow, decoded: Decoded) -> LoadedRow:
    if not isinstance(row, Row):
        return LoadedRow(number, row)
    if isinstance(decoded, BadRow):
        return LoadedRow(number, BadRow(decoded.reason, row.place + decoded.detail))
    return LoadedRow(number, row._replace(image=None), None if decoded is None else decoded[1])
