"""The commit of a shard: the rows of the index and of the rejects that make it visible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa

from storage.index.snapshot import Snapshot, reject_rows, repeat_rows
from storage.index.table import TableVersion
from storage.index.transaction import append
from storage.schema import INDEX, REJECTS, REPEATS, Content, EncodingRef, LatentRef, Reject, Repeat, Sample
from storage.store import EncodingStore


@dataclass
class ShardRows:
    """Rows that a shard adds to the store's tables."""

    shard: str
    encodings: dict[tuple[str, str], EncodingRef] = field(default_factory=dict)
    """Places of encodings by fingerprint and caption hash."""
    latents: dict[str, LatentRef] = field(default_factory=dict)
    samples: dict[tuple[str, str, int, str], Sample] = field(default_factory=dict)
    """Samples by fingerprint, source hash, row and caption hash."""
    rejects: dict[tuple[str, str, int], Reject] = field(default_factory=dict)
    """Rejects by fingerprint, source hash and row."""
    repeats: dict[tuple[str, str, int, str], Repeat] = field(default_factory=dict)
    """Repeats by fingerprint, source hash, row and caption hash."""
    bytes: dict[str, int] = field(default_factory=dict)
    """Bytes of the shard's files; see `storage.index.shard_counts.ShardCounts`."""
    left_out: int = 0
    """Number of samples that were there already by the time of the commit."""


def commit_shard(store: EncodingStore, rows: ShardRows) -> None:
    """Make a published shard visible: first its rejects, then, by one commit to the index, all that it holds.

    Its repeats come last: what they repeat is there then. One that is lost with a process is found again.
    """
    commit = ShardCommit(store, rows)

    def catch_up() -> None:
        """Read what others commit before our turn comes, so that they wait for our own commit alone."""
        store.index_keys.prepare(store.index.newest(), ("contents", "rows"))

    with store.locks.committing(catch_up):
        append(store.reject_table, rows.shard, commit.build_rejects)
        append(store.index, rows.shard, commit.build_index, {rows.shard: rows.bytes})
        append(store.repeat_table, rows.shard, commit.build_repeats)


