"""The encoding store: text encodings and latents in Zarr v3, their index in Delta Lake. See `storage.store`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from storage.hashing import Fingerprint, caption_hash, content_hash
from storage.schema import EncodingRef, LatentRef, Problem, Reject, Sample, ShardInfo

if TYPE_CHECKING:
    from storage.store import EncodingStore
    from storage.writing.writer import ShardWriter

__all__ = [
    "EncodingRef",
    "EncodingStore",
    "Fingerprint",
    "LatentRef",
    "Problem",
    "Reject",
    "Sample",
    "ShardInfo",
    "ShardWriter",
    "caption_hash",
    "content_hash",
]


LATER = {"EncodingStore": "storage.store", "ShardWriter": "storage.writing.writer"}
"""What takes long to import comes with its first use."""


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(import_module(LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
