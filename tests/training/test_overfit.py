"""A tiny U-Net and its adapter learn 8 images by heart, through the library's own reader, objective and sampler.

Bounds, where the images' variance is 1: the loss falls from 1.1 to below 0.08 (mean of the last 20 steps), and every
image drawn from noise is within a mean squared error of 0.1 of its caption's, and of no other's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from llmdiff.training import TrainConfig
from llmdiff.training.objective import Objective, UnconditionalEmbedding, plain_attention, sample_generators
from llmdiff.training.validation import Validation
from storage import EncodingStore, Sample, ShardWriter, caption_hash
from storage.reading.dataset import Batch, DatasetConfig, EncodingDataset
from tests.adapter import tiny
from tests.training.training_run import bits

IMAGES, STEPS, RATE = 8, 200, 1.5e-2
CAPTIONS = tuple(f"image {i}" for i in range(IMAGES))


def make_store(folder: Path) -> EncodingStore:
    """Eight random captions of six tokens, each with a random image, and the empty caption."""
    rng = np.random.default_rng(0)
    store = EncodingStore.create(folder)
    fingerprint = store.register_fingerprint({"kind": "llm", "bands": 1})
    with ShardWriter(store, "shard-0", fingerprint=fingerprint) as writer:
        writer.add_encoding(caption_hash(""), bits(rng.standard_normal((1, tiny.HIDDEN))))
        for row, caption in enumerate(CAPTIONS):
            key = caption_hash(caption)
            writer.add_encoding(key, bits(rng.standard_normal((6, tiny.HIDDEN))))
            writer.add_latent(str(row), rng.standard_normal((4, 4, 4)).astype(np.float16))
            sample = {"caption": caption, "caption_hash": key, "fingerprint": fingerprint, "latent_key": str(row)}
            writer.add_sample(Sample(**sample, source="made-up", source_hash="0", row=row))
    return store


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    (fingerprint,) = make_store(tmp_path / "store").fingerprints()
    paths = {"store": str(tmp_path / "store"), "base": "tiny", "output": str(tmp_path / "run")}
    sampling = {"validation_prompts": CAPTIONS, "validation_guidance": 1.0, "validation_steps": 20}
    return TrainConfig(**paths, fingerprint=fingerprint, steps=STEPS, caption_dropout=0.0, **sampling)


def build(store: EncodingStore, config: TrainConfig) -> Objective:
    """All parameters are trained here, the U-Net's too: a random frozen one could not denoise."""
    unet = tiny.unet(sample_size=4, **tiny.SHALLOW).requires_grad_(True)
    adapter = tiny.adapter(unet)
    adapter.install(unet)
    schedule = DDPMScheduler.from_config(tiny.schedule("v_prediction").config)
    null = torch.from_numpy(store.encoding(config.fingerprint, caption_hash(""))).view(torch.bfloat16)
    return Objective(adapter, unet, schedule, UnconditionalEmbedding(null, None), config)


def fit(objective: Objective, batch: Batch) -> list[float]:
    """The losses of `STEPS` steps on one batch."""
    device = torch.device("cpu")
    (unet,) = objective.frozen
    trained = [p for p in [*objective.parameters(), *unet.parameters()] if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, betas=(0.8, 0.95), weight_decay=0.0, fused=True)
    losses = []
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 20) * (1 - step / STEPS)
        loss, *_ = objective(batch, sample_generators(0, step, batch, device), 1 / len(batch.rows))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_eight_images_are_learned_by_heart(config: TrainConfig) -> None:
    store = EncodingStore.open(config.store)
    objective = build(store, config)
    data = EncodingDataset(config.store, DatasetConfig(fingerprint=config.fingerprint, batch_size=IMAGES))
    twice = double(next(iter(data.epoch(0))))
    with plain_attention(torch.device("cpu")):
        losses = fit(objective, twice)
    assert losses[0] > 1.0
    assert sum(losses[-20:]) / 20 < 0.08
    validation = Validation(config, store, objective)
    images = {row: latent.float() for (_, row), latent in zip(twice.rows, twice.latents, strict=True)}
    (unet,) = objective.frozen
    with torch.no_grad():
        drawn = validation.denoise(unet, validation.context(objective.adapter, unet))
    distances = torch.stack([(drawn - images[row]).square().mean((1, 2, 3)) for row in range(IMAGES)])  # (image, drawn)
    assert torch.equal(distances.argmin(0), torch.arange(IMAGES))
    assert distances.diagonal().max() < 0.1


def double(batch: Batch) -> Batch:
    """Every sample twice, under other noise: a step of 16 costs as much as one of 8."""
    columns = {name: torch.cat([getattr(batch, name)] * 2) for name in ("encodings", "mask", "latents")}
    rows = [*batch.rows, *((f"{source} again", row) for source, row in batch.rows)]
    hashes = batch.caption_hashes * 2
    return Batch(**columns, base_encodings=None, base_mask=None, caption_hashes=hashes, rows=rows, position=IMAGES)
