"""The rows of the store, as they go in and come out, and the schemas of the three Delta tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A caption with its picture, under one encoder: a row of the index."""

    caption: str
    """The text as it was encoded."""
    caption_hash: str
    """`storage.caption_hash` of it; with `fingerprint`, the key of its encoding."""
    fingerprint: str
    """The encoder that the encoding is of."""
    source: str
    """Name of the source shard, for people."""
    source_hash: str
    """Hash of the source shard's content; with `row` it says which sample this is."""
    row: int
    """Row of the source shard."""
    image_hash: str | None = None
    """Hash of the picture's bytes; None for a caption without one."""
    latent_key: str | None = None
    """Key of the picture's latent; None for a caption without one."""
    crop: Sequence[int] | None = None
    """What of the picture was kept: its width and height in pixels, and after the resize the left and top of the
    part that its latent is of."""


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A row that could not be used, and why."""

    source: str
    """Name of the source shard."""
    source_hash: str
    """Hash of the source shard's content."""
    row: int
    """Row of the source shard."""
    reason: str
    """A word to count by, such as ``empty_caption``."""
    detail: str
    """A sentence for whoever repairs the row."""
    fingerprint: str
    """The encoder the row was meant for."""


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """A row of the data that holds what a sample holds: the same picture and caption under one encoder."""

    fingerprint: str
    """The encoder."""
    source: str
    """Name of the source shard."""
    source_hash: str
    """Hash of the source shard's content."""
    row: int
    """Row of the source shard."""
    caption_hash: str
    """Hash of the sample's caption."""
    image_hash: str | None
    """Hash of the sample's picture."""


@dataclass(frozen=True, slots=True)
class EncodingRef:
    """Place of an encoding: rows of ``shards/<shard>/encodings/<fingerprint>``."""

    shard: str
    first_token: int
    token_count: int
    checksum: int
    """CRC-32C of its bytes."""


@dataclass(frozen=True, slots=True)
class LatentRef:
    """Place of a latent: a row of ``shards/<shard>/latents/<shape>``."""

    shard: str
    index: int
    shape: str
    """``4x64x64``: channels, height, width; ``2x4x64x64`` of a picture and its mirror image."""
    checksum: int
    """CRC-32C of its bytes."""


@dataclass(frozen=True)
class Problem:
    """Something in the store that is not as it was committed."""

    kind: str
    """``flipped``, ``missing``, ``truncated``, ``mismatch`` or ``orphan``."""
    path: str
    """The file or folder, relative to the store."""
    detail: str
    """What was expected and what was found."""
    shard: str | None = None
    """The shard it belongs to, where it belongs to one."""
    encodings: tuple[tuple[str, str], ...] = ()
    """(fingerprint, caption hash) of each encoding lost with it."""
    latents: tuple[str, ...] = ()
    """Keys of the latents lost with it."""

    def __str__(self) -> str:
        lost = [f"{len(self.encodings)} encodings"] * bool(self.encodings)
        lost += [f"{len(self.latents)} latents"] * bool(self.latents)
        return f"{self.kind}: {self.path}: {self.detail}" + (f" ({', '.join(lost)} lost)" if lost else "")


@dataclass(frozen=True)
class ShardInfo:
    """A shard as the index sees it."""

    name: str
    samples: int
    encodings: int
    tokens: int
    latents: int
    bytes: int


INDEX = pa.schema(
    [
        ("fingerprint", pa.string()),
        ("caption_hash", pa.string()),
        ("caption", pa.string()),
        ("encoding_shard", pa.string()),
        ("first_token", pa.int64()),
        ("token_count", pa.int32()),
        ("encoding_checksum", pa.int64()),
        ("image_hash", pa.string()),
        ("latent_key", pa.string()),
        ("latent_shard", pa.string()),
        ("latent_shape", pa.string()),
        ("latent_index", pa.int64()),
        ("latent_checksum", pa.int64()),
        ("source", pa.string()),
        ("source_hash", pa.string()),
        ("row", pa.int64()),
        ("crop", pa.list_(pa.int32())),
        ("shard", pa.string()),
    ]
)
"""A row a sample. Rows without a source name encodings and latents that no sample of their shard uses, such as the
empty caption's. ``shard`` is the shard that the row was committed with."""


CONTENT_COLUMNS = ("image_hash", "caption_hash")
"""Columns that hold the content of a row of the data."""
Content = tuple[str | None, str]
"""Content of a row of the data: a picture's hash, or None, and a caption's."""
ENCODING_COLUMNS = ("fingerprint", "caption_hash", "encoding_shard", "first_token", "token_count", "encoding_checksum")
LATENT_COLUMNS = ("latent_key", "latent_shard", "latent_shape", "latent_index", "latent_checksum")

REJECTS = pa.schema(
    [
        ("fingerprint", pa.string()),
        ("source", pa.string()),
        ("source_hash", pa.string()),
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("shard", pa.string()),
    ]
)
"""A row a refused row of a source."""

REPEATS = pa.schema(
    [
        ("fingerprint", pa.string()),
        ("source", pa.string()),
        ("source_hash", pa.string()),
        ("row", pa.int64()),
        ("caption_hash", pa.string()),
        ("image_hash", pa.string()),
        ("shard", pa.string()),
    ]
)
"""A row a row of the data whose picture and caption are a sample under another source or row. ``shard`` is the shard
that it was committed with."""
