"""A shard's rows, read, looked up and decoded ahead of the models, in threads: steps of work in the rows' order."""

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
"""Rows that are looked up together, and whose captions the encoder sorts into batches; also pictures decoded ahead. Of
rows that hold more bytes than that, a chunk has fewer; some four times as many bytes are in memory."""
CHUNKS_AHEAD, STEPS_AHEAD = 1, 2
"""Chunks of rows that are read, and steps whose pictures lie side by side, before they are asked for."""


class Picture(NamedTuple):
    """What the index says of a picture."""

    hash: str
    """Hash of its bytes."""
    latent_key: str
    crop: Crop


class LoadedRow(NamedTuple):
    """What was read of a row, without its picture's bytes; or why it can't be used."""

    number: int
    row: ReadRow
    picture: Picture | None = None


class Step(NamedTuple):
    """What the models do next."""

    keys: tuple[str, ...]
    """Keys of the latents to be made."""
    pixels: np.ndarray
    """Their pictures, which are of one size: uint8 ``(picture, height, width, 3)``."""
    done: int
    """Rows that are done with this step."""
    rows: list[LoadedRow]
    """The rows of a whole chunk, with its last step; none before."""
    known: dict[str, set[str]]
    """Hashes of the chunk's captions that the store has encodings of, by fingerprint."""


@dataclass(eq=False)
class Chunk:
    """Rows that are looked up in the store together."""

    rows: list[tuple[int, ReadRow, str]]
    """With the hash of the picture's bytes; empty where there is none. Of a repeat only what it holds."""
    latents: set[str]
    """Keys, of the rows' latents, that the store has."""
    encodings: dict[str, set[str]]
    """Hashes, of the rows' captions, that the store has encodings of, by fingerprint."""


Decoded = tuple[np.ndarray, Picture] | BadRow | None


@dataclass
class ShardReader:
    """Reads, looks up and decodes a shard's rows, once.

    Three stages work at the same time. One thread reads rows and has their URLs fetched, a chunk ahead. One thread a
    core decodes pictures, at most `ROWS_AT_ONCE` ahead. One thread lays the pictures of a step side by side.
    """

    snapshot: Snapshot
    """What the store held before the shard: its rows are looked up there, which asks no disk or server for anything
    new; what others commit meanwhile is seen when the shard is committed."""
    encoders: EncoderSet
    allow_private: bool = False
    """Whether pictures' URLs may lead to this machine and its network."""
    stopped: threading.Event = field(default_factory=threading.Event)
    planned: set[str] = field(default_factory=set)
    """Keys of latents that an earlier step makes."""
    last: tuple[str, Future[Decoded]] | None = None
    """The newest picture, by its hash: it is decoded once for rows of one picture that follow each other."""

    @contextmanager
    def steps(self, rows: Iterable[NumberedRow]) -> Iterator[Iterator[Step]]:
        """Give the steps of numbered rows, in a ``with`` block at whose end every thread has ended."""
        decoders = ThreadPoolExecutor(self.encoders.threads or cores(), "decode")
        read = self._chunks(rows)
        chunks = ahead(read, CHUNKS_AHEAD, "read")
        steps = ahead(self._steps(chunks, decoders), STEPS_AHEAD, "lay")
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
        """Read rows, look up what the store has of them."""
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
        """Decode a chunk's pictures, and lay so many of them side by side as the autoencoder takes at once."""

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
        """Lay pictures of one size side by side."""
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
        assert self.encoders.latents is not None  # `encode_shard` looked
        return self.encoders.latents


def in_chunks(rows: Iterable[NumberedRow], count: int, most: int) -> Iterator[list[NumberedRow]]:
    """Cut rows into lists of `count`, or of fewer where a list has `most` bytes."""
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
    """Return about how many bytes a row holds."""
    if not isinstance(row, Row):
        return 0
    return len(row.caption) + (len(row.image) if isinstance(row.image, bytes) else 0)


def decode(data: bytes, of_image: str, latents: LatentEncoding) -> tuple[np.ndarray, Picture] | BadRow:
    """Return the pixels of a picture, whose bytes have a hash, with what the index says of it; or why it is refused."""
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
