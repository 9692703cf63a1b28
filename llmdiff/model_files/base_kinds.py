"""Recognise models that an adapter can't go into by their configurations: inpainting models, refiners and others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXPECTED = "a base of Stable Diffusion 1.x, 2.x or SDXL"
REFINER = "SDXL's refiner, whose U-Net reads an aesthetic score in place of the target size"
CHANNELS = {5: "a depth-to-image model", 7: "an upscaler", 8: "an editing model", 9: "an inpainting model"}
"""Kinds of models by the number of channels that their U-Net reads; latents have 4."""
GUIDES = ("transformer", "prior", "prior_prior", "decoder")
"""Parts of other pipelines that take the place of a Stable Diffusion's U-Net."""
TIME_IDS = 6  # numbers that SDXL's U-Net reads: original height and width, top and left of the crop, target size
# Settings of a U-Net that an adapter goes with: with others, conditions are read outside the cross-attentions, too.
TAKEN: dict[str, tuple[Any, ...]] = {
    "addition_embed_type": (None, "text_time"),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "dual_cross_attention": (None, False),
}


def check_kind(what: str, index: Mapping[str, Any], unet: Mapping[str, Any]) -> None:
    """Raise ValueError in one line for a model that is no base, naming what was found.

    Args:
        what: the model's name in the error.
        index: its ``model_index.json``; empty where there is none.
        unet: its U-Net's configuration; empty where there is none.
    """
    if found := other_kind(index, unet):
        raise ValueError(f"{what}: expected {EXPECTED}, found {found}")


def other_kind(index: Mapping[str, Any], unet: Mapping[str, Any]) -> str:
    """Return in words the kind of a model that is no base; empty for a base, and where nothing says otherwise."""
    if index.get("requires_aesthetics_score"):
        return f"{REFINER} (requires_aesthetics_score in its model_index.json)"
    parts = {name for name, about in index.items() if isinstance(about, (list, tuple)) and about and about[0]}
    if parts and "unet" not in parts and not unet:
        guides = [name for name in GUIDES if name in parts]
        with_part = f" with a {guides[0]}" if guides else ""
        return f"a {index.get('_class_name', 'pipeline')}{with_part} and no unet, which an adapter goes into"
    read, drawn = unet.get("in_channels", 4), unet.get("out_channels", 4)
    return reads_a_picture(read, drawn) if isinstance(read, int) and isinstance(drawn, int) and read > drawn else ""


def reads_a_picture(read: int, drawn: int) -> str:
    """Return in words the kind of a model whose U-Net reads more channels than it draws."""
    kind = CHANNELS.get(read, "a model of another kind") if drawn == 4 else "a model of another kind"
    return (
        f"{kind}: its U-Net has in_channels {read} and out_channels {drawn}, for it reads a picture besides the noise"
    )


def check_unet(config: Mapping[str, Any], what: str = "the U-Net") -> None:
    """Raise ValueError, by the setting's name, for a U-Net's configuration that an adapter can't be added to."""
    if (kind := config.get("_class_name", "UNet2DConditionModel")) != "UNet2DConditionModel":
        raise ValueError(f"{what} is a {kind}, expected a UNet2DConditionModel")
    for setting, taken in TAKEN.items():
        if (found := config.get(setting)) not in taken:
            expected = " or ".join(map(repr, taken))
            raise ValueError(
                f"{what} has {setting} {found!r}, expected {expected}: an adapter changes cross-attentions alone, "
                "and this one reads its conditions in another way"
            )
    blocks = ("down_block_types", "mid_block_type", "up_block_types")
    if all(name in config and "CrossAttn" not in str(config[name]) for name in blocks):
        raise ValueError(f"{what} has no cross-attention: expected a UNet2DConditionModel with CrossAttn blocks")


def check_channels(config: Mapping[str, Any], what: str = "the U-Net") -> None:
    """Raise ValueError for a U-Net's configuration that draws other channels than it reads."""
    channels = config.get("in_channels", 4), config.get("out_channels", 4)
    if channels[0] != channels[1]:
        raise ValueError(f"{what} has in_channels {channels[0]} and out_channels {channels[1]}, expected the same")


def is_xl(unet: Mapping[str, Any]) -> bool:
    """Return whether a U-Net is SDXL's: whether it reads a pooled embedding, sizes and crop besides its context."""
    return unet.get("addition_embed_type") == "text_time"
