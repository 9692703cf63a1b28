"""What a model's folder lacks, found before anything heavy is imported or loaded; hub names are left to the hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmdiff.named_files import check_named_files
from llmdiff.safetensors_files import check_safetensors

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
TOKENIZER_SETTINGS = ("tokenizer.json", "tokenizer_config.json")
BASE_PARTS = {  # of a Stable Diffusion: the file that each part can't do without, and whether it has weights
    "vae": ("config.json", True),
    "unet": ("config.json", True),
    "text_encoder": ("config.json", True),
    "tokenizer": (None, False),
    "scheduler": ("scheduler_config.json", False),
    "text_encoder_2": ("config.json", True),
    "tokenizer_2": (None, False),
}
XL_PARTS = ("text_encoder_2", "tokenizer_2")  # which an SDXL has besides

# Settings of a U-Net that an adapter goes with: with others, conditions are read outside the cross-attentions, too.
TAKEN: dict[str, tuple[Any, ...]] = {
    "addition_embed_type": (None, "text_time"),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "dual_cross_attention": (None, False),
}
WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.safetensors")
"""A part's file of weights: ``model.safetensors``, ``diffusion_pytorch_model.fp16.safetensors``, or one of several."""
GGUF, GGUF_MAGIC = ".gguf", b"GGUF"
TIME_IDS = 6  # that SDXL's U-Net reads: height and width of the original, top and left of the crop, target size


def check_llm(name_or_folder: str | os.PathLike[str]) -> None:
    """FileNotFoundError or ValueError where a path is no LLM's: configuration, tokenizer, whole weights; or GGUF."""
    if (file := gguf_file(name_or_folder)) is not None:
        _check_gguf(file)
        return
    folder = Path(name_or_folder)
    if not folder.is_dir():
        _check_hub_name(name_or_folder, "LLM folder")
        return
    what = f"LLM folder {folder}"
    if not (folder / "config.json").is_file():
        raise ValueError(f"{what}: no config.json; expected a folder that save_pretrained wrote")
    check_named_files(folder)
    _check_tokenizer(folder, what)
    _check_weights(folder, what)


def gguf_file(name_or_folder: str | os.PathLike[str]) -> Path | None:
    """Return the GGUF file that a path is, or that lies in a folder without safetensors; None for any other LLM.

    Raises:
        ValueError: several of them lie in the folder.
    """
    path = Path(name_or_folder)
    if path.suffix == GGUF and path.is_file():
        return path
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    files = sorted(path.glob(f"*{GGUF}"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"LLM folder {path}: expected one {GGUF} file, found {names}: name the file")
    return files[0] if files else None


def check_base(name_or_folder: str | os.PathLike[str], *parts: str, weights: bool = True) -> None:
    """FileNotFoundError or ValueError where a path is no Stable Diffusion's folder with these parts.

    Args:
        name_or_folder: a hub name passes.
        parts: keys of `BASE_PARTS`.
        weights: whether the parts' weights are looked at too, or their configurations alone.
    """
    folder = Path(name_or_folder)
    if not folder.is_dir():
        _check_hub_name(name_or_folder, "diffusion folder")
        return
    for part in parts:
        needed, has_weights = BASE_PARTS[part]
        what = f"diffusion folder {folder}: its {part}"
        if needed is None:
            _check_tokenizer(folder / part, what)
        elif not (folder / part / needed).is_file():
            other = "found a transformer, which an adapter can't go into; " * (folder / "transformer").is_dir()
            raise FileNotFoundError(
                f"{what}: no {needed}; {other}expected a Stable Diffusion that save_pretrained wrote"
            )
        check_named_files(folder / part)
        if has_weights and weights:
            _check_weights(folder / part, what)


def check_unet(config: Mapping[str, Any], what: str = "the U-Net") -> None:
    """ValueError, by the setting's name, for a U-Net's configuration that an adapter can't be added to."""
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


def weights_hash(folder: Path) -> str:
    """SHA-256 over a folder's safetensors files; empty where it has none."""
    files = sorted(folder.glob("*.safetensors"))
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest() if files else ""


def first_line(error: Exception) -> str:
    """A library's error as far as its first line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_tokenizer(folder: Path, what: str) -> None:
    """ValueError where there is no tokenizer, or one that does not say which tokens it adds to a text's own."""
    if (folder / "tokenizer.model").is_file() and not any((folder / name).is_file() for name in TOKENIZER_SETTINGS):
        expected = " or ".join(TOKENIZER_SETTINGS)
        raise ValueError(f"{what}: expected {expected} beside tokenizer.model, to say how it begins and ends a text")
    if not (folder / "tokenizer.json").is_file():
        _check_parts(folder, what)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{what}: no tokenizer; expected one of {', '.join(TOKENIZER_FILES)}")


def _check_parts(folder: Path, what: str) -> None:
    """ValueError where the files of a tokenizer without ``tokenizer.json`` leave out what decides its ids."""
    if (folder / "tokenizer.model").is_file():
        try:
            settings = json.loads((folder / "tokenizer_config.json").read_bytes())
        except ValueError as error:
            raise ValueError(f"{what}: tokenizer_config.json: expected JSON: {error}") from None
        lacking = [name for name in ("tokenizer_class", "add_bos_token") if name not in settings]
        if lacking:
            expected = f"expected {' and '.join(lacking)}, for there is tokenizer.model and no tokenizer.json"
            raise ValueError(f"{what}: tokenizer_config.json: {expected}")
    elif (folder / "vocab.json").is_file() and not (folder / "merges.txt").is_file():
        raise ValueError(f"{what}: expected tokenizer.json, or merges.txt beside vocab.json, found vocab.json alone")


def _check_weights(folder: Path, what: str) -> None:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{what}: no *.safetensors weights (other formats are not loaded)")
    for file in files:
        check_safetensors(file)


def _check_gguf(file: Path) -> None:
    with file.open("rb") as data:
        begins = data.read(len(GGUF_MAGIC))
    if begins != GGUF_MAGIC:
        raise ValueError(f"{file}: expected a GGUF file, found {file.stat().st_size} bytes that don't begin as one")


def _check_hub_name(name: str | os.PathLike[str], what: str) -> None:
    """FileNotFoundError for what can only be meant as a path."""
    text = os.fspath(name)
    if Path(text).is_file():
        or_gguf = " or a .gguf file" if what.startswith("LLM") else ""
        raise ValueError(f"{what} {text}: expected a folder{or_gguf}, found a file")
    if not isinstance(name, str) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise FileNotFoundError(f"{what} {text}: no such folder")
