"""Encode a source shard into the store: rows go in; encodings, latents, samples and rejects go out in one commit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from llmdiff.data.encode.captions import encode_finite, shard_id
from llmdiff.data.encode.encoder_set import EncoderSet
from llmdiff.data.encode.known import KnownRows
from llmdiff.data.encode.pipeline import Behind
from llmdiff.data.encode.reading import ShardReader, Step
from llmdiff.data.encode.row_writer import RowWriter
from llmdiff.data.encode.shard_report import ShardReport
from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import Row, SourceShard
from storage import EncodingStore, ShardWriter, caption_hash

WRITES_BEHIND = 2
"""Results of the models that may wait to be written; on a GPU they may still be being computed."""


def encode_shard(
    store: EncodingStore,
    source: SourceShard,
    encoders: EncoderSet,
    progress: Callable[[int], None] = lambda rows: None,
    *,
    allow_private: bool = False,
) -> ShardReport:
    """Encode every row of a shard that the store does not know, as one commit; commit nothing if it knows all rows.

    A row is known by its shard's content and its number, without a look at it, or by its picture and caption.

    Threads read and decode rows ahead of the models, and a thread writes behind them. What comes out is, bit for bit,
    what one after the other would give. Its threads have ended when this returns or raises. Requests to another place
    that are under way then end on their own, after their last try at most, and what they bring is of no use.

    Args:
        store: opened for writing.
        source: the shard.
        encoders: what `prepare` returned for this store.
        progress: called with the number of rows done.
        allow_private: whether URLs of pictures may lead to this machine and its network. Rows that were refused for
            that are then tried again.

    Raises:
        ValueError: the shard can't be read, or has pictures and the encoders no autoencoder. No row of it is committed
            then.
        OSError: the disk is full, or the store can't be written.
        MemoryError: one picture or caption alone does not fit into memory.
    """
    start = time.perf_counter()
    if source.has_pictures and encoders.latents is None:
        raise ValueError(f"{source.name}: expected captions alone, for there is no autoencoder; found pictures")
    snapshot = store.snapshot()
    snapshot.prepare()
    known = KnownRows.of(snapshot, source, encoders.fingerprint, allow_private)
    progress(len(known.rows))
    if known.are_all:
        return known.whole_report(source, start)
    report, before = known.report(source), getattr(encoders.encoder, "truncated", 0)
    new = ((number, row) for number, row in source.rows() if number not in known.rows)
    with ShardWriter(store, shard_id(source.name), encoders.fingerprint) as writer:
        rows = RowWriter(writer, source, encoders, report)
        with (
            ShardReader(snapshot, encoders, allow_private).steps(new) as steps,
            Behind(WRITES_BEHIND, "write") as behind,
        ):
            encoder = StepEncoder(encoders, rows, behind)
            for step in steps:
                encoder.encode(step)
                progress(step.done)
    report.known, report.samples = report.known + writer.left_out, report.samples - writer.left_out
    report.truncated = getattr(encoders.encoder, "truncated", 0) - before
    report.rows = source.count  # a streamed shard knows it once its rows have been read
    report.unread = source.unread
    report.seconds = time.perf_counter() - start
    return report


@dataclass
class StepEncoder:
    """Runs the models on a shard's steps, each caption and picture once, and has a thread write the results."""

    encoders: EncoderSet
    rows: RowWriter
    behind: Behind
    encoded: set[tuple[str, str]] = field(default_factory=set)
    """Fingerprint and caption hash of each encoding that this shard has."""
    failed: dict[str, BadRow] = field(default_factory=dict)

    def encode(self, step: Step) -> None:
        """Make a step's latents; with the last step of a chunk its encodings, of the captions that rows are made of."""
        if step.keys:
            assert self.encoders.latents is not None
            self.behind(self.rows.add_latents, step.keys, self.encoders.latents.encode(step.pixels))
        if step.rows:
            self.encode_captions(step)
            self.behind(self.rows.add_rows, step.rows, self.failed)

    def encode_captions(self, step: Step) -> None:
        """Encode a chunk's captions, except those that the store or this shard has."""
        captions = {caption_hash(row.caption): row.caption for _, row, _ in step.rows if isinstance(row, Row)}
        for text_encoding in self.encoders.of_captions:
            fingerprint = text_encoding.fingerprint
            known = step.known[fingerprint] | self.failed.keys()
            new = {
                key: text
                for key, text in captions.items()
                if key not in known and (fingerprint, key) not in self.encoded
            }
            encodings = dict(encode_finite(text_encoding.encoder, new))
            self.failed |= {key: found for key, found in encodings.items() if isinstance(found, BadRow)}
            finite = {key: found for key, found in encodings.items() if isinstance(found, Tensor)}
            self.encoded.update((fingerprint, key) for key in finite)
            self.behind(self.rows.add_encodings, fingerprint, finite)
