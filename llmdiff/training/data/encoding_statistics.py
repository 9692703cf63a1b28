"""Mean and standard deviation of a store's encodings, channel by channel: what `adapter.standardise` divides by."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed as dist
from torch import Tensor

from llmdiff.adapter.phi import Standardisation
from llmdiff.adapter.statistics import channel_statistics
from llmdiff.training.data.stored_encodings import iterate_encodings
from storage import EncodingStore
from storage.reading.trainable import trainable_rows

SAMPLE = 2048
"""Most captions that the statistics are computed of."""


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
    """Return `channel_statistics` of a store's encodings, over the tokens of at most `SAMPLE` captions."""
    return channel_statistics(iterate_encodings(store, fingerprint, sampled_captions(store, fingerprint, captions)))


def sampled_captions(store: EncodingStore, fingerprint: str, count: int) -> list[str]:
    """Return the smallest hashes of captions that training reads: as good as drawn at random, and always the same."""
    smallest = pa.array([], pa.string())
    for batch in trainable_rows(store, fingerprint, ["caption_hash"]):
        hashes = pa.concat_arrays([smallest, batch["caption_hash"]]).unique()
        smallest = hashes.take(pc.bottom_k_unstable(hashes, k=count))
    return sorted(smallest.to_pylist())
