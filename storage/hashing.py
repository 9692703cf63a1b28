"""Names of things in the store: hashes of captions, of files' bytes and of encoder descriptions."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from typing import Any

import crc32c
import numpy as np

HASH_BYTES = 16
"""Bytes of a hash: no two of 10^12 captions share one of 128 bits, and an index of a million rows stays small."""


def content_hash(data: bytes) -> str:
    """Return the hexadecimal hash of a file's or a picture's bytes."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).hexdigest()


def caption_hash(text: str) -> str:
    """Return the hexadecimal hash of a caption; the same for all Unicode spellings of one text (NFC)."""
    return content_hash(unicodedata.normalize("NFC", text).encode())


def checksum(data: bytes | memoryview | np.ndarray) -> int:
    """Return the CRC-32C of bytes, or of a C-contiguous array's bytes."""
    return crc32c.crc32c(data.data if isinstance(data, np.ndarray) else data)


class Fingerprint(str):
    """The hash that stands for all that decides an encoding's numbers."""

    __slots__ = ()

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Fingerprint:
        """Return the fingerprint of a description; the order of its keys does not matter."""
        return cls(content_hash(canonical_json(description).encode()))


def canonical_json(description: Mapping[str, Any]) -> str:
    """Return the one spelling of a description; ValueError where it holds more than JSON does, or NaN."""
    try:
        return json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a fingerprint's description must be plain JSON: {error}") from error
