"""Captions to stored encodings: those that are finite, once each, in bfloat16."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from llmdiff.data.encode.known import new_captions
from llmdiff.data.rejects import BadRow
from llmdiff.encoder.text_encoder import TextEncoder
from storage import EncodingStore, Reject, ShardWriter

logger = logging.getLogger(__name__)


def encode_captions(store: EncodingStore, fingerprint: str, encoder: TextEncoder, captions: Sequence[str]) -> int:
    """Store captions that belong to no picture, such as validation prompts; return how many were new.

    A caption whose encoding is not finite becomes a reject, of source ``captions``, and is not tried again.
    """
    new = new_captions(store.snapshot(), fingerprint, captions)
    if not new:
        return 0
    written = 0
    with ShardWriter(store, shard_id("captions"), fingerprint) as writer:
        for key, encoding in encode_finite(encoder, new):
            if isinstance(encoding, BadRow):
                logger.warning("%s", encoding)
                writer.reject(reject("captions", key, 0, encoding, fingerprint))
                continue
            writer.add_encoding(key, as_bits(encoding))
            written += 1
    return written


def encode_finite(encoder: TextEncoder, captions: dict[str, str]) -> Iterator[tuple[str, Tensor | BadRow]]:
    """Yield each caption's hash and encoding; a BadRow in place of one that is missing or not finite."""
    if not captions:
        return
    encode = getattr(encoder, "encode", encoder)  # `encode` returns errors in the place of encodings
    for (key, text), encoding in zip(captions.items(), encode(list(captions.values())), strict=True):
        if isinstance(encoding, Exception):
            yield key, BadRow(getattr(encoding, "reason", "not_finite"), str(encoding))
        elif not encoding.isfinite().all():
            yield key, BadRow("not_finite", f"caption {text!r}: non-finite encoding")
        else:
            yield key, encoding


def as_bits(encoding: Tensor) -> np.ndarray:
    """Return ``([band,] token, hidden)`` as bfloat16 bits, uint16 ``(token, band * hidden)``."""
    tokens = encoding if encoding.ndim == 2 else encoding.transpose(0, 1).flatten(1)
    return tokens.to(torch.bfloat16).contiguous().view(torch.uint16).cpu().numpy()


def reject(source: str, source_hash: str, row: int, bad: BadRow, fingerprint: str) -> Reject:
    """Return the store's record of a refused row."""
    return Reject(
        source=source,
        source_hash=source_hash,
        row=row,
        reason=bad.reason,
        detail=bad.detail,
        fingerprint=fingerprint,
    )


def shard_id(name: str) -> str:
    """Return the name of a new shard's folder, which begins with the name of its source."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name.removesuffix(".parquet"))[-60:].strip("-")
    return f"{readable or 'shard'}-{uuid.uuid4().hex[:12]}"
