"""A store, and tiny encoders to fill it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmdiff.data.encode import EncoderSet, prepare
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from storage import EncodingStore
from tests.adapter import tiny
from tests.encoder import tiny_models

SIZE = 64


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return Encoder(tiny_models.build("llama"), tiny_models.tokenizer(), EncoderConfig(dtype="float32"))


@pytest.fixture(scope="session")
def latent_encoder() -> LatentEncoder:
    return LatentEncoder(tiny.vae())


@pytest.fixture
def store(tmp_path: Path) -> EncodingStore:
    return EncodingStore.create(tmp_path / "store")


@pytest.fixture
def encoders(store: EncodingStore, encoder: Encoder, latent_encoder: LatentEncoder) -> EncoderSet:
    return prepare(store, encoder, latent_encoder, SIZE)


@pytest.fixture
def caption_encoders(store: EncodingStore, encoder: Encoder) -> EncoderSet:
    """Without an autoencoder."""
    return prepare(store, encoder)
