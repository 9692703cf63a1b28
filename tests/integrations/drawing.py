"""A prompt drawn by diffusers' pipeline, and by the nodes in ComfyUI: the latents after each of two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

from integrations.comfyui.nodes import ApplyAdapter, EncodePrompt, LoadAdapter
from llmdiff import load_adapter
from llmdiff.diffusion.text import BaseTextEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from tests.adapter import tiny
from tests.integrations import comfyui

PROMPT, NEGATIVE = "a red circle to the left of a blue square", "a green triangle"
SD = {"block_out_channels": (32, 64), "attention_head_dim": 8, "norm_num_groups": 32}
"""ComfyUI has 32 groups and, for a Stable Diffusion 1, 8 heads."""
XL = {
    **tiny.SDXL_CHANGES,
    "block_out_channels": (64, 128),
    "attention_head_dim": (1, 2),
    "norm_num_groups": 32,
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + tiny.WIDTH,
}


def make_adapter(folder: Path, unet: UNet2DConditionModel, llm: Path, seed: int = 0, **settings: Any) -> Path:
    """An adapter of random weights, all of which count."""
    bands = 3 if settings.get("band_gates") else 1
    encoder = Encoder.from_pretrained(llm, EncoderConfig(dtype="float32", max_tokens=20, bands=bands), device="cpu")
    facts = {"encoder_description": encoder.describe(), "llm": "tiny-llama", "bands": bands}
    with torch.inference_mode(False):
        adapter = tiny.adapter(unet, facts, new_weight=0.5, **settings)
        torch.manual_seed(seed)
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return adapter.save(folder)


def in_diffusers(
    pipe: Any, folder: Path, llm: Path, noise: torch.Tensor, scale: float = 1.0, **options: Any
) -> list[Any]:
    """Latents after each of two Euler steps."""
    load_adapter(pipe, folder, str(llm)).scale = scale
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    pipe.scheduler.set_timesteps(2)
    sigma = pipe.scheduler.sigmas[0]
    start = noise * (1 + sigma**2).sqrt() / pipe.scheduler.init_noise_sigma  # as ComfyUI starts
    seen = []

    def note(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(tensors["latents"].clone())
        return tensors

    options = {"negative_prompt": NEGATIVE, "output_type": "latent", "num_inference_steps": 2, **options}
    tiny.quiet(pipe)(PROMPT, latents=start, guidance_scale=3.0, callback_on_step_end=note, **options)
    return seen


def in_comfyui(
    ui: Any,
    model: Any,
    folder: Path,
    llm: Path,
    noise: torch.Tensor,
    clip: Any = (None, None),
    scale: float = 1.0,
    texts: tuple[str, str] = (PROMPT, NEGATIVE),
) -> list[Any]:
    """Latents after each of two Euler steps, by the three nodes."""
    (adapter,) = LoadAdapter().load(str(folder), str(llm))
    (positive,), (negative,) = (
        EncodePrompt().encode(adapter, text, features) for text, features in zip(texts, clip, strict=True)
    )
    (patched,) = ApplyAdapter().apply(model, adapter, scale)
    return comfyui.sample(ui.comfy, patched, noise, positive, negative)


def conditionings(pipe: Any) -> list[Any]:
    """What CLIP Text Encode gives of the two texts."""
    encoder = BaseTextEncoder(pipe.text_encoder, pipe.tokenizer)
    return [[[encoder([text])[0].unsqueeze(0), {"pooled_output": None}]] for text in (PROMPT, NEGATIVE)]
