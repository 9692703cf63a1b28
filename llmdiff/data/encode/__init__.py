"""Encode source shards into the store: rows go in; encodings, latents, samples and rejects come out.

A caption becomes an encoding in `llmdiff.encoder`.

Names are imported on first use: what the store knows already is found without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmdiff.lazy import lazy

if TYPE_CHECKING:
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

__getattr__ = lazy(
    __name__,
    {
        "EncoderSet": "llmdiff.data.encode.encoder_set",
        "ShardReport": "llmdiff.data.encode.shard_report",
        "TextEncoder": "llmdiff.data.encode.encoder_set",
        "as_bits": "llmdiff.data.encode.captions",
        "encode_captions": "llmdiff.data.encode.captions",
        "encode_finite": "llmdiff.data.encode.captions",
        "encode_shard": "llmdiff.data.encode.shard",
        "prepare": "llmdiff.data.encode.encoder_set",
    },
)
