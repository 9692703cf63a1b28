"""The samples that training reads, as columns: which there are, in what order, and where their rows of arrays lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.hashing import HASH_BYTES
from storage.schema import trainable
from storage.store import EncodingStore

SAMPLE_COLUMNS = [
    *("source", "source_hash", "row", "caption_hash"),
    *("encoding_shard", "first_token", "token_count", "encoding_checksum"),
    *("latent_shard", "latent_shape", "latent_index", "latent_checksum"),
]


@dataclass(frozen=True, kw_only=True)
class ArrayRows:
    """Where the samples' rows of one array lie, as columns: a million take tens of megabytes."""

    array: str
    """Name of the array inside each shard."""
    shards: list[str]
    shard: np.ndarray
    """int64 ``(n,)``, into `shards`."""
    first: np.ndarray
    """int64 ``(n,)``"""
    count: np.ndarray
    """int64 ``(n,)``"""
    checksum: np.ndarray
    """int64 ``(n,)``"""

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, kw_only=True)
class SampleIndex:
    """A version's samples under one fingerprint; all columns are of ``n`` samples in one order."""

    hashes: np.ndarray
    """Hexadecimal caption hashes, ASCII ``(n,)``."""
    sources: np.ndarray
    """The names of the source shards, objects."""
    source: np.ndarray
    """int32 ``(n,)``, into `sources`."""
    row: np.ndarray
    """int64 ``(n,)``, row of the source."""
    encodings: ArrayRows
    latents: ArrayRows
    base: ArrayRows | None
    """The captions' encodings under a second fingerprint, where one was asked for."""
    pooled: ArrayRows | None
    """The captions' encodings under a third, where one was asked for."""
    crops: np.ndarray | None
    """With `pooled`, each picture's width, height, left and top: int64 ``(n, 4)``."""

    @classmethod
    def load(
        cls, store: EncodingStore, fingerprint: str, base: str | None, pooled: str | None, at_least: int
    ) -> SampleIndex:
        """Read the index, but no array.

        Args:
            store: at the version to read.
            fingerprint: the encoder whose samples to read.
            base: a second encoder of the same captions, or None.
            pooled: a third, whose encodings come with the pictures' crops, or None.
            at_least: samples, one for each rank.

        Raises:
            ValueError: no samples under the fingerprint, or fewer than `at_least`; no base or pooled encoding of a
                caption; no crop of a picture; latents of several shapes.
        """
        samples = load_samples(store, fingerprint, *["crop"] * (pooled is not None))
        if len(samples) < at_least:
            raise ValueError(too_few(store, fingerprint, len(samples), at_least))
        sources, source = dictionary_column(samples["source"])
        latents = f"latents/{latent_shape(store, samples)}"
        return cls(
            hashes=hash_column(samples["caption_hash"]),
            sources=sources,
            source=source,
            row=samples["row"].to_numpy(),
            encodings=stored_at(samples, f"encodings/{fingerprint}", "encoding_shard", "first_token", "token_count"),
            latents=stored_at(samples, latents, "latent_shard", "latent_index"),
            base=None if base is None else join(store, base, samples),
            pooled=None if pooled is None else join(store, pooled, samples, "pooled"),
            crops=None if pooled is None else crops_of(store, samples),
        )

    def __len__(self) -> int:
        return len(self.row)

    @property
    def arrays(self) -> list[ArrayRows]:
        """All that is read of a sample."""
        return [rows for rows in (self.encodings, self.base, self.pooled, self.latents) if rows is not None]


def load_samples(store: EncodingStore, fingerprint: str, *besides: str) -> pa.Table:
    """Return samples with pictures, ordered by source and row: the same order in any store that holds the same ones.

    `besides` are more columns of the index.
    """
    samples = store.snapshot().read([*SAMPLE_COLUMNS, *besides], trainable(fingerprint))
    keys = [samples["row"].to_numpy(), _rank(samples["source_hash"]), _rank(samples["source"])]
    order = np.lexsort(keys)
    if _any_alike([key[order] for key in keys]):  # several captions of a row
        keys.insert(0, pc.rank(samples["caption_hash"].combine_chunks(), tiebreaker="dense").to_numpy())
        order = np.lexsort(keys)
    return samples.take(order)


