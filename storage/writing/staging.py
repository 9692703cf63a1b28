"""The arrays of a shard while nobody can see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from storage.hashing import checksum
from storage.io.arrays import ArrayWriter, encoding_writer, latent_writer, shape_name
from storage.io.files import file_sizes
from storage.io.manifest import bytes_by_kind, write_manifest
from storage.io.paths import StorePath
from storage.schema import EncodingRef, LatentRef
from storage.store import EncodingStore


class StagedArrays:
    """Encodings and latents of a shard being written, in its folder or where an object store gets them from.

    Once `publish` has returned they are there for good; then comes the commit that makes them visible. `discard` is
    to be called at the end, whether or not they were published.
    """

    def __init__(self, store: EncodingStore, shard: str) -> None:
        self.store = store
        self.shard = shard
        self.target: StorePath = store.path / "shards" / shard
        self.folder: Path = self.target.staging_folder()
        self._arrays: dict[str, ArrayWriter] = {}

    def add_encoding(self, fingerprint: str, bits: np.ndarray) -> EncodingRef:
        """Write an encoding, uint16 ``(token, band * hidden)``; return where it lies."""
        if bits.dtype != np.uint16 or bits.ndim != 2 or not bits.size:
            raise ValueError(f"encoding: expected uint16 (token, band * hidden), found {bits.dtype} {bits.shape}")
        array = self._encoding_array(fingerprint, bits.shape[1])
        bits = np.ascontiguousarray(bits)
        return EncodingRef(self.shard, array.append(bits), len(bits), checksum(bits))

    def add_latent(self, latent: np.ndarray) -> LatentRef:
        """Write a latent, float16 ``([2,] channel, height, width)``; return where it lies."""
        pair = latent.ndim == 4 and len(latent) == 2
        if latent.dtype != np.float16 or not (latent.ndim == 3 or pair) or not latent.size:
            expected = "float16 (channel, height, width), or two such of a picture and its mirror image"
            raise ValueError(f"latent: expected {expected}, found {latent.dtype} {latent.shape}")
        shape = shape_name(latent.shape)
        array = self._arrays.get(f"latents/{shape}") or self._keep(latent_writer(self.folder, latent.shape))
        latent = np.ascontiguousarray(latent)
        return LatentRef(self.shard, array.append(latent[None]), shape, checksum(latent))

    def flush(self) -> None:
        """Write what is in memory, to be called once, when the last row is in."""
        for array in self._arrays.values():
            array.flush()

    def publish(self) -> dict[str, int]:
        """Bring the arrays, and the list of their files' checksums, to the disk or into the object store.

        Return the bytes of the files by kind; see `storage.io.manifest.bytes_by_kind`.
        """
        if not self._arrays:
            return {}
        self.flush()
        known: dict[str, dict[str, int]] = {}
        for array in self._arrays.values():
            known |= array.files
        write_manifest(self.folder, known)
        self.target.publish(self.folder)
        return bytes_by_kind(file_sizes(self.folder))

    def discard(self) -> None:
        """Close the arrays, and remove a temporary folder."""
        self._arrays.clear()
        self.target.discard(self.folder)

    def _encoding_array(self, fingerprint: str, width: int) -> ArrayWriter:
        name = f"encodings/{fingerprint}"
        if name not in self._arrays:
            description = self.store.fingerprints().get(fingerprint)
            if description is None:
                raise ValueError(f"{self.store.path}: fingerprint {fingerprint} is not registered")
            bands = int(description.get("bands", 1))
            if width % bands:
                raise ValueError(f"encoding: expected {bands} bands of one width, found {width} columns")
            self._keep(encoding_writer(self.folder, fingerprint, width, bands))
        array = self._arrays[name]
        if array.row_shape != (width,):
            raise ValueError(f"encoding: expected {array.row_shape[0]} columns as before, found {width}")
        return array

    def _keep(self, array: ArrayWriter) -> ArrayWriter:
        self._arrays[array.name] = array
        return array
