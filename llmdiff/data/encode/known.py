"""Find the rows and captions that a store has already, without a model, and without torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow.compute as pc

from llmdiff.data.encode.shard_report import ShardReport
from llmdiff.data.rejects import TRY_AGAIN
from llmdiff.data.sources import SourceShard, known_row_count
from storage import EncodingStore, caption_hash
from storage.index.snapshot import Snapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class KnownRows:
    """The rows of a shard that a store knows under an encoder, by their numbers."""

    good: set[int]
    """Numbers of rows that are samples, or hold what a sample holds."""
    bad: set[int]
    """Numbers of rows that were rejected for good. Other rejects are tried again."""
    count: int | None
    """Number of rows in the shard; None where counting takes reading them."""

    @classmethod
    def of(cls, snapshot: Snapshot, source: SourceShard, fingerprint: str, allow_private: bool) -> KnownRows:
        """Look up a shard's known rows; `allow_private` leaves out those refused for their URL's address."""
        good = snapshot.sample_rows(fingerprint, source.content_hash)
        good |= snapshot.repeat_rows(fingerprint, source.content_hash)
        again = (*TRY_AGAIN, *("private_address",) * allow_private)
        bad = snapshot.reject_rows(fingerprint, source.content_hash, besides=again)
        return cls(good=good, bad=bad, count=source.count if good or bad else known_row_count(source))

    @cached_property
    def rows(self) -> set[int]:
        """Numbers of all known rows."""
        return self.good | self.bad

    @property
    def are_all(self) -> bool:
        """Whether every row of the shard is known."""
        return self.count is not None and len(self.rows) >= self.count

    def report(self, source: SourceShard) -> ShardReport:
        """Return a report that counts the known rows."""
        return ShardReport(
            source=source.name,
            source_hash=source.content_hash,
            known=len(self.rows),
            known_bad=len(self.bad - self.good),
        )

    def whole_report(self, source: SourceShard, start: float) -> ShardReport:
        """Return the report of a shard whose rows are all known; `start` is the `perf_counter` of its beginning."""
        report = self.report(source)
        report.rows = source.count
        report.unread = () if report.rows else source.unread
        report.seconds = time.perf_counter() - start
        return report


def report_if_known(
    snapshot: Snapshot, source: SourceShard, fingerprint: str, allow_private: bool = False
) -> ShardReport | None:
    """Return the report that `encode_shard` would return, if it had nothing to encode of a shard; else None.

    ValueError where the shard can't be read.
    """
    start = time.perf_counter()
    known = KnownRows.of(snapshot, source, fingerprint, allow_private)
    return known.whole_report(source, start) if known.are_all else None


def new_captions(snapshot: Snapshot, fingerprint: str, captions: Sequence[str]) -> dict[str, str]:
    """Return the captions, by their hashes, that an encoder has neither encoded nor rejected."""
    texts = {caption_hash(caption): caption for caption in captions}
    known = snapshot.encodings(fingerprint, list(texts))
    return {key: text for key, text in texts.items() if key not in known and not snapshot.reject_rows(fingerprint, key)}


def lacking_captions(snapshot: Snapshot, fingerprint: str, beside: str) -> list[str]:
    """Return the captions of an encoder's samples that another encoder has not encoded yet."""
    here = pc.field("fingerprint")
    known = snapshot.read(["caption_hash"], here == beside)["caption_hash"].combine_chunks()
    lacking = (here == fingerprint) & pc.field("source").is_valid() & ~pc.field("caption_hash").isin(known)
    found: list[str] = snapshot.read(["caption"], lacking)["caption"].unique().to_pylist()
    return found


def check_same_latents(store: EncodingStore, description: dict[str, Any]) -> None:
    """Raise ValueError where a store's latents are of another autoencoder or another size.

    Warn where their pictures were prepared in another way: those latents stay with their samples, which train as
    before, and new pictures get latents under a fingerprint of their own.
    """
    for fingerprint, other in store.fingerprints().items():
        if other.get("kind") != "vae" or other == description:
            continue
        old, new = ({"dtype": "float32", **each} for each in (other, description))
        key = next((key for key in [*new, *old] if key != "pixels" and old.get(key) != new.get(key)), None)
        if key is None:
            logger.warning(
                "%s: holds latents of pictures that were made ready in another way (%s: pixels %r, now %r): those with "
                "a colour profile may have other colours; they stay with their samples, and new pictures get new "
                "latents: encode into another store to have all alike",
                *(store.path, fingerprint, other.get("pixels"), description["pixels"]),
            )
        else:
            found = f"expected {key} {old.get(key)!r}, found {new.get(key)!r}"
            raise ValueError(
                f"{store.path}: its latents are of another kind ({fingerprint}): {found}: use another store"
            )
