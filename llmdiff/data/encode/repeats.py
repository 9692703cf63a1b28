"""Rows whose picture and caption the store has: of a file that was appended to or split, or twice in the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmdiff.data.encode.shard_report import ShardReport
from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import Row, SourceShard
from storage import EncodingStore, Repeat, ShardWriter, caption_hash, content_hash
from storage.schema import Content


@dataclass
class Repeats:
    """Tells the rows of a shard that hold what a sample holds, and notes where they are.

    The next run knows a row that was noted by its place, as it knows a sample, and reads no picture.
    """

    store: EncodingStore
    writer: ShardWriter
    source: SourceShard
    fingerprint: str
    report: ShardReport
    added: set[Content] = field(default_factory=set)
    """What the samples of this shard hold."""

    def without_known(self, rows: Sequence[tuple[int, Row | BadRow]]) -> list[tuple[int, Row | BadRow]]:
        """Return the rows that hold what no sample holds, and those that are refused; one look-up for all of them."""
        contents = {number: content_of(row) for number, row in rows if isinstance(row, Row)}
        known = self.store.snapshot().contents(self.fingerprint, set(contents.values())) | self.added
        for number, content in contents.items():
            if content in known:
                self.note(number, content)
        return [(number, row) for number, row in rows if contents.get(number) not in known]

    def is_repeat(self, number: int, content: Content) -> bool:
        """Return whether a sample of this shard holds the same, and note the row then; else note it as a sample."""
        if content in self.added:
            self.note(number, content)
            return True
        self.added.add(content)
        return False

    def note(self, number: int, content: Content) -> None:
        """Add a row to the repeats."""
        image, caption = content
        repeat = Repeat(
            fingerprint=self.fingerprint,
            source=self.source.name,
            source_hash=self.source.content_hash,
            row=number,
            caption_hash=caption,
            image_hash=image,
        )
        self.writer.add_repeat(repeat)
        self.report.known += 1
        self.report.repeated += 1


def content_of(row: Row) -> Content:
    """Return what a row holds; its picture is at hand."""
    return content_hash(row.image) if isinstance(row.image, bytes) else None, caption_hash(row.caption)
