"""From a reading of several layers to an adapter: encode, train, draw with the encoder that the adapter describes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llmdiff import LLMAdapter, LLMDiffPipeline
from llmdiff.data.encode.captions import as_bits
from llmdiff.data.encode.encoder_set import prepare
from llmdiff.diffusion.base import load_unet
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.training import TrainConfig
from llmdiff.training.loop import train
from storage import EncodingStore, Sample, ShardWriter, caption_hash
from tests.adapter import tiny
from tests.encoder import tiny_models
from tests.training import training_run

CAPTIONS = [f"a {size} {colour} circle" for size in ("small", "large") for colour in ("red", "green", "blue")]
CHAT = "{% for m in messages %}the picture {{ m['content'] }} next to{% endfor %}"


@pytest.fixture
def llm(tmp_path: Path) -> Path:
    tiny_models.build("llama").save_pretrained(tmp_path / "llm")
    words = tiny_models.tokenizer()
    words.chat_template = CHAT
    words.save_pretrained(tmp_path / "llm")
    return tmp_path / "llm"


def encode(folder: Path, encoder: Encoder) -> str:
    """A store of the captions with made-up latents."""
    store = EncodingStore.create(folder)
    fingerprint = prepare(store, encoder).fingerprint
    rng = np.random.default_rng(0)
    with ShardWriter(store, "shard-0", fingerprint=fingerprint) as writer:
        for row, (caption, encoding) in enumerate(zip(CAPTIONS, encoder(CAPTIONS), strict=True)):
            key = caption_hash(caption)
            writer.add_encoding(key, as_bits(encoding))
            writer.add_latent(str(row), rng.standard_normal((4, 8, 8)).astype(np.float16))
            sample = {"caption": caption, "caption_hash": key, "fingerprint": fingerprint, "latent_key": str(row)}
            writer.add_sample(Sample(**sample, source="made-up", source_hash="0", row=row))
    return fingerprint


@pytest.mark.process
def test_chosen_layers_of_the_tokens_after_a_chat_are_trained_and_drawn_with(tmp_path: Path, llm: Path) -> None:
    settings = EncoderConfig(dtype="float32", reading="layers:0,2,-1", template="chat", template_keep="after")
    encoder = Encoder.from_pretrained(llm, settings, device="cpu")
    fingerprint = encode(tmp_path / "store", encoder)
    store = EncodingStore.open(tmp_path / "store")
    assert store.encoding(fingerprint, caption_hash("")).shape == (3, 3, 48), "next to <eos>"
    tiny.save_base(tmp_path / "base")
    run = TrainConfig(
        store=str(store.path),
        fingerprint=fingerprint,
        base=str(tmp_path / "base"),
        output=str(tmp_path / "run"),
        steps=3,
        batch_size=4,
        learning_rate=1e-2,
        warmup=1,
        threads=1,
        caption_dropout=0.5,
    )
    folder = train(training_run.resolved(run))
    assert folder is not None
    config = LLMAdapter.load(folder, load_unet(run.base)).config
    assert (config.bands, config.encoding_dim, config.encoder_fingerprint) == (3, 48, fingerprint)
    assert config.encoder_description["reading"] == "layers:0,2,3"
    pipe = LLMDiffPipeline.from_pretrained(run.base, folder, llm)
    assert pipe.encode_prompt.loaded.encoder.describe() == encoder.describe()
    found = pipe.encode_prompt.loaded.encoder(CAPTIONS)
    assert all(torch.equal(one, other) for one, other in zip(found, encoder(CAPTIONS), strict=True))
    other = Encoder.from_pretrained(llm, EncoderConfig(dtype="float32", reading="layers:0,1,2"), device="cpu")
    with pytest.raises(ValueError, match="was trained with another encoder: reading: expected 'layers:0,2,3'"):
        LLMDiffPipeline.from_pretrained(
            run.base,
            folder,
            Encoder(
                other.llm.model,
                other.tokenizer,
                EncoderConfig(dtype="float32", reading="layers:0,1,2", template="chat", template_keep="after"),
            ),
        )
