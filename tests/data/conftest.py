"""A store, tiny encoders to fill it, and places that data may lie in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from llmdiff.data.encode import EncoderSet, prepare
from llmdiff.data.remote import http
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from storage import EncodingStore
from tests.adapter import tiny
from tests.data.remote_servers import FileServer, file_server
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
    """An encoder set without an autoencoder."""
    return prepare(store, encoder)


@pytest.fixture(scope="module")
def http_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    with file_server(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture
def site(http_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """The module's server, with the test's own files, its own hub and short pauses."""
    root = tmp_path / "served"
    root.mkdir()
    http_server.__init__(http_server.url, root)  # type: ignore[misc]
    constants = huggingface_hub.constants  # as HF_ENDPOINT makes them in a new process
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, http_server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", http_server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(http, "PAUSE", 0.01)
    return http_server


@pytest.fixture
def bucket(s3_url: str, tmp_path: Path) -> str:
    return f"{s3_url}/{tmp_path.name}"
