"""Writes one shard: data first, then its checksums, then the one commit that makes it visible."""

from __future__ import annotations

import uuid
from types import TracebackType

import numpy as np

from storage.io import names
from storage.locks.base import LockedError
from storage.schema import Reject, Repeat, Sample
from storage.store import EncodingStore
from storage.writing.commit import ShardRows, commit_shard
from storage.writing.optimize import compact
from storage.writing.orphans import clear_abandoned, clear_uncommitted
from storage.writing.staging import StagedArrays


class ShardWriter:
    """A writer of one new shard, to be used in a ``with`` block, which commits it.

    Leaving the block without an exception commits everything or raises; after an exception nothing of it is visible
    and nothing stays on the disk. A process killed inside the block leaves files that the next writer removes. Two
    writers may be given the same source: each row is committed once, by whichever comes first. So is each picture with
    a caption, whatever rows hold it: the others are repeats of that sample.
    """

    def __init__(self, store: EncodingStore, shard_id: str | None = None, fingerprint: str | None = None) -> None:
        """Choose the shard's name; nothing is written before the ``with`` block.

        Args:
            store: opened at its newest version.
            shard_id: its folder's name, never used before; one is made up where it is None.
            fingerprint: the encoder whose encodings `add_encoding` takes, unless told otherwise there.
        """
        if store.pinned is not None:
            raise ValueError(f"{store.path}: opened at version {store.pinned.number}, which can't be written to")
        self.store = store
        self.name = uuid.uuid4().hex if shard_id is None else shard_id
        self.fingerprint = fingerprint
        if not names.SHARD.fullmatch(self.name):
            raise ValueError(f"shard id: expected letters, digits, '.', '_' and '-', at most 128, found {shard_id!r}")
        self.folder = store.path / "shards" / self.name
        self._lock = store.locks.lock(self.name)
        self._staged: StagedArrays | None = None
        self._rows = ShardRows(self.name)

    def __enter__(self) -> ShardWriter:
        self.store.bring_up_to_date()
        clear_abandoned(self.store)
        if not self._lock.acquire():
            raise LockedError(f"{self.folder}: another process is writing this shard")
        if self.folder.children() or self.store.index.committed(self.name):
            self._lock.release()
            raise ValueError(f"{self.folder}: there is a shard of this name already")
        self._staged = StagedArrays(self.store, self.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._rows.bytes = self.staged.publish()
                commit_shard(self.store, self._rows)
        finally:
            self.staged.discard()
            clear_uncommitted(self.store, self.name, rewrote=False)
            self._lock.release()
        if error is None:
            compact(self.store)

    def add_encoding(self, caption_hash: str, bits: np.ndarray, fingerprint: str | None = None) -> None:
        """Add a caption's encoding, unless the shard has it; in the order of the source's rows it reads back fastest.

        Args:
            caption_hash: the caption's.
            bits: bfloat16 bits, uint16 ``(token, band * hidden)``.
            fingerprint: the encoder's, where it is not the writer's.
        """
        fingerprint = fingerprint or self.fingerprint
        if fingerprint is None:
            raise ValueError("add_encoding: expected a fingerprint, here or in ShardWriter; found none")
        if (fingerprint, caption_hash) not in self._rows.encodings:
            self._lock.renew()
            self._rows.encodings[fingerprint, caption_hash] = self.staged.add_encoding(fingerprint, bits)

    def add_latent(self, latent_key: str, latent: np.ndarray) -> None:
        """Add a picture's latent, float16 ``(channel, height, width)``, unless the shard has it.

        Two, ``(2, channel, height, width)``, are of the picture and of its mirror image.
        """
        if latent_key not in self._rows.latents:
            self._lock.renew()
            self._rows.latents[latent_key] = self.staged.add_latent(latent)

    def add_sample(self, sample: Sample) -> None:
        """Add a row of the index; its encoding and latent are of this shard or of any committed one."""
        self._rows.samples[sample.fingerprint, sample.source_hash, sample.row, sample.caption_hash] = sample

    def add_repeat(self, repeat: Repeat) -> None:
        """Add a row of the data that holds what a sample holds, of this shard or of any committed one."""
        self._rows.repeats[repeat.fingerprint, repeat.source_hash, repeat.row, repeat.caption_hash] = repeat

    def reject(self, reject: Reject) -> None:
        """Add a refused row."""
        self._rows.rejects[reject.fingerprint, reject.source_hash, reject.row] = reject

    @property
    def left_out(self) -> int:
        """Number of samples not committed, for they were there by then; known at the end of the ``with`` block."""
        return self._rows.left_out

    @property
    def staged(self) -> StagedArrays:
        """Its arrays; ValueError outside the ``with`` block."""
        if self._staged is None:
            raise ValueError(f"{self.folder}: expected a writer in its with block")
        return self._staged
