"""How pictures are made ready is part of their latents' key: a store of before it was goes on, knowingly."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from llmdiff.data.encode import EncoderSet, prepare
from llmdiff.data.encode.encoder_set import LatentEncoding
from llmdiff.data.images import PIXELS
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder
from storage import EncodingStore
from storage.maintenance.verify import verify
from storage.reading.dataset import DatasetConfig, EncodingDataset
from tests.data.conftest import SIZE
from tests.data.data_set_run import CAPTIONS, PNG, run
from tests.data.pictures import write_parquet


def old_encoders(store: EncodingStore, encoder: Encoder, latent_encoder: LatentEncoder) -> EncoderSet:
    """What a store was filled with before colour profiles were converted: its latents' key says nothing of pixels."""
    fingerprint = store.register_fingerprint({**latent_encoder.describe(), "size": SIZE, "crop": "centre"})
    latents = LatentEncoding(encoder=latent_encoder, fingerprint=fingerprint, size=SIZE, min_side=16)
    return replace(prepare(store, encoder), latents=latents)


def test_the_key_says_how_pictures_are_made_ready(store: EncodingStore, encoders: EncoderSet) -> None:
    assert encoders.latents is not None
    assert store.fingerprints()[encoders.latents.fingerprint]["pixels"] == PIXELS


def test_an_old_store_keeps_its_latents_and_gets_new_ones_beside_them(
    store: EncodingStore,
    encoder: Encoder,
    latent_encoder: LatentEncoder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = write_parquet(tmp_path / "data" / "a.parquet", list(zip(PNG[:3], CAPTIONS, strict=False)))
    run(store, data, old_encoders(store, encoder, latent_encoder))
    before = store.samples()["latent_key"].to_pylist()
    with caplog.at_level(logging.WARNING):
        encoders = prepare(store, encoder, latent_encoder, SIZE)
    assert f"pixels None, now {PIXELS!r}" in caplog.text
    write_parquet(data, list(zip(PNG[:4], CAPTIONS, strict=False)))
    assert run(store, data, encoders)[:4] == (4, 3, 1, 0)
    after = store.samples()["latent_key"].to_pylist()
    assert set(before) < set(after)
    dataset = EncodingDataset(store.path, DatasetConfig(fingerprint=encoders.fingerprint, batch_size=4, seed=0))
    assert [len(batch.rows) for batch in dataset.epoch(0)] == [4]
    assert not verify(store)


def test_the_same_way_warns_of_nothing(
    store: EncodingStore,
    encoders: EncoderSet,
    encoder: Encoder,
    latent_encoder: LatentEncoder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert prepare(store, encoder, latent_encoder, SIZE).latents == encoders.latents
    assert not caplog.records
