"""Single encodings of the store as tensors: the empty caption's, the validation prompts', and a sample's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from llmdiff.data.remote.parallel import each
from storage import EncodingStore, caption_hash
from storage.io.arrays import bands_of, check_row, open_array, read_rows, split_bands
from storage.io.names import shard_folder
from storage.schema import EncodingRef


def read_encodings(store: EncodingStore, fingerprint: str, captions: list[str]) -> list[Tensor]:
    """Return encodings ``([band,] token, hidden)`` bfloat16 of captions; ValueError for one that the store lacks."""
    hashes = [caption_hash(caption) for caption in captions]
    found = store.snapshot().encodings(fingerprint, hashes)
    for caption, key in zip(captions, hashes, strict=True):
        if key not in found:
            raise ValueError(f"{store.path}: no encoding of the caption {caption!r} under {fingerprint}")
    return [torch.from_numpy(store.encoding(fingerprint, key)).view(torch.bfloat16) for key in hashes]


def iterate_encodings(store: EncodingStore, fingerprint: str, hashes: Sequence[str]) -> Iterator[Tensor]:
    """Yield encodings ``([band,] token, hidden)`` bfloat16 of captions by their hashes, in the order of the store.

    Raises:
        ValueError: one is not as it was committed.
    """
    name = f"encodings/{fingerprint}"
    array_of = cache(lambda shard: open_array(shard_folder(store.path, shard), name))

    def read(ref: EncodingRef) -> Tensor:
        array = array_of(ref.shard)
        bits = read_rows(array, ref.first_token, ref.first_token + ref.token_count)
        check_row(bits, ref.checksum, f"{store.path}: {ref.shard}/{name}: row {ref.first_token}")
        return torch.from_numpy(split_bands(bits, bands_of(array))).view(torch.bfloat16)

    refs = store.snapshot().encodings(fingerprint, hashes).values()
    yield from each(read, sorted(refs, key=lambda ref: (ref.shard, ref.first_token)), store.path.is_remote)