class ShardCommit:
    """Rows that are still missing in a version of the tables; what another writer committed first is left out."""

    def __init__(self, store: EncodingStore, rows: ShardRows) -> None:
        self.store = store
        self.rows = rows
        self.folder = store.path / "shards" / rows.shard
        self.repeated: list[Sample] = []
        """Samples that are repeats by the time of the commit."""

    def build_rejects(self, version: TableVersion) -> tuple[pa.Table, Iterable[str]] | None:
        """Return the new rows of the table of rejects and the names of what they depend on; see `Build`."""
        sources = {key[:2] for key in self.rows.rejects}
        known = {source: reject_rows(self.store.reject_keys, version, *source) for source in sources}
        new = [reject for key, reject in self.rows.rejects.items() if key[2] not in known[key[:2]]]
        return self._table([dict(vars(reject)) for reject in new], REJECTS, known)

    def build_index(self, version: TableVersion) -> tuple[pa.Table, Iterable[str]] | None:
        """Return rows for the samples that no other writer committed first, and for what no sample mentions.

        Commits of one encoder depend on one another, for any two may hold the same picture with the same caption.
        """
        snapshot = self.store.snapshot_at(version)
        known = {source: snapshot.sample_rows(*source) for source in {key[:2] for key in self.rows.samples}}
        samples = [sample for key, sample in self.rows.samples.items() if key[2] not in known[key[:2]]]
        samples, self.repeated = self._by_content(snapshot, samples)
        self.rows.left_out = len(self.rows.samples) - len(samples)
        encodings, latents = self._encodings_of(snapshot, samples), self._latents_of(snapshot, samples)
        rows = [sample_columns(sample, encodings, latents) for sample in samples]
        depends_on = [(fingerprint, "contents") for fingerprint in {key[0] for key in known}]
        return self._table(rows + self._unmentioned(snapshot, samples), INDEX, depends_on)

    def build_repeats(self, version: TableVersion) -> tuple[pa.Table, Iterable[str]] | None:
        """Return rows for the repeats, those of samples that another writer committed first included."""
        repeats = self.rows.repeats | {
            (sample.fingerprint, sample.source_hash, sample.row, sample.caption_hash): repeat_of(sample)
            for sample in self.repeated
        }
        keys = self.store.repeat_keys
        known = {source: repeat_rows(keys, version, *source) for source in {key[:2] for key in repeats}}
        new = [repeat for key, repeat in repeats.items() if key[2] not in known[key[:2]]]
        return self._table([dict(vars(repeat)) for repeat in new], REPEATS, known)

    def _by_content(self, snapshot: Snapshot, samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Part samples from those whose picture and caption is a sample already, or comes before among them.

        A latent of a picture whose hash is not known may be of any picture: its sample is no repeat.
        """
        wanted: dict[str, set[Content]] = {}
        for sample in samples:
            wanted.setdefault(sample.fingerprint, set()).add(content_of(sample))
        known = {fingerprint: snapshot.contents(fingerprint, contents) for fingerprint, contents in wanted.items()}
        new: list[Sample] = []
        repeated: list[Sample] = []
        for sample in samples:
            has_content = sample.image_hash is not None or sample.latent_key is None
            is_known = has_content and content_of(sample) in known[sample.fingerprint]
            known[sample.fingerprint].add(content_of(sample))
            (repeated if is_known else new).append(sample)
        return new, repeated

    def _table(
        self, rows: list[dict[str, Any]], schema: pa.Schema, sources: Iterable[tuple[str, str]]
    ) -> tuple[pa.Table, Iterable[str]] | None:
        for row in rows:
            row["shard"] = self.rows.shard
        return (pa.Table.from_pylist(rows, schema), map("/".join, sources)) if rows else None

    def _encodings_of(self, snapshot: Snapshot, samples: list[Sample]) -> dict[tuple[str, str], EncodingRef]:
        wanted = {(sample.fingerprint, sample.caption_hash) for sample in samples}
        found = {key: ref for key, ref in self.rows.encodings.items() if key in wanted}
        for fingerprint in {fingerprint for fingerprint, _ in wanted - found.keys()}:
            hashes = [key for fp, key in wanted - found.keys() if fp == fingerprint]
            refs = snapshot.encodings(fingerprint, hashes)
            found |= {(fingerprint, key): ref for key, ref in refs.items()}
        if missing := sorted(wanted - found.keys()):
            raise ValueError(f"{self.folder}: no encoding of caption {missing[0][1]} under {missing[0][0]}")
        return found

    def _latents_of(self, snapshot: Snapshot, samples: list[Sample]) -> dict[str, LatentRef]:
        wanted = {sample.latent_key for sample in samples if sample.latent_key is not None}
        found = {key: ref for key, ref in self.rows.latents.items() if key in wanted}
        found |= snapshot.latents(wanted - found.keys())
        if missing := sorted(wanted - found.keys()):
            raise ValueError(f"{self.folder}: no latent of key {missing[0]}")
        return found

    def _unmentioned(self, snapshot: Snapshot, samples: list[Sample]) -> list[dict[str, Any]]:
        """Return a row for each encoding and latent that none of the samples uses and the store does not have."""
        encodings = self.rows.encodings.keys() - {(sample.fingerprint, sample.caption_hash) for sample in samples}
        latents = self.rows.latents.keys() - {sample.latent_key for sample in samples}
        for fingerprint in {fingerprint for fingerprint, _ in encodings}:
            hashes = [key for fp, key in encodings if fp == fingerprint]
            encodings -= {(fingerprint, key) for key in snapshot.encodings(fingerprint, hashes)}
        latents -= snapshot.latents(latents).keys()
        rows = [encoding_columns(key, self.rows.encodings[key]) for key in sorted(encodings)]
        return rows + [latent_columns(key, self.rows.latents[key]) for key in sorted(latents)]


def content_of(sample: Sample | Repeat) -> Content:
    """Return a sample's content."""
    return sample.image_hash, sample.caption_hash


def repeat_of(sample: Sample) -> Repeat:
    """Return a sample as a repeat of another one."""
    return Repeat(**{each.name: getattr(sample, each.name) for each in fields(Repeat)})


def sample_columns(
    sample: Sample, encodings: Mapping[tuple[str, str], EncodingRef], latents: Mapping[str, LatentRef]
) -> dict[str, Any]:
    """Return a sample's columns of the index, and those of its encoding and latent."""
    key = sample.fingerprint, sample.caption_hash
    columns = {**vars(sample), **encoding_columns(key, encodings[key])}
    if sample.latent_key is not None:
        columns |= latent_columns(sample.latent_key, latents[sample.latent_key])
    return columns


def encoding_columns(key: tuple[str, str], ref: EncodingRef) -> dict[str, Any]:
    """Return an encoding's columns of the index; `key` is its fingerprint and caption hash."""
    return {
        "fingerprint": key[0],
        "caption_hash": key[1],
        "encoding_shard": ref.shard,
        "first_token": ref.first_token,
        "token_count": ref.token_count,
        "encoding_checksum": ref.checksum,
    }


def latent_columns(key: str, ref: LatentRef) -> dict[str, Any]:
    """Return a latent's columns of the index."""
    return {
        "latent_key": key,
        "latent_shard": ref.shard,
        "latent_shape": ref.shape,
        "latent_index": ref.index,
        "latent_checksum": ref.checksum,
    }
