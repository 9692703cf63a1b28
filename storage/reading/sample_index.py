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
class Rows:
    """Where some rows of arrays lie, as columns: a million take tens of megabytes."""

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


def load_samples(store: EncodingStore, fingerprint: str, *besides: str) -> pa.Table:
    """Samples with pictures, ordered by source and row: the same order in any store that holds the same ones.

    `besides` are more columns of the index.
    """
    samples = store.index.read(store.snapshot(), [*SAMPLE_COLUMNS, *besides], trainable(fingerprint))
    keys = [samples["row"].to_numpy(), _rank(samples["source_hash"]), _rank(samples["source"])]
    order = np.lexsort(keys)
    if _any_alike([key[order] for key in keys]):  # several captions of a row
        keys.insert(0, pc.rank(samples["caption_hash"].combine_chunks(), tiebreaker="dense").to_numpy())
        order = np.lexsort(keys)
    return samples.take(order)


def _rank(column: pa.ChunkedArray) -> np.ndarray:
    """Of each value of a dictionary column, among the distinct ones: int64 ``(n,)``."""
    values, places = dictionary_column(column)
    ranks = np.argsort(np.argsort(values.astype(str), kind="stable"), kind="stable")
    return ranks[places] if len(places) else np.empty(0, np.int64)


def _any_alike(keys: list[np.ndarray]) -> bool:
    """Whether two neighbours agree in all the keys."""
    return bool(np.all([key[1:] == key[:-1] for key in keys], axis=0).any())


def too_few(store: EncodingStore, fingerprint: str, found: int, world_size: int) -> str:
    """What to say where there is no sample for each rank."""
    if found:
        return f"{store.path}: expected at least a sample for each of {world_size} ranks, found {found}"
    known = [key for key, entry in store.info()["fingerprints"].items() if entry["samples"]]
    return f"{store.path}: no samples of fingerprint {fingerprint} at version {store.version}, found those of {known}"


def latent_shape(store: EncodingStore, samples: pa.Table) -> str:
    """The one shape of all samples' latents; ValueError where there are several."""
    shapes = pc.unique(samples["latent_shape"]).to_pylist()
    if len(shapes) != 1:
        raise ValueError(f"{store.path}: expected latents of one shape, found {', '.join(sorted(shapes))}")
    return str(shapes[0])


def stored_at(samples: pa.Table, array: str, shard: str, first: str, count: str | None = None) -> Rows:
    """Where the samples' rows of an array lie, from columns of the index; one row each without a column of counts."""
    shards, places = dictionary_column(samples[shard])
    return Rows(
        array=array,
        shards=shards.tolist(),
        shard=places.astype(np.int64),
        first=samples[first].to_numpy(),
        count=np.ones(len(samples), np.int64) if count is None else samples[count].to_numpy().astype(np.int64),
        checksum=samples[f"{shard.removesuffix('_shard')}_checksum"].to_numpy(),
    )


def hash_column(column: pa.ChunkedArray) -> np.ndarray:
    """Hexadecimal hashes, ASCII ``(n,)``: NumPy looks a few of them up much faster than Arrow."""
    width = 2 * HASH_BYTES
    array = column.cast(pa.binary(width)).combine_chunks()
    return np.frombuffer(array.buffers()[1], f"S{width}", len(array), array.offset * width)


def dictionary_column(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct strings of a dictionary column, objects ``(m,)``, and each row's among them, int32 ``(n,)``."""
    array = column.combine_chunks()
    return array.dictionary.to_numpy(zero_copy_only=False), array.indices.to_numpy()


def crops_of(store: EncodingStore, samples: pa.Table) -> np.ndarray:
    """Each picture's width, height, left and top, as `Sample.crop` has them: int64 ``(n, 4)``."""
    crops = samples["crop"].combine_chunks()
    whole = pc.fill_null(pc.equal(pc.list_value_length(crops), 4), False)
    if unknown := len(samples) - pc.sum(whole).as_py():
        first = samples.filter(pc.invert(whole)).slice(0, 1).to_pylist()[0]
        raise ValueError(
            f"{store.path}: {unknown} of {len(samples)} samples don't say what of their picture was kept; "
            f"{first['source']} row {first['row']} is the first: encode them into another store"
        )
    return crops.flatten().to_numpy().astype(np.int64).reshape(-1, 4)


def join(store: EncodingStore, fingerprint: str, samples: pa.Table, kind: str = "base") -> Rows:
    """Each sample's caption under another fingerprint; `kind` says which, should one be missing."""
    columns = ["caption_hash", "encoding_shard", "first_token", "token_count", "encoding_checksum"]
    known = store.index.read(store.snapshot(), columns, pc.field("fingerprint") == fingerprint)
    places = pc.index_in(samples["caption_hash"], value_set=known["caption_hash"].combine_chunks())
    if places.null_count:
        caption = samples["caption_hash"].filter(pc.is_null(places))[0]
        raise ValueError(
            f"{store.path}: {places.null_count} of {len(samples)} samples have no encoding under the {kind} "
            f"fingerprint {fingerprint}; caption {caption} is the first: encode again with --diffusion of that base"
        )
    return stored_at(known.take(places), f"encodings/{fingerprint}", "encoding_shard", "first_token", "token_count")
