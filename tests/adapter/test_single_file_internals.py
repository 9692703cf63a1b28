"""The families' configurations at full size against the names that diffusers reads, and its internals that we use."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from llmdiff.diffusion.families import FAMILIES
from llmdiff.model_files.checkpoint_file import PREFIXES, TENSORS, UNET, WIDTHS
from llmdiff.model_files.single_file_internals import lacking, model_type
from tests.adapter.single_files import original

MODELS = {"sd1": "v1", "sd2": "v2", "sdxl": "xl_base"}
"""What diffusers calls the families."""
WEIGHTS = {  # published: of the U-Net, the autoencoder, the text encoders
    "sd1": (859_520_964, 83_653_863, 123_060_480),
    "sd2": (865_910_724, 83_653_863, 340_387_840),
    "sdxl": (2_567_463_684, 83_653_863, 123_060_480 + 694_659_840),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_at_full_size_has_all_weights_of_its_files_and_no_others(family: str) -> None:
    configs = FAMILIES[family]
    with torch.device("meta"):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel.from_config(configs["unet"]),
            "vae": AutoencoderKL.from_config(configs["vae"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
        }
        if family == "sdxl":
            parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**configs["text_encoder_2"]))
        tensors = original(parts)
    count = {part: sum(weight.numel() for weight in model.parameters()) for part, model in parts.items()}
    assert (count["unet"], count["vae"], count["text_encoder"] + count.get("text_encoder_2", 0)) == WEIGHTS[family]
    assert CHECKPOINT_KEY_NAMES[MODELS[family]] in tensors, f"diffusers {diffusers.__version__} has other names"
    assert (model_type({name: tuple(tensor.shape) for name, tensor in tensors.items()}) or "v1") == MODELS[family]
    assert sum(name.startswith(UNET) for name in tensors) == TENSORS[family]
    assert {tensor.shape[-1] for name, tensor in tensors.items() if name.endswith("attn2.to_k.weight")} == {
        WIDTHS[family]
    }
    for part, kind in {"unet": UNet2DConditionModel, "vae": AutoencoderKL}.items():
        of_part = {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIXES[family][part])}
        assert lacking(kind, of_part, dict(parts[part].config)) == []
        of_part.popitem()
        assert len(lacking(kind, of_part, dict(parts[part].config))) == 1
