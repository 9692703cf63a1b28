"""What is read back from things written before, in a form that can be kept as text: hashes, numbers, one picture.

`make.py` calls these functions with the version that wrote the things, the tests with today's. They use the most stable
entry points alone, so that both versions have them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

PROMPT, SEED = "a red circle", 5
SAMPLING = {"steps": 2, "guidance": 3.0}
HIDDEN, TOKENS = 48, 6  # the LLM's width, and how many tokens the fixed inputs have


def store_contents(store: Any) -> dict[str, Any]:
    """Every sample, reject and encoding of an opened store, as counts and hashes."""
    samples, rejects = store.samples(), store.rejects()
    encodings = {}
    for fingerprint in sorted(store.fingerprints()):
        hashes = sorted(set(store.samples(fingerprint)["caption_hash"].to_pylist()))
        parts = [store.encoding(fingerprint, key) for key in hashes]
        encodings[fingerprint] = digest(*(part for bits in parts for part in (str(bits.shape), bits)))
    return {
        "version": store.version,
        "samples": len(samples),
        "sample_rows": digest(*(str(row) for row in samples.sort_by(ROW_ORDER).to_pylist())),
        "rejects": sorted(f"{row['source']}:{row['row']} {row['reason']}" for row in rejects.to_pylist()),
        "encodings": encodings,
    }


ROW_ORDER = [(name, "ascending") for name in ("fingerprint", "source", "row")]


def batch_digests(dataset: Any) -> list[str]:
    """A hash of each batch of an epoch: captions in their order, encodings, masks, latents."""
    return [
        digest(
            *(str(part) for part in (batch.caption_hashes, batch.rows, batch.position, batch.encodings.shape)),
            *(batch.encodings.view(torch.uint16).numpy(), batch.mask.numpy(), batch.latents.numpy()),
        )
        for batch in dataset.epoch(0)
    ]


def prediction(adapter_class: Any, folder: Path, base: Path) -> list[float]:
    """What the U-Net with a saved adapter predicts for fixed inputs."""
    unet = UNet2DConditionModel.from_pretrained(base / "unet").float().eval()
    adapter = adapter_class.load(folder, unet).eval()
    adapter.install(unet)
    count = np.arange(TOKENS * HIDDEN, dtype=np.float32).reshape(1, TOKENS, HIDDEN)
    pixels = np.arange(4 * 8 * 8, dtype=np.float32).reshape(1, 4, 8, 8)
    mask = torch.arange(TOKENS)[None] < TOKENS - 2
    with torch.no_grad():
        context = adapter.context(torch.from_numpy(np.sin(count)), mask)
        predicted = unet(torch.from_numpy(np.cos(pixels)), torch.tensor([500]), encoder_hidden_states=context).sample
    return [round(value, 7) for value in predicted.flatten()[::4].tolist()]


def draw(load_adapter: Any, adapter: Path, base: Path, llm: Path) -> np.ndarray:
    """The picture that an adapter draws in a pipeline of diffusers: uint8 ``(height, width, 3)``."""
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipe.scheduler = DDIMScheduler.from_pretrained(base, subfolder="scheduler")
    pipe.set_progress_bar_config(disable=True)
    load_adapter(pipe, adapter, str(llm))
    options = {"num_inference_steps": SAMPLING["steps"], "guidance_scale": SAMPLING["guidance"]}
    drawn = pipe(PROMPT, generator=torch.Generator().manual_seed(SEED), **options)
    return np.asarray(drawn.images[0])


def drawn_path(gallery: Any, identity: str) -> str:
    """Return where an evaluation keeps a model's picture: `gallery` is the module, whose `version` is patched."""
    from llmdiff.evaluation import Prompt

    model = gallery.Model("base", {"base": identity}, lambda sampling: None)
    pictures = gallery.Gallery(Path("pictures"), model, gallery.Sampling(steps=7, scheduler="ddim"))
    return str(pictures.path(Prompt(PROMPT, SEED, 0)))


def digest(*parts: str | np.ndarray) -> str:
    """A short hash of texts and arrays."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
    return total.hexdigest()[:16]
