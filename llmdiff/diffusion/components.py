"""Load all parts of a base that is a single file, each by itself, as a diffusers pipeline takes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from llmdiff.diffusion.base import is_xl, read_config, read_index, read_model, schedule_config, unet_config

MODELS: dict[str, Any] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
}


def load_components(base: str, parts: Iterable[str], dtype: torch.dtype) -> dict[str, Any]:
    """Return a pipeline's arguments for a base; ValueError in one line for a part that can't be had.

    Args:
        base: a single file.
        parts: names of the parts to load, small ones first; there is no safety checker.
        dtype: dtype of the models.
    """
    wanted = set(parts)
    found: dict[str, Any] = settings_of(base)
    for part in ("tokenizer", "tokenizer_2"):
        if part in wanted:
            found[part] = read_config(base, part, CLIPTokenizer.from_pretrained)
    if "scheduler" in wanted:
        found["scheduler"] = load_scheduler(base)
    for part, kind in MODELS.items():
        if part in wanted:
            found[part] = read_model(base, part, kind, dtype=dtype)
    return found


def settings_of(base: str) -> dict[str, Any]:
    """Return a pipeline's arguments that are not models."""
    if is_xl(unet_config(base)):
        return {"force_zeros_for_empty_prompt": read_index(base).get("force_zeros_for_empty_prompt", True)}
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def load_scheduler(base: str) -> SchedulerMixin:
    """Return the base's own sampler."""
    config = schedule_config(base)
    return getattr(diffusers, config["_class_name"]).from_config(config)
