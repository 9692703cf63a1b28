"""A sample as a record of fixed width, and the making of records from rows of the table."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.index.hash_numbers import HASH, hash_numbers
from storage.index.names import Names
from storage.io.arrays import is_pair
from storage.reading.sorting import COLUMNS as SORTED_BY
from storage.reading.sorting import Layout

COLUMNS = (
    *SORTED_BY,
    *("caption_hash", "encoding_shard", "first_token", "token_count", "encoding_checksum"),
    *("latent_shard", "latent_shape", "latent_index", "latent_checksum"),
)
ROWS_OF_ARRAY = [("place", "<u4"), ("first", "<i8"), ("count", "<i4"), ("checksum", "<u4")]
"""Place of a sample's rows of an array: in which array, which rows, and their CRC-32C."""
RECORD = [
    ("hash", HASH),
    ("source", "<u4"),
    ("row", "<i8"),
    ("encodings", ROWS_OF_ARRAY),
    ("latents", ROWS_OF_ARRAY),
    ("shape", "<u4"),
    ("may_flip", "?"),
]
NO_CROP = (-1, -1, -1, -1)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Selection of what an index is made of."""

    fingerprint: str
    """Fingerprint of the encoder whose samples are indexed."""
    base: str | None
    """Fingerprint of a second encoder of the same captions."""
    pooled: str | None
    """Fingerprint of a third encoder, whose encodings come with the pictures' crops."""
    by_picture: bool
    """Whether to find which samples have one picture."""
    flip_words: tuple[str, ...] | None
    """Words of captions whose pictures may not be mirrored; None where none may."""

    @property
    def others(self) -> dict[str, str]:
        """The fingerprints of the other encoders, by the record's field for them."""
        return {name: key for name, key in (("base", self.base), ("pooled", self.pooled)) if key is not None}

    @property
    def dtype(self) -> np.dtype:
        """Type of a record."""
        fields: list[Any] = [*RECORD, *((name, ROWS_OF_ARRAY) for name in self.others)]
        fields += [("crop", "<i4", (4,))] * (self.pooled is not None) + [("picture", HASH)] * self.by_picture
        return np.dtype(fields)


class RecordMaker:
    """Makes records from batches of the table."""

    def __init__(self, wanted: Wanted, layout: Layout, shapes: list[str]) -> None:
        self.wanted = wanted
        self.layout = layout
        self.shapes = Names(shapes)
        self.encoding_shards, self.latent_shards = Names(), Names()
        self.any_may_flip = False
        self._is_pair = np.array([is_pair(name) for name in shapes])
        self._looks_for_words = bool(wanted.flip_words) and bool(self._is_pair.any())
        words = "|".join(re.escape(unicodedata.normalize("NFC", word)) for word in wanted.flip_words or ())
        self._has_word = rf"(?i)(?:^|[^\pL\pN_])(?:{words})(?:$|[^\pL\pN_])"

    @property
    def columns(self) -> list[str]:
        """The columns of the table that records are made from."""
        wanted = self.wanted
        besides = {"crop": wanted.pooled is not None, "latent_key": wanted.by_picture, "caption": self._looks_for_words}
        return [*COLUMNS, *(name for name, asked in besides.items() if asked)]

    def records(self, batch: pa.RecordBatch) -> np.ndarray:
        """Return a batch's records, in its order."""
        out = np.zeros(batch.num_rows, self.wanted.dtype)
        out["hash"] = hash_numbers(batch["caption_hash"])
        out["source"] = self.layout.source_of(batch)
        out["row"] = batch["row"].to_numpy()
        out["encodings"]["place"] = self.encoding_shards.numbers(batch["encoding_shard"])
        out["encodings"]["first"] = batch["first_token"].to_numpy()
        out["encodings"]["count"] = batch["token_count"].to_numpy()
        out["encodings"]["checksum"] = batch["encoding_checksum"].to_numpy()
        out["shape"] = self.shapes.numbers(batch["latent_shape"])
        out["latents"]["place"] = self.latent_shards.numbers(batch["latent_shard"]) * len(self.shapes) + out["shape"]
        out["latents"]["first"] = batch["latent_index"].to_numpy()
        out["latents"]["count"] = 1
        out["latents"]["checksum"] = batch["latent_checksum"].to_numpy()
        if self.wanted.pooled is not None:
            out["crop"] = _crops(batch["crop"])
        if self.wanted.by_picture:
            out["picture"] = hash_numbers(batch["latent_key"])
        out["may_flip"] = self._may_flip(batch, out["shape"])
        self.any_may_flip = self.any_may_flip or bool(out["may_flip"].any())
        return out

    def _may_flip(self, batch: pa.RecordBatch, shape: np.ndarray) -> np.ndarray:
        """Return which pictures may be mirrored: those in both orientations whose caption has none of the words."""
        if self.wanted.flip_words is None:
            return np.zeros(len(shape), bool)
        pairs: np.ndarray = self._is_pair[shape]
        if not self._looks_for_words or not pairs.any():
            return pairs
        captions = pc.utf8_normalize(batch["caption"], "NFC")
        return pairs & ~np.asarray(pc.match_substring_regex(captions, self._has_word))


def _crops(column: pa.Array) -> np.ndarray:
    """Return crops, int32 ``(n, 4)``; `NO_CROP` where there is none."""
    whole = pc.fill_null(pc.equal(pc.list_value_length(column), 4), False).to_numpy(zero_copy_only=False)
    out = np.full((len(column), 4), NO_CROP, np.int32)
    out[whole] = column.filter(pa.array(whole)).flatten().to_numpy().reshape(-1, 4)
    return out
