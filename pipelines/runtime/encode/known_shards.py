"""An encode run's shards up to the first with a new row: no model is loaded for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from llmdiff.data.encode import ShardReport
from llmdiff.data.encode.known import report_if_known
from llmdiff.data.rejects import printable
from llmdiff.data.sources import SourceShard
from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.encode.known_encoders import KnownEncoders, has_all
from pipelines.runtime.encode.row_counts import Work, keep_counts
from pipelines.runtime.progress import advance, progress
from storage import EncodingStore
from storage.index.snapshot import Snapshot


class Encoded(NamedTuple):
    """Results of a run, shard by shard."""

    fingerprint: str
    """Fingerprint of the captions' encoder."""
    reports: list[ShardReport]
    """Reports of the shards that could be read, in their order."""
    unreadable: dict[str, str]
    """Reasons why shards could not be read, by name."""
    left: list[SourceShard]
    """Shards that were not reached."""


def find_known(request: EncodeRequest, known: KnownEncoders, shards: list[SourceShard], to_do: Work) -> Encoded | None:
    """Return what became of the shards before the first of which the store does not know all rows.

    None where the store lacks something else that models are needed for.
    """
    try:
        store = EncodingStore.open(request.store)
        snapshot = store.snapshot()
        if not has_all(store, snapshot, known, request.captions or []):
            return None
        snapshot.prepare()
        with progress("compare", to_do.total, to_do.unit):
            return _compare(request, known, snapshot, shards, to_do)
    except (OSError, ValueError):  # no store yet, one for other latents, no answer: encoding says so, or tries again
        return None


def _compare(
    request: EncodeRequest, known: KnownEncoders, snapshot: Snapshot, shards: list[SourceShard], to_do: Work
) -> Encoded:
    """Go through the shards up to the first with a new row."""
    reports: list[ShardReport] = []
    unreadable: dict[str, str] = {}
    left: list[SourceShard] = []
    for i, shard in enumerate(shards):
        try:
            found = report_if_known(snapshot, shard, known.fingerprint, request.allow_private_addresses)
        except ValueError as error:
            unreadable[shard.name] = printable(str(error))
            continue
        if found is None:
            left = shards[i:]
            break
        reports.append(found)
        advance(found.rows)
        advance(to_do.sizes.get(shard.name, 0), in_bytes=True)
    keep_counts(shards, reports)
    return Encoded(known.fingerprint, reports, unreadable, left)


def sources_of(reports: Iterable[ShardReport]) -> dict[str, str]:
    """Return the names of the shards that were read, by the hashes of their content."""
    return {report.source_hash: report.source for report in reports}
