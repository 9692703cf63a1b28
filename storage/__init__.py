"""The encoding store: text encodings and latents in Zarr v3, their index in Delta Lake. See `storage.store`.

Names are imported on first use: `storage.io.files` needs the standard library alone, and the light core uses it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.hashing import Fingerprint, caption_hash, content_hash
    from storage.schema import EncodingRef, LatentRef, Problem, Reject, Repeat, Sample, ShardInfo
    from storage.store import EncodingStore
    from storage.writing.writer import ShardWriter

HOMES = {
    "EncodingRef": "storage.schema",
    "EncodingStore": "storage.store",
    "Fingerprint": "storage.hashing",
    "LatentRef": "storage.schema",
    "Problem": "storage.schema",
    "Reject": "storage.schema",
    "Repeat": "storage.schema",
    "Sample": "storage.schema",
    "ShardInfo": "storage.schema",
    "ShardWriter": "storage.writing.writer",
    "caption_hash": "storage.hashing",
    "content_hash": "storage.hashing",
}

__all__ = [
    "EncodingRef",
    "EncodingStore",
    "Fingerprint",
    "LatentRef",
    "Problem",
    "Reject",
    "Repeat",
    "Sample",
    "ShardInfo",
    "ShardWriter",
    "caption_hash",
    "content_hash",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
