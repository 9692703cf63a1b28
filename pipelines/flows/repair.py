"""Repair of a damaged store: what is whole is kept, and what is lost is encoded again from the data it came from."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmdiff.data.sources import open_source
from pipelines.requests.encode import EncodeRequest
from storage import EncodingStore, Problem
from storage.maintenance.repair import repair
from storage.schema import Content

LostRows = dict[tuple[str, str], set[int]]
"""Row numbers in the data, by fingerprint and source hash."""
Captions = set[tuple[str, str]]
"""Pairs of fingerprint and caption hash."""


@dataclass(frozen=True, kw_only=True)
class RepairResult:
    """The result of `repair_and_encode`."""

    moved: int
    """Number of encodings and latents copied whole into a new shard."""
    lost: LostRows
    """Samples that lost their encoding or their latent."""
    captions: Captions
    """Lost encodings that no sample uses: validation prompts, the empty caption."""
    missing: LostRows
    """Rows of `lost` that encoding did not bring back: their data or their encoder are others."""
    missing_captions: Captions
    """Captions of `captions` that encoding did not bring back: their data or their encoder are others."""
    sources: dict[str, str]
    """Names of the lost rows' sources, by source hash."""

    @property
    def nothing_missing(self) -> bool:
        return not (self.missing or self.missing_captions)

    def values(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "moved": self.moved,
            "lost": self._row_values(self.lost),
            "lost_captions": _caption_values(self.captions),
            "missing": self._row_values(self.missing),
            "missing_captions": _caption_values(self.missing_captions),
        }

    def __str__(self) -> str:
        lines = [f"moved: {self.moved} encodings and latents"]
        for entry in self._row_values(self.lost):
            lines.append(f"lost: {entry['source']} under {entry['fingerprint']}: {len(entry['rows'])} rows")
        if self.captions:
            lines.append(f"lost: {len(self.captions)} captions without a picture")
        rows = count(self.lost) - count(self.missing)
        captions = len(self.captions) - len(self.missing_captions)
        lines.append(f"encoded again: {rows} rows, {captions} captions without a picture")
        for entry in self._row_values(self.missing):
            numbers = ", ".join(map(str, entry["rows"]))
            lines.append(f"still missing: {entry['source']} under {entry['fingerprint']}: rows {numbers}")
        for fingerprint, key in sorted(self.missing_captions):
            lines.append(f"still missing: caption {key} under {fingerprint}")
        if not self.nothing_missing:
            lines.append("`llmdiff encode` with their data, --captions and encoder brings back what is missing")
        return "\n".join(lines)

    def _row_values(self, rows: LostRows) -> list[dict[str, Any]]:
        return [
            {"source": self.sources[key], "source_hash": key, "fingerprint": fingerprint, "rows": sorted(numbers)}
            for (fingerprint, key), numbers in sorted(rows.items())
        ]


def repair_and_encode(problems: Sequence[Problem], request: EncodeRequest) -> RepairResult:
    """Repair a store, then run the encode flow for what was lost, if the data have any of it.

    Raises:
        FileNotFoundError: there are no such data.
        ValueError: the request is none that the encode flow takes, or the damage is beyond the shards; nothing is
            changed then. Or encoding failed: the store is whole by then, without the lost rows.
    """
    in_data = check(request)
    store = EncodingStore.open(request.store)
    captions = captions_without_samples(store, problems)
    repaired = repair(store, problems)
    lost = by_source(repaired.lost)
    if captions or sources_holding(store, repaired.lost) & in_data:
        counts = f"{count(lost)} rows and {len(captions)} captions without a picture"
        print(f"lost {counts}; should this be interrupted, `llmdiff encode` makes them again", file=sys.stderr)
        encode(request)
    return RepairResult(
        moved=repaired.moved,
        lost=lost,
        captions=captions,
        missing=by_source(missing_rows(store, repaired.lost)),
        missing_captions=missing_captions(store, captions),
        sources=dict(zip(*(repaired.lost[name].to_pylist() for name in ("source_hash", "source")), strict=True)),
    )


def check(request: EncodeRequest) -> set[str]:
    """Refuse a request that encoding would refuse; return the hashes of the data's readable shards."""
    from pipelines.runtime.encode.job import make_job

    hashes, pictures = set(), False
    for shard in open_source(request.data, request.columns):
        with contextlib.suppress(ValueError):  # the flow says why it can't be read
            hashes.add(shard.content_hash)
            pictures |= shard.has_pictures
    make_job(request, pictures)
    return hashes


def encode(request: EncodeRequest) -> None:
    """Run the flow; whatever it prints does not mix with the command's own output."""
    from pipelines.flows.encode import encode_flow

    with contextlib.redirect_stdout(sys.stderr):
        encode_flow(request)


def captions_without_samples(store: EncodingStore, problems: Iterable[Problem]) -> Captions:
    """Return the encodings lost by the problems that no sample uses."""
    lost = {key for problem in problems for key in problem.encodings}
    samples = store.samples()
    hashes = pa.array(sorted({key for _, key in lost}), pa.string())
    used = samples.filter(pc.is_in(samples["caption_hash"], value_set=hashes))
    return lost - set(zip(used["fingerprint"].to_pylist(), used["caption_hash"].to_pylist(), strict=True))


def by_source(lost: pa.Table) -> LostRows:
    """Return lost rows, a table as `storage.maintenance.repair.Repaired.lost`, by fingerprint and source hash."""
    rows: LostRows = {}
    for row in lost.to_pylist():
        rows.setdefault((row["fingerprint"], row["source_hash"]), set()).add(row["row"])
    return rows


def sources_holding(store: EncodingStore, lost: pa.Table) -> set[str]:
    """Return the hashes of the sources that hold lost rows: those they were first found in, and those of repeats."""
    repeats = store.snapshot().repeats()
    held = pc.is_in(repeats["caption_hash"], value_set=lost["caption_hash"].combine_chunks())
    return {*lost["source_hash"].to_pylist(), *repeats.filter(held)["source_hash"].to_pylist()}


def missing_rows(store: EncodingStore, lost: pa.Table) -> pa.Table:
    """Return the lost rows that the store does not know, neither by their place nor by their content."""
    snapshot = store.snapshot()
    wanted: dict[str, set[Content]] = {}
    for row in lost.to_pylist():
        wanted.setdefault(row["fingerprint"], set()).add((row["image_hash"], row["caption_hash"]))
    held = {fingerprint: snapshot.contents(fingerprint, contents) for fingerprint, contents in wanted.items()}
    known = {key: snapshot.known_rows(*key) for key in by_source(lost)}
    missing = [
        row["row"] not in known[row["fingerprint"], row["source_hash"]]
        and (row["image_hash"], row["caption_hash"]) not in held[row["fingerprint"]]
        for row in lost.to_pylist()
    ]
    return lost.filter(pa.array(missing, pa.bool_()))


def missing_captions(store: EncodingStore, captions: Captions) -> Captions:
    """Return the captions whose encodings the store does not have."""
    return {(fingerprint, key) for fingerprint, key in captions if not store.snapshot().encodings(fingerprint, [key])}


def count(rows: LostRows) -> int:
    """Return how many rows there are."""
    return sum(map(len, rows.values()))


def _caption_values(captions: Captions) -> list[dict[str, str]]:
    return [{"fingerprint": fingerprint, "caption_hash": key} for fingerprint, key in sorted(captions)]
