"""Writes one shard: data first, then its checksums, then the one commit that makes it visible."""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from storage.hashing import checksum
from storage.index.table import Snapshot
from storage.io.arrays import ArrayWriter, encoding_writer, latent_writer, shape_name
from storage.io.files import exists, list_folder, remove, remove_all, sync_tree, upload_tree, write_manifest
from storage.io.paths import StorePath
from storage.schema import INDEX, REJECTS, EncodingRef, LatentRef, Reject, Sample

if TYPE_CHECKING:
    from storage.store import EncodingStore

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ShardWriter:
    """A shard being written; `EncodingStore.writer` makes it, its ``with`` block commits it.

    Leaving the block without an exception commits everything or raises; after an exception nothing of it is visible
    and nothing stays on the disk. A process killed inside the block leaves files that the next writer removes. Two
    writers may be given the same source: each row is committed once, by whichever comes first.
    """

    def __init__(self, store: EncodingStore, shard_id: str | None, fingerprint: str | None) -> None:
        self.store = store
        self.name = uuid.uuid4().hex if shard_id is None else shard_id
        self.fingerprint = fingerprint
        if not NAME.fullmatch(self.name):
            raise ValueError(f"shard id: expected letters, digits, '.', '_' and '-', at most 128, found {shard_id!r}")
        self.folder = store.path / "shards" / self.name
        self._claim = store.claims.claim(self.name)
        self._draft: Path | None = None
        self._arrays: dict[str, ArrayWriter] = {}
        self._encodings: dict[tuple[str, str], EncodingRef] = {}
        self._latents: dict[str, LatentRef] = {}
        self._samples: dict[tuple[str, str, int, str], Sample] = {}
        self._rejects: dict[tuple[str, str, int], Reject] = {}

    def __enter__(self) -> ShardWriter:
        clear_abandoned(self.store)
        if not self._claim.take():
            raise ValueError(f"{self.folder}: another process is writing this shard")
        if list_folder(self.folder) or self.store.index.committed(self.name):
            self._claim.release()
            raise ValueError(f"{self.folder}: there is a shard of this name already")
        self._draft = draft_of(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._commit()
        finally:
            self._arrays.clear()
            discard(self._draft, self.folder)
            clear_uncommitted(self.store, self.name)
            self._claim.release()

    def add_encoding(self, caption_hash: str, bits: np.ndarray, fingerprint: str | None = None) -> None:
        """Adds a caption's encoding, unless the shard has it; in the order of the source's rows it reads back fastest.

        Args:
            caption_hash: the caption's.
            bits: bfloat16 bits, uint16 ``(token, band * hidden)``.
            fingerprint: the encoder's, where it is not the writer's.
        """
        fingerprint = fingerprint or self.fingerprint
        if fingerprint is None:
            raise ValueError("add_encoding: expected a fingerprint, here or in EncodingStore.writer; found none")
        if (fingerprint, caption_hash) in self._encodings:
            return
        self._claim.renew()
        if bits.dtype != np.uint16 or bits.ndim != 2 or not bits.size:
            raise ValueError(f"encoding: expected uint16 (token, band * hidden), found {bits.dtype} {bits.shape}")
        array = self._encoding_array(fingerprint, bits.shape[1])
        bits = np.ascontiguousarray(bits)
        ref = EncodingRef(self.name, array.append(bits), len(bits), checksum(bits))
        self._encodings[fingerprint, caption_hash] = ref

    def add_latent(self, latent_key: str, latent: np.ndarray) -> None:
        """Adds a picture's latent, float16 ``(channel, height, width)``, unless the shard has it."""
        if latent_key in self._latents:
            return
        self._claim.renew()
        if latent.dtype != np.float16 or latent.ndim != 3 or not latent.size:
            raise ValueError(f"latent: expected float16 (channel, height, width), found {latent.dtype} {latent.shape}")
        shape = shape_name(latent.shape)
        array = self._arrays.get(f"latents/{shape}") or self._add_array(latent_writer(self.draft, latent.shape))
        latent = np.ascontiguousarray(latent)
        self._latents[latent_key] = LatentRef(self.name, array.append(latent[None]), shape, checksum(latent))

    def add_sample(self, sample: Sample) -> None:
        """Adds a row of the index; its encoding and latent are of this shard or of any committed one."""
        self._samples[sample.fingerprint, sample.source_hash, sample.row, sample.caption_hash] = sample

    def reject(self, reject: Reject) -> None:
        """Adds a refused row."""
        self._rejects[reject.fingerprint, reject.source_hash, reject.row] = reject

    @property
    def draft(self) -> Path:
        """Where its arrays are written: its folder, or one of this machine until an object store gets them."""
        if self._draft is None:
            raise ValueError(f"{self.folder}: expected a writer in its with block")
        return self._draft

    def _encoding_array(self, fingerprint: str, width: int) -> ArrayWriter:
        name = f"encodings/{fingerprint}"
        if name not in self._arrays:
            description = self.store.fingerprints().get(fingerprint)
            if description is None:
                raise ValueError(f"{self.store.path}: fingerprint {fingerprint} is not registered")
            bands = int(description.get("bands", 1))
            if width % bands:
                raise ValueError(f"encoding: expected {bands} bands of one width, found {width} columns")
            self._add_array(encoding_writer(self.draft, fingerprint, width, bands))
        array = self._arrays[name]
        if array.row_shape != (width,):
            raise ValueError(f"encoding: expected {array.row_shape[0]} columns as before, found {width}")
        return array

    def _add_array(self, array: ArrayWriter) -> ArrayWriter:
        self._arrays[array.name] = array
        return array

    def _commit(self) -> None:
        if self._arrays:
            seal(self.draft, self.folder, self._arrays.values())
        with self.store.claims.committing():
            self.store.reject_table.commit(self.name, self._build_rejects)
            self.store.index.commit(self.name, self._build_index)

    def _build_rejects(self, snapshot: Snapshot) -> tuple[pa.Table, Iterable[str]] | None:
        known = {key: self.store.reject_rows_in(snapshot, *key) for key in {key[:2] for key in self._rejects}}
        new = [reject for key, reject in self._rejects.items() if key[2] not in known[key[:2]]]
        rows = [{**vars(reject), "shard": self.name} for reject in new]
        return (pa.Table.from_pylist(rows, REJECTS), map("/".join, known)) if rows else None

    def _build_index(self, snapshot: Snapshot) -> tuple[pa.Table, Iterable[str]] | None:
        """Rows for the samples that no other writer committed first, and for what no sample mentions."""
        known = {key: self.store.sample_rows_in(snapshot, *key) for key in {key[:2] for key in self._samples}}
        samples = [sample for key, sample in self._samples.items() if key[2] not in known[key[:2]]]
        encodings = self._resolve_encodings(snapshot, samples)
        latents = self._resolve_latents(snapshot, samples)
        rows = [sample_columns(sample, encodings, latents) for sample in samples]
        rows += self._unmentioned(snapshot, samples)
        for row in rows:
            row["shard"] = self.name
        return (pa.Table.from_pylist(rows, INDEX), map("/".join, known)) if rows else None

    def _resolve_encodings(self, snapshot: Snapshot, samples: list[Sample]) -> dict[tuple[str, str], EncodingRef]:
        wanted = {(sample.fingerprint, sample.caption_hash) for sample in samples}
        found = {key: ref for key, ref in self._encodings.items() if key in wanted}
        for fingerprint in {fingerprint for fingerprint, _ in wanted - found.keys()}:
            hashes = [key for fp, key in wanted - found.keys() if fp == fingerprint]
            refs = self.store.encodings_in(snapshot, fingerprint, hashes)
            found |= {(fingerprint, key): ref for key, ref in refs.items()}
        if missing := sorted(wanted - found.keys()):
            raise ValueError(f"{self.folder}: no encoding of caption {missing[0][1]} under {missing[0][0]}")
        return found

    def _resolve_latents(self, snapshot: Snapshot, samples: list[Sample]) -> dict[str, LatentRef]:
        wanted = {sample.latent_key for sample in samples if sample.latent_key is not None}
        found = {key: ref for key, ref in self._latents.items() if key in wanted}
        found |= self.store.latents_in(snapshot, wanted - found.keys())
        if missing := sorted(wanted - found.keys()):
            raise ValueError(f"{self.folder}: no latent of key {missing[0]}")
        return found

    def _unmentioned(self, snapshot: Snapshot, samples: list[Sample]) -> list[dict[str, Any]]:
        """A row for each encoding and latent that none of the samples uses and the store does not have."""
        encodings = self._encodings.keys() - {(sample.fingerprint, sample.caption_hash) for sample in samples}
        latents = self._latents.keys() - {sample.latent_key for sample in samples}
        for fingerprint in {fingerprint for fingerprint, _ in encodings}:
            hashes = [key for fp, key in encodings if fp == fingerprint]
            encodings -= {(fingerprint, key) for key in self.store.encodings_in(snapshot, fingerprint, hashes)}
        latents -= self.store.latents_in(snapshot, latents).keys()
        rows = [encoding_columns(key, self._encodings[key]) for key in sorted(encodings)]
        return rows + [latent_columns(key, self._latents[key]) for key in sorted(latents)]


def draft_of(folder: StorePath) -> Path:
    """Where a shard's arrays are written: in its folder, or in a temporary one if that is in an object store."""
    return folder if isinstance(folder, Path) else Path(tempfile.mkdtemp(prefix="llmdiff-"))


def seal(draft: Path, folder: StorePath, arrays: Iterable[ArrayWriter]) -> None:
    """Brings a shard's arrays, and the list of their files' checksums, to the disk or into the object store."""
    known: dict[str, dict[str, int]] = {}
    for array in arrays:
        array.flush()
        known |= array.files
    write_manifest(draft, known)
    if isinstance(folder, Path):
        sync_tree(draft)
    else:
        upload_tree(draft, folder)


def discard(draft: Path | None, folder: StorePath) -> None:
    """Removes a temporary folder."""
    if draft is not None and draft != folder:
        remove(draft)


def clear_abandoned(store: EncodingStore) -> None:
    """Removes what writers that died left half-written."""
    for claim in store.claims.abandoned():
        clear_uncommitted(store, claim.name)


def clear_uncommitted(store: EncodingStore, name: str) -> None:
    """Removes each file of a shard's name that no commit names; the caller holds the shard's claim."""
    remove_all(uncommitted_files(store, name))


def uncommitted_files(store: EncodingStore, name: str) -> list[StorePath]:
    """Files and folders of a shard's name that no commit names."""
    paths = [path for table in (store.index, store.reject_table) for path in table.uncommitted_files(name)]
    if not store.index.committed(name):
        paths.append(store.path / "shards" / name)
    return [path for path in paths if exists(path) or list_folder(path)]


@contextmanager
def rewriting(store: EncodingStore, name: str) -> Iterator[None]:
    """Held while committed rows are replaced under a name; what was not committed at the end is removed."""
    claim = store.claims.claim(name)
    with store.claims.removing():
        if not claim.take(removing=True):
            raise ValueError(f"{claim.path}: another process has it")
        try:
            yield
        finally:
            clear_uncommitted(store, name)
            claim.release()


def sample_columns(
    sample: Sample, encodings: Mapping[tuple[str, str], EncodingRef], latents: Mapping[str, LatentRef]
) -> dict[str, Any]:
    """A sample's columns of the index, and those of its encoding and latent."""
    key = sample.fingerprint, sample.caption_hash
    columns = {**vars(sample), **encoding_columns(key, encodings[key])}
    if sample.latent_key is not None:
        columns |= latent_columns(sample.latent_key, latents[sample.latent_key])
    return columns


def encoding_columns(key: tuple[str, str], ref: EncodingRef) -> dict[str, Any]:
    """An encoding's columns of the index; `key` is its fingerprint and caption hash."""
    return {
        "fingerprint": key[0],
        "caption_hash": key[1],
        "encoding_shard": ref.shard,
        "first_token": ref.first_token,
        "token_count": ref.token_count,
        "encoding_checksum": ref.checksum,
    }


def latent_columns(key: str, ref: LatentRef) -> dict[str, Any]:
    """A latent's columns of the index."""
    return {
        "latent_key": key,
        "latent_shard": ref.shard,
        "latent_shape": ref.shape,
        "latent_index": ref.index,
        "latent_checksum": ref.checksum,
    }
