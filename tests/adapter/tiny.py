"""Tiny random parts of a Stable Diffusion base, and adapters for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from llmdiff.adapter import AdapterSettings, LLMAdapter

WIDTH, TOKENS, HIDDEN = 32, 12, 48  # cross-attention width, the base's text length, the encodings' width
PROMPTS = ["a red circle", "a small blue square to the left of the large green triangle"]
CONTROL = {
    "image": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
}  # what a ControlNet wants besides
ADAPTERS = ["on-llm", "on-both", "control"]
"""The adapters of the fixture `folders` for a base of Stable Diffusion 1's kind."""
Folders = dict[str, Path]

SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}

SD2 = {**SD15, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SHALLOW = {
    "block_out_channels": (32,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "mid_block_type": None,
}
"""Changes of the tiny one, where each module takes time: every kind of them, and one cross-attention."""
ONE_RESOLUTION = {name: SHALLOW[name] for name in ("block_out_channels", "down_block_types", "up_block_types")}
"""Changes of the tiny one, where what is around it counts: two cross-attentions, one down and one in the middle."""
SD2_CHANGES = {"attention_head_dim": (2, 4), "use_linear_projection": True}  # of the tiny one
SDXL_CHANGES = {
    **SD2_CHANGES,
    "cross_attention_dim": 2 * WIDTH,
    "transformer_layers_per_block": (1, 2),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
}


def unet(**changes: Any) -> UNet2DConditionModel:
    """Four cross-attentions: one down, one in the middle, two up."""
    torch.manual_seed(0)
    settings = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**{**settings, **changes}).eval().requires_grad_(False)


def vae(levels: int = 4) -> AutoencoderKL:
    """Pictures are `2 ** (levels - 1)` times as wide as latents."""
    torch.manual_seed(1)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    return AutoencoderKL(block_out_channels=(8,) * levels, norm_num_groups=4, **blocks).eval()


def clip_tokenizer() -> CLIPTokenizer:
    """A tokenizer that makes one token of each letter."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, [], model_max_length=TOKENS)


def text_encoder(tokenizer: CLIPTokenizer, kind: Any = CLIPTextModel, seed: int = 2) -> Any:
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config).eval()


def schedule(prediction_type: str = "epsilon") -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def pipeline(prediction_type: str = "epsilon", **changes: Any) -> StableDiffusionPipeline:
    tokenizer = clip_tokenizer()
    parts = (vae(), text_encoder(tokenizer), tokenizer, unet(**changes), schedule(prediction_type), None, None)
    return StableDiffusionPipeline(*parts, requires_safety_checker=False)


def xl_pipeline(**options: Any) -> StableDiffusionXLPipeline:
    one, two = clip_tokenizer(), clip_tokenizer()
    texts = text_encoder(one), text_encoder(two, CLIPTextModelWithProjection, seed=3)
    return quiet(StableDiffusionXLPipeline(vae(), *texts, one, two, unet(**SDXL_CHANGES), schedule(), **options))


def controlnet(model: UNet2DConditionModel, channels: tuple[int, ...] = (8, 16, 16, 16)) -> ControlNetModel:
    """A ControlNet whose output is not zero, and which reads the text."""
    net = ControlNetModel.from_unet(model, conditioning_embedding_out_channels=channels)
    torch.manual_seed(5)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return net.eval().requires_grad_(False)


def save_base(folder: Path, prediction_type: str = "epsilon", **changes: Any) -> Path:
    pipeline(prediction_type, **changes).save_pretrained(folder, safe_serialization=True)
    return folder


def save_xl_base(folder: Path, **options: Any) -> Path:
    xl_pipeline(**options).save_pretrained(folder, safe_serialization=True)
    return folder


def adapter(model: UNet2DConditionModel, facts: dict[str, Any] | None = None, **settings: Any) -> LLMAdapter:
    """An adapter for a U-Net; with `base_context` "clip" the base's features come first."""
    torch.manual_seed(3)
    base_tokens = TOKENS if settings.get("base_context") == "clip" else 0
    facts = {"encoding_dim": HIDDEN, "base_tokens": base_tokens, **(facts or {})}
    return LLMAdapter.for_unet(model, AdapterSettings(**settings), **facts)


def inputs(batch: int = 2, tokens: int = 6) -> dict[str, torch.Tensor]:
    """Noisy latents, timesteps, encodings and masks of different lengths, and the base's features."""
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(1, tokens + 1, (batch,), generator=generator)
    return {
        "latents": torch.randn(batch, 4, 8, 8, generator=generator),
        "timesteps": torch.randint(0, 1000, (batch,), generator=generator),
        "encodings": torch.randn(batch, tokens, HIDDEN, generator=generator),
        "mask": torch.arange(tokens) < lengths[:, None],
        "base": torch.randn(batch, TOKENS, WIDTH, generator=generator),
    }


def predict(model: UNet2DConditionModel, x: dict[str, torch.Tensor], context: torch.Tensor) -> torch.Tensor:
    return model(x["latents"], x["timesteps"], encoder_hidden_states=context).sample


def quiet(pipe: Any) -> Any:
    """A pipeline without bars."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, prompt: Any = "a red circle", seed: int = 0, **options: Any) -> np.ndarray:
    """Pictures ``(n, 64, 64, 3)`` of two steps."""
    if "generator" not in options and "latents" not in options:
        options["generator"] = torch.Generator().manual_seed(seed)
    options = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np", **options}
    return pipe(prompt, **options).images


def set_scale(pipe: Any, scale: float) -> None:
    pipe.llm_adapter.scale = scale


def with_controlnet(plain: StableDiffusionPipeline) -> StableDiffusionControlNetPipeline:
    net = controlnet(plain.unet)
    return quiet(StableDiffusionControlNetPipeline(**plain.components, controlnet=net, requires_safety_checker=False))
