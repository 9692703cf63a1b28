"""A tiny base, a store of two data files, and an adapter folder that says it was trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from llmdiff.diffusion.text import BaseTextEncoder
from storage import EncodingStore, Sample, ShardWriter, caption_hash
from tests.adapter import tiny


def make_store(folder: Path, files: dict[str, int]) -> tuple[str, int]:
    """A store of the base's encodings: `files` gives rows by source; returns fingerprint and version."""
    store = EncodingStore.open_or_create(folder)
    fingerprint = store.register_fingerprint({"kind": "base"})
    for source, rows in files.items():
        with ShardWriter(store, fingerprint=fingerprint) as writer:
            for row in range(rows):
                key = caption_hash(f"{source} {row}")
                writer.add_encoding(key, np.zeros((2, tiny.WIDTH), np.uint16))
                writer.add_latent(f"{source}-{row}", np.zeros((4, 8, 8), np.float16))
                about = {"source": source, "source_hash": f"hash of {source}", "row": row}
                writer.add_sample(
                    Sample(caption=f"{source} {row}", caption_hash=key, fingerprint=fingerprint, **about)
                    if row == rows - 1  # without a picture: not trained on
                    else Sample(
                        caption=f"{source} {row}",
                        caption_hash=key,
                        fingerprint=fingerprint,
                        latent_key=f"{source}-{row}",
                        **about,
                    )
                )
    return str(fingerprint), store.version


def make_base(folder: Path) -> Path:
    return tiny.save_base(folder, "v_prediction")


def make_adapter(folder: Path, base: Path, seed: int = 0, **facts: Any) -> Path:
    """A random adapter for a base's own text encodings; `facts` of its configuration may say otherwise."""
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    encoder = BaseTextEncoder(pipe.text_encoder, pipe.tokenizer)
    about = {"encoder": "base", "encoding_dim": tiny.WIDTH, "encoder_description": encoder.describe()}
    adapter = tiny.adapter(pipe.unet, {**about, "base_model": str(base), **facts})
    torch.manual_seed(seed)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    adapter.save(folder)
    return folder
