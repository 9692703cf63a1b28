"""The samples that training reads, as columns: which there are, in what order, and where their rows of arrays lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.hashing import HASH_BYTES
from storage.io.arrays import is_pair
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
    """What to call it: ``latents``, whatever their shapes; of encodings, the array's name inside each shard."""
    places: list[tuple[str, str]]
    """Shard, and the array's name inside it."""
    place: np.ndarray
    """int64 ``(n,)``, into `places`."""
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
    shapes: list[str]
    """Shapes of latents by the store's names, sorted: ``4x64x64``; ``2x4x64x64`` where both orientations are kept."""
    shape: np.ndarray
    """int64 ``(n,)``, into `shapes`."""
    picture: np.ndarray | None
    """Which samples have one picture, where that was asked for: int64 ``(n,)``, numbers from 0 by first occurrence."""
    may_flip: np.ndarray
    """Whether a sample's picture may be mirrored: bool ``(n,)``."""
    base: ArrayRows | None
    """The captions' encodings under a second fingerprint, where one was asked for."""
    pooled: ArrayRows | None
    """The captions' encodings under a third, where one was asked for."""
    crops: np.ndarray | None
    """With `pooled`, each picture's width, height, left and top: int64 ``(n, 4)``."""

    @classmethod
    def load(
        cls,
        store: EncodingStore,
        fingerprint: str,
        base: str | None,
        pooled: str | None,
        at_least: int,
        *,
        by_picture: bool = False,
        flip_words: Sequence[str] | None = None,
    ) -> SampleIndex:
        """Read the index, but no array.

        Args:
            store: at the version to read.
            fingerprint: the encoder whose samples to read.
            base: a second encoder of the same captions, or None.
            pooled: a third, whose encodings come with the pictures' crops, or None.
            at_least: samples, one for each rank.
            by_picture: find which samples have one picture.
            flip_words: words of captions whose pictures may not be mirrored; None where none may.

        Raises:
            ValueError: no samples under the fingerprint, or fewer than `at_least`; no base or pooled encoding of a
                caption; no crop of a picture.
        """
        besides = ["crop"] * (pooled is not None) + ["latent_key"] * by_picture
        samples = load_samples(store, fingerprint, *besides)
        if len(samples) < at_least:
            raise ValueError(too_few(store, fingerprint, len(samples), at_least))
        sources, source = dictionary_column(samples["source"])
        shapes, shape = sorted_dictionary(samples["latent_shape"])
        pairs = np.array([is_pair(name) for name in shapes])[shape] & (flip_words is not None)
        return cls(
            hashes=hash_column(samples["caption_hash"]),
            sources=sources,
            source=source,
            row=samples["row"].to_numpy(),
            encodings=stored_at(samples, f"encodings/{fingerprint}", "encoding_shard", "first_token", "token_count"),
            latents=latents_at(samples, shapes, shape),
            shapes=shapes,
            shape=shape,
            picture=numbered(samples["latent_key"]) if by_picture else None,
            may_flip=pairs & ~mentions(store, fingerprint, samples, flip_words)
            if flip_words and pairs.any()
            else pairs,
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


def stored_at(samples: pa.Table, array: str, shard: str, first: str, count: str | None = None) -> ArrayRows:
    """Return where the samples' rows of an array lie, from columns of the index; one row each without `count`."""
    shards, places = dictionary_column(samples[shard])
    return ArrayRows(
        array=array,
        places=[(name, array) for name in shards],
        place=places.astype(np.int64),
        first=samples[first].to_numpy(),
        count=np.ones(len(samples), np.int64) if count is None else samples[count].to_numpy().astype(np.int64),
        checksum=samples[f"{shard.removesuffix('_shard')}_checksum"].to_numpy(),
    )


def latents_at(samples: pa.Table, shapes: list[str], shape: np.ndarray) -> ArrayRows:
    """Return where the samples' latents lie: in an array a shard and shape."""
    shards, of_shard = dictionary_column(samples["latent_shard"])
    codes, place = compact(of_shard * len(shapes) + shape)
    rows = stored_at(samples, "latents", "latent_shard", "latent_index")
    places = [(str(shards[code // len(shapes)]), f"latents/{shapes[code % len(shapes)]}") for code in codes.tolist()]
    return replace(rows, places=places, place=place)


def sorted_dictionary(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Return a dictionary column's distinct strings that occur, sorted, and each row's place there, int64 ``(n,)``."""
    values, places = dictionary_column(column)
    used, places = compact(places)
    names = [str(value) for value in values[used]]
    ranks = np.empty(len(names), np.int64)
    ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    return sorted(names), ranks[places]


def compact(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which small numbers occur, sorted, and each one's place among them, int64 ``(n,)``."""
    used = np.flatnonzero(np.bincount(codes))
    places = np.empty(used.max(initial=-1) + 1, np.int64)
    places[used] = np.arange(len(used))
    return used, places[codes]


def numbered(column: pa.ChunkedArray) -> np.ndarray:
    """Return a number for each distinct value, from 0 in the order of their first rows: int64 ``(n,)``."""
    return column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)


def mentions(store: EncodingStore, fingerprint: str, samples: pa.Table, words: Sequence[str]) -> np.ndarray:
    """Return whose captions have one of some words, whole and in any case: bool ``(n,)``."""
    either = "|".join(map(re.escape, words))
    captions = store.snapshot().read(["caption_hash", "caption"], trainable(fingerprint))
    has_word = pc.match_substring_regex(captions["caption"], rf"(?i)(?:^|[^\pL\pN_])(?:{either})(?:$|[^\pL\pN_])")
    hashes = captions["caption_hash"].filter(has_word).combine_chunks()
    return np.asarray(pc.is_in(samples["caption_hash"], value_set=hashes))


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
