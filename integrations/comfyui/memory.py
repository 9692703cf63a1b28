"""The LLM in ComfyUI's memory: on the GPU while it encodes, and away from there when others need the room."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.llm.quantization import quantization_of

LoadLLM = Callable[[str, EncoderConfig], tuple[Encoder, Callable[[], object]]]


def load_llm(name_or_folder: str, settings: EncoderConfig) -> tuple[Encoder, Callable[[], object]]:
    """Return the encoder of an LLM, and what brings the LLM to where ComfyUI computes; errors as `Encoder`'s.

    Quantised weights can't be moved about: they stay where they are loaded.
    """
    from comfy.model_management import load_models_gpu, text_encoder_device, text_encoder_offload_device
    from comfy.model_patcher import ModelPatcher

    here, away = text_encoder_device(), text_encoder_offload_device()
    device = away if settings.quantization == "none" else here
    encoder = Encoder.from_pretrained(name_or_folder, settings, device=device)
    if quantization_of(encoder.llm.config) is not None:
        return encoder, lambda: None
    holder = nn.ModuleList([encoder.llm.model])  # ComfyUI sets attributes that transformers' models don't let it
    patcher = ModelPatcher(holder, load_device=here, offload_device=away)
    return encoder, lambda: load_models_gpu([patcher], force_full_load=True)
