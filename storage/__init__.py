"""The encoding store: text encodings and latents in Zarr v3, their index in Delta Lake. See `storage.store`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage.hashing import Fingerprint, caption_hash, content_hash
from storage.schema import EncodingRef, LatentRef, Problem, Reject, Sample, ShardInfo

if TYPE_CHECKING:
    from storage.store import EncodingStore

__all__ = [
    "EncodingRef",
    "EncodingStore",
    "Fingerprint",
    "LatentRef",
    "Problem",
    "Reject",
    "Sample",
    "ShardInfo",
    "caption_hash",
    "content_hash",
]


def __getattr__(name: str) -> Any:
    if name == "EncodingStore":
        from storage.store import EncodingStore

        return EncodingStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
