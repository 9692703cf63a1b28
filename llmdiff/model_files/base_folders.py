"""Check a base's folder or file before anything heavy is loaded; hub names are left to the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from llmdiff.model_files.base_kinds import check_kind
from llmdiff.model_files.checkpoint_file import check_checkpoint, checkpoint_path
from llmdiff.model_files.model_folders import check_hub_name, check_tokenizer, check_weights
from llmdiff.model_files.named_files import check_named_files, json_object
from llmdiff.model_files.prediction_type import schedule_settings

BASE_PARTS = {  # each part's necessary file, and whether the part has weights
    "vae": ("config.json", True),
    "unet": ("config.json", True),
    "text_encoder": ("config.json", True),
    "tokenizer": (None, False),
    "scheduler": ("scheduler_config.json", False),
    "text_encoder_2": ("config.json", True),
    "tokenizer_2": (None, False),
}
XL_PARTS = ("text_encoder_2", "tokenizer_2")  # further parts of an SDXL
WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.safetensors")
"""Names of a part's files of weights: ``model.safetensors``, ``diffusion_pytorch_model.fp16.safetensors``, shards."""


def check_base(name_or_folder: str | os.PathLike[str], *parts: str, weights: bool = True) -> None:
    """Raise FileNotFoundError or ValueError where a path is no Stable Diffusion with these parts for an adapter.

    Args:
        name_or_folder: a folder, or a single file; a hub name passes.
        parts: keys of `BASE_PARTS`.
        weights: whether the parts' weights are looked at too, or their configurations alone.
    """
    if (file := checkpoint_path(name_or_folder)) is not None:
        checkpoint = check_checkpoint(file, *parts)
        if "scheduler" in parts:
            schedule_settings(checkpoint)
        return
    folder = Path(name_or_folder)
    if not folder.is_dir():
        check_hub_name(name_or_folder, "diffusion folder")
        return
    unet = json_object(folder / "unet" / "config.json")
    check_kind(f"diffusion folder {folder}", json_object(folder / "model_index.json"), unet)
    for part in parts:
        needed, has_weights = BASE_PARTS[part]
        what = f"diffusion folder {folder}: its {part}"
        if needed is None:
            check_tokenizer(folder / part, what)
        elif not (folder / part / needed).is_file():
            other = "found a transformer, which an adapter can't go into; " * (folder / "transformer").is_dir()
            raise FileNotFoundError(
                f"{what}: no {needed}; {other}expected a Stable Diffusion that save_pretrained wrote"
            )
        check_named_files(folder / part)
        if has_weights and weights:
            check_weights(folder / part, what)


def variant_of(folder: Path) -> str | None:
    """Return the variant of a part's weights, such as "fp16"; None where it has plain ones, or is no folder.

    Raises:
        ValueError: there are several variants, and no plain weights to take.
    """
    matches = [match for file in sorted(folder.glob("*.safetensors")) if (match := WEIGHTS.fullmatch(file.name))]
    variants = sorted({match["variant"] or "" for match in matches})
    if len(variants) > 1 and "" not in variants:
        raise ValueError(f"{folder}: expected plain weights or those of one variant, found {', '.join(variants)}")
    return variants[0] or None if variants else None
