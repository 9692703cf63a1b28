"""Mean and standard deviation of a store's encodings, channel by channel: what `adapter.standardise` divides by."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed as dist
from torch import Tensor

from llmdiff.adapter.phi import Standardisation
from llmdiff.training.stored_encodings import iterate_encodings
from storage import EncodingStore
from storage.schema import trainable

SAMPLE = 2048
"""Captions that the statistics are of, at most."""


def set_statistics(
    standardisation: Standardisation, store: EncodingStore, fingerprint: str, device: torch.device
) -> None:
    """Give an adapter the `store_statistics`, as the first process finds them; all exchange tensors on `device`."""
    found = torch.stack([standardisation.mean, standardisation.std]).to(device)
    if dist.get_rank() == 0:
        found.copy_(torch.stack(store_statistics(store, fingerprint)))
    dist.broadcast(found, 0)
    standardisation.set(*found)


def store_statistics(store: EncodingStore, fingerprint: str, captions: int = SAMPLE) -> tuple[Tensor, Tensor]:
    """Return `channel_statistics` of a store's encodings, over the tokens of as many of its captions."""
    return channel_statistics(iterate_encodings(store, fingerprint, sampled_captions(store, fingerprint, captions)))


def sampled_captions(store: EncodingStore, fingerprint: str, count: int) -> list[str]:
    """Return the smallest hashes of captions that training reads: as good as drawn at random, and always the same."""
    rows = store.snapshot().read(["caption_hash"], trainable(fingerprint))
    hashes = pc.unique(rows["caption_hash"].cast(pa.string()))
    return sorted(hashes.take(pc.bottom_k_unstable(hashes, k=count)).to_pylist())


def channel_statistics(encodings: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each band's channels over all tokens, ``(band, hidden)`` float32 each.

    A channel that is the same everywhere has 1 for its standard deviation. Encodings ``([band,] token, hidden)`` that
    are not finite are left out; training leaves out their steps too.

    Raises:
        ValueError: none is left.
    """
    tokens, origin, total, squares = 0, None, torch.zeros(()), torch.zeros(())
    for encoding in encodings:
        banded = encoding.double().reshape(-1, *encoding.shape[-2:])  # (k, t, d)
        if not banded.isfinite().all():
            continue
        if origin is None:
            origin = banded[:, :1]  # (k, 1, d); seen from one of its values, a constant channel has exactly none
        from_origin = banded - origin
        tokens += from_origin.shape[1]
        total = total + from_origin.sum(1)
        squares = squares + from_origin.square().sum(1)
    if origin is None:
        raise ValueError("adapter.standardise: expected encodings with finite numbers, found none in the store")
    mean = total / tokens
    std = (squares / tokens - mean.square()).clamp(min=0).sqrt().float()
    return (origin.squeeze(1) + mean).float(), torch.where(std == 0, 1.0, std)
