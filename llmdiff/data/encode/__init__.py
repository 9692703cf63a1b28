"""Encodes source shards into the store: rows in; encodings, latents, samples and rejects out."""

from llmdiff.data.encode.captions import as_bits, encode_captions, encode_finite
from llmdiff.data.encode.recipe import Recipe, TextEncoder, prepare
from llmdiff.data.encode.report import ShardReport
from llmdiff.data.encode.shard import RowEncoder, encode_shard

__all__ = [
    "Recipe",
    "RowEncoder",
    "ShardReport",
    "TextEncoder",
    "as_bits",
    "encode_captions",
    "encode_finite",
    "encode_shard",
    "prepare",
]
