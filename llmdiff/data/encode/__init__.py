"""Encodes source shards into the store: rows in; encodings, latents, samples and rejects out."""

from llmdiff.data.encode.captions import as_bits, encode_captions, encode_finite
from llmdiff.data.encode.encoder_set import EncoderSet, TextEncoder, prepare
from llmdiff.data.encode.shard import encode_shard
from llmdiff.data.encode.shard_report import ShardReport

__all__ = [
    "EncoderSet",
    "ShardReport",
    "TextEncoder",
    "as_bits",
    "encode_captions",
    "encode_finite",
    "encode_shard",
    "prepare",
]
