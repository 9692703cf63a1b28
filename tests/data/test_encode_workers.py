"""Runs that are resumed, and workers that share the shards: the encodings are those of one unbroken run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmdiff.data.encode import EncoderSet, encode_shard, prepare
from llmdiff.data.sources import SourceShard, open_source
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from storage import EncodingStore, caption_hash
from storage.maintenance.verify import verify
from tests.data.conftest import SIZE
from tests.data.pictures import encoded, picture, write_parquet
from tests.encoder import tiny_models
from tests.examples import some

PNG = [encoded(picture(seed=seed)) for seed in range(4)]


class Recording(Encoder):
    """An encoder that remembers what it gave, before the store rounds it."""

    def encode(self, captions: Sequence[str], progress: Any = None) -> list[Any]:
        found = super().encode(captions, progress)
        self.__dict__.setdefault("given", {}).update(zip(captions, found, strict=True))
        return found


def worker(store: EncodingStore, latent_encoder: LatentEncoder, dtype: str = "float32") -> EncoderSet:
    """What a process that comes to a store makes for itself: models, encoder and encoders, all its own."""
    model = tiny_models.build("llama", getattr(torch, dtype))
    config = EncoderConfig(dtype=dtype, noise="cached", h=0.01, seed=3)
    return prepare(store, Recording(model, tiny_models.tokenizer(), config), latent_encoder, SIZE)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[SourceShard]:
    """Four shards of captions of all lengths, some in more than one shard."""
    folder = tmp_path_factory.mktemp("shards")
    for i in range(4):
        captions = [" ".join((tiny_models.WORDS * 2)[i + k : 2 * i + 3 * k + 1]) for k in range(1, 7)]
        write_parquet(folder / f"{i}.parquet", [(PNG[i], caption) for caption in [*captions, "a red circle"]])
    return open_source(folder)


@pytest.mark.parametrize("dtype", some(["float32", "bfloat16"]))
def test_a_run_that_is_resumed_gives_the_same_bits(
    latent_encoder: LatentEncoder, shards: list[SourceShard], dtype: str, tmp_path: Path
) -> None:
    """Cut off in the second shard and taken up by models loaded anew, the store holds what an unbroken run gives."""
    whole, cut = (EncodingStore.create(tmp_path / name) for name in ("whole", "cut"))
    encoders = worker(whole, latent_encoder, dtype)
    for shard in shards:
        encode_shard(whole, shard, encoders)

    def stop(rows: int) -> None:
        if rows:
            raise KeyboardInterrupt

    encoders = worker(cut, latent_encoder, dtype)
    encode_shard(cut, shards[0], encoders)
    with pytest.raises(KeyboardInterrupt):
        encode_shard(cut, shards[1], encoders, stop)
    resumed = EncodingStore.open(tmp_path / "cut")
    encoders = worker(resumed, latent_encoder, dtype)
    known = [encode_shard(resumed, shard, encoders).known for shard in shards]
    assert known == [shards[0].count, 0, 0, 0]
    captions = samples_of(whole)
    assert samples_of(resumed) == captions
    for caption in captions:
        one, other = (store.encoding(encoders.fingerprint, caption_hash(caption)) for store in (whole, resumed))
        np.testing.assert_array_equal(one, other)


def samples_of(store: EncodingStore) -> list[str]:
    return [sample["caption"] for sample in store.samples().to_pylist()]


def test_two_workers_agree_with_one(latent_encoder: LatentEncoder, shards: list[SourceShard], tmp_path: Path) -> None:
    """Each has half of the shards and models of its own; encodings agree within 1e-5, noise included."""
    alone, shared = (EncodingStore.create(tmp_path / name) for name in ("alone", "shared"))
    one = worker(alone, latent_encoder)
    for shard in shards:
        encode_shard(alone, shard, one)
    halves = [worker(shared, latent_encoder) for _ in range(2)]

    def encode_half(i: int) -> None:
        store = EncodingStore.open(shared.path)
        for shard in reversed(shards[i::2]):
            encode_shard(store, shard, halves[i])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(encode_half, range(2)))
    assert samples_of(alone) == samples_of(shared)
    both = {**halves[0].encoder.given, **halves[1].encoder.given}
    assert both.keys() == one.encoder.given.keys()
    for caption, expected in one.encoder.given.items():
        assert (both[caption] - expected).norm() < 1e-5 * expected.norm()
        bits = [store.encoding(one.fingerprint, caption_hash(caption)) for store in (alone, shared)]
        rounded = [torch.from_numpy(part).view(torch.bfloat16).float() for part in bits]
        torch.testing.assert_close(*rounded, rtol=2**-7, atol=1e-4)  # the last place of bfloat16
    assert not verify(shared)