def _rank(column: pa.ChunkedArray) -> np.ndarray:
    """Return the rank of each value of a dictionary column among the distinct ones: int64 ``(n,)``."""
    values, places = dictionary_column(column)
    ranks = np.argsort(np.argsort(values.astype(str), kind="stable"), kind="stable")
    return ranks[places] if len(places) else np.empty(0, np.int64)


def _any_alike(keys: list[np.ndarray]) -> bool:
    """Return whether two neighbours agree in all the keys."""
    return bool(np.all([key[1:] == key[:-1] for key in keys], axis=0).any())


def too_few(store: EncodingStore, fingerprint: str, found: int, world_size: int) -> str:
    """Return what to say where there is no sample for each rank."""
    if found:
        return f"{store.path}: expected at least a sample for each of {world_size} ranks, found {found}"
    used = store.snapshot().read(["fingerprint"], pc.field("source").is_valid())["fingerprint"].unique().to_pylist()
    known = [key for key in store.fingerprints() if key in used]
    return f"{store.path}: no samples of fingerprint {fingerprint} at version {store.version}, found those of {known}"


def latent_shape(store: EncodingStore, samples: pa.Table) -> str:
    """Return the one shape of all samples' latents; ValueError where there are several."""
    shapes = pc.unique(samples["latent_shape"]).to_pylist()
    if len(shapes) != 1:
        raise ValueError(f"{store.path}: expected latents of one shape, found {', '.join(sorted(shapes))}")
    return str(shapes[0])


def stored_at(samples: pa.Table, array: str, shard: str, first: str, count: str | None = None) -> ArrayRows:
    """Return where the samples' rows of an array lie, from columns of the index; one row each without `count`."""
    shards, places = dictionary_column(samples[shard])
    return ArrayRows(
        array=array,
        shards=shards.tolist(),
        shard=places.astype(np.int64),
        first=samples[first].to_numpy(),
        count=np.ones(len(samples), np.int64) if count is None else samples[count].to_numpy().astype(np.int64),
        checksum=samples[f"{shard.removesuffix('_shard')}_checksum"].to_numpy(),
    )


def hash_column(column: pa.ChunkedArray) -> np.ndarray:
    """Return hexadecimal hashes, ASCII ``(n,)``: NumPy looks a few of them up much faster than Arrow."""
    width = 2 * HASH_BYTES
    array = column.cast(pa.binary(width)).combine_chunks()
    return np.frombuffer(array.buffers()[1], f"S{width}", len(array), array.offset * width)


def dictionary_column(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return a dictionary column's distinct strings, objects ``(m,)``, and each row's place there, int32 ``(n,)``."""
    array = column.combine_chunks()
    return array.dictionary.to_numpy(zero_copy_only=False), array.indices.to_numpy()


def crops_of(store: EncodingStore, samples: pa.Table) -> np.ndarray:
    """Return each picture's width, height, left and top, as `Sample.crop` has them: int64 ``(n, 4)``."""
    crops = samples["crop"].combine_chunks()
    whole = pc.fill_null(pc.equal(pc.list_value_length(crops), 4), False)
    if unknown := len(samples) - pc.sum(whole).as_py():
        first = samples.filter(pc.invert(whole)).slice(0, 1).to_pylist()[0]
        raise ValueError(
            f"{store.path}: {unknown} of {len(samples)} samples don't say what of their picture was kept; "
            f"{first['source']} row {first['row']} is the first: encode them into another store"
        )
    return crops.flatten().to_numpy().astype(np.int64).reshape(-1, 4)


def join(store: EncodingStore, fingerprint: str, samples: pa.Table, kind: str = "base") -> ArrayRows:
    """Return where each sample's caption lies under another fingerprint; `kind` says which, should one be missing."""
    columns = ["caption_hash", "encoding_shard", "first_token", "token_count", "encoding_checksum"]
    known = store.snapshot().read(columns, pc.field("fingerprint") == fingerprint)
    places = pc.index_in(samples["caption_hash"], value_set=known["caption_hash"].combine_chunks())
    if places.null_count:
        caption = samples["caption_hash"].filter(pc.is_null(places))[0]
        raise ValueError(
            f"{store.path}: {places.null_count} of {len(samples)} samples have no encoding under the {kind} "
            f"fingerprint {fingerprint}; caption {caption} is the first: encode again with --diffusion of that base"
        )
    return stored_at(known.take(places), f"encodings/{fingerprint}", "encoding_shard", "first_token", "token_count")
