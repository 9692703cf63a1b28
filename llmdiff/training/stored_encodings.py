"""Single encodings of the store as tensors: the empty caption's and the validation prompts'."""

from __future__ import annotations

import torch
from torch import Tensor

from storage import EncodingStore, caption_hash


def read_encodings(store: EncodingStore, fingerprint: str, captions: list[str]) -> list[Tensor]:
    """Encodings ``([band,] token, hidden)`` bfloat16 of captions; ValueError naming one that the store lacks."""
    hashes = [caption_hash(caption) for caption in captions]
    found = store.snapshot().encodings(fingerprint, hashes)
    for caption, key in zip(captions, hashes, strict=True):
        if key not in found:
            raise ValueError(f"{store.path}: no encoding of the caption {caption!r} under {fingerprint}")
    return [torch.from_numpy(store.encoding(fingerprint, key)).view(torch.bfloat16) for key in hashes]
