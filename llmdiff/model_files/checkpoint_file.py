"""Tell from the header of a single-file checkpoint which family of Stable Diffusion it is, and what it lacks.

Such a file holds the weights of all parts under the names of the original code, and no configuration. A folder beside
it that has its name without the suffix may hold parts' configurations, as in a base's folder: they come before those
of the family. Nothing of the weights is read here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from llmdiff.model_files.base_kinds import EXPECTED, REFINER, reads_a_picture
from llmdiff.model_files.named_files import SUFFIX
from llmdiff.model_files.safetensors_files import read_header
from llmdiff.model_files.single_file_internals import model_type

Family = Literal["sd1", "sd2", "sdxl"]
UNET = "model.diffusion_model."
CONV_IN = f"{UNET}input_blocks.0.0.weight"
VAE = "first_stage_model."
PREFIXES: dict[Family, dict[str, str]] = {
    "sd1": {"unet": UNET, "vae": VAE, "text_encoder": "cond_stage_model.transformer."},
    "sd2": {"unet": UNET, "vae": VAE, "text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "unet": UNET,
        "vae": VAE,
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
}
"""First part of the names of each part's tensors, by family."""
NAMES: dict[Family, str] = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "SDXL"}
WIDTHS: dict[Family, int] = {"sd1": 768, "sd2": 1024, "sdxl": 2048}
"""Width that the U-Net's cross-attentions read, by family."""
TENSORS: dict[Family, int] = {"sd1": 686, "sd2": 686, "sdxl": 1680}
"""Number of the U-Net's tensors, by family."""
REFINERS_TEXT, REFINERS_WIDTH = "conditioner.embedders.0.model.", 1280
NORMALISED = ("edm_mean", "edm_vpred.sigma_max")
"""Tensors of models that are trained by EDM's formulation, such as Playground 2.5."""
LABELS = "label_emb."
MORE = (LABELS, "time_embed.cond_proj.")
"""Layers of U-Nets that read classes, pictures' embeddings (unCLIP) or the guidance scale; the first is SDXL's, too."""
PICKLES = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A single-file checkpoint of a family that can be a base."""

    path: Path
    family: Family
    shapes: dict[str, tuple[int, ...]]
    """Shape of each tensor, by its name."""
    metadata: dict[str, Any]
    """The file's metadata."""

    @property
    def folder(self) -> Path:
        """Folder that may hold configurations for this file alone."""
        return folder_beside(self.path)

    def tensors(self, part: str) -> list[str]:
        """Return the names of a part's tensors."""
        prefix = PREFIXES[self.family].get(part)
        return [name for name in self.shapes if prefix is not None and name.startswith(prefix)]


def folder_beside(path: Path) -> Path:
    """Return the folder of a file's name without its suffix."""
    return path.with_suffix("")


def checkpoint_path(base: str | os.PathLike[str]) -> Path | None:
    """Return the single file that a base is; None for a folder or a hub name.

    Raises:
        FileNotFoundError: the name can only be meant as a file, and there is none.
        ValueError: the file is of another kind.
    """
    path = Path(base)
    if path.is_dir():
        return None
    if not path.exists():
        if path.suffix in (SUFFIX, ".ckpt"):
            raise FileNotFoundError(f"diffusion model {path}: no such file")
        return None
    if path.suffix != SUFFIX:
        pickle = "; a pickle can run code: save it as safetensors first" if path.suffix in PICKLES else ""
        raise ValueError(f"diffusion model {path}: expected a folder or a {SUFFIX} file, found another file{pickle}")
    return path


def check_checkpoint(path: Path, *parts: str) -> Checkpoint:
    """Return a single file's checkpoint; ValueError in one line where it is no base, or lacks a part's weights."""
    checkpoint = read_checkpoint(path)
    for part in parts:
        prefix = PREFIXES[checkpoint.family].get(part)
        if prefix is not None and not checkpoint.tensors(part):
            raise ValueError(
                f"diffusion model {path}: expected its {part} in tensors {prefix}…, found none: "
                "take a checkpoint that holds all parts"
            )
    return checkpoint


def read_checkpoint(path: Path) -> Checkpoint:
    """Return a single file's checkpoint by its header; ValueError in one line where it can be no base."""
    about = path.stat()
    has_unet = (folder_beside(path) / "unet" / "config.json").is_file()
    return _read(path, about.st_mtime_ns, about.st_size, has_unet)


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int, has_unet: bool) -> Checkpoint:
    header = read_header(path)
    what = f"diffusion model {path}"
    if found := _other(header.shapes):
        raise ValueError(f"{what}: expected {EXPECTED}, found {found}")
    family = _family(header.shapes)
    if not has_unet:
        _check_unet(header.shapes, family, what, folder_beside(path) / "unet")
    return Checkpoint(path=path, family=family, shapes=header.shapes, metadata=header.metadata)


def _other(shapes: dict[str, tuple[int, ...]]) -> str:
    """Return in words the kind of a file that can't be a base; empty for one that can."""
    if CONV_IN not in shapes:
        return _without_unet(shapes)
    if len(shapes[CONV_IN]) != 4:
        return f"{CONV_IN} of shape {shapes[CONV_IN]}"
    if (read := shapes[CONV_IN][1]) != 4:
        return reads_a_picture(read, 4)
    if any(name.startswith(REFINERS_TEXT) for name in shapes) or _width(shapes) == REFINERS_WIDTH:
        return REFINER
    if found := [name for name in NORMALISED if name in shapes]:
        return f"a model with {found[0]}, whose latents are scaled in another way"
    return "" if _width(shapes) else "a U-Net without cross-attention"


def _without_unet(shapes: dict[str, tuple[int, ...]]) -> str:
    """Return in words the kind of a file without a U-Net of the original code."""
    if any("lora" in name.lower() for name in shapes):
        return "a LoRA, which goes into a base"
    if CONV_IN.removeprefix(UNET) in shapes:
        return f"a U-Net alone, whose names don't begin with {UNET}"
    if (kind := model_type(shapes)) is not None:
        return f"a model that diffusers takes for {kind}"
    if any(name.startswith("down_blocks.") or ".down_blocks." in name for name in shapes):
        return "one part of a base's folder: name the folder"
    return f"no U-Net, whose first tensor would be {CONV_IN}"


def _family(shapes: dict[str, tuple[int, ...]]) -> Family:
    """Return the family by the text encoder's tensors or, without one, by the width that the U-Net reads."""
    for family, prefixes in PREFIXES.items():
        if any(name.startswith(prefixes["text_encoder"]) for name in shapes):
            return family
    by_width: dict[int, Family] = {width: family for family, width in WIDTHS.items()}
    return by_width.get(_width(shapes), "sd1")


def _check_unet(shapes: dict[str, tuple[int, ...]], family: Family, what: str, own: Path) -> None:
    """Raise ValueError where the family's own configuration does not fit the U-Net."""
    found, width = sum(name.startswith(UNET) for name in shapes), _width(shapes)
    other = f"for one of another shape, put its config.json into {own}"
    if width != WIDTHS[family]:
        raise ValueError(
            f"{what}: expected {NAMES[family]}'s U-Net, which reads width {WIDTHS[family]}, found {width}: {other}"
        )
    if found < TENSORS[family]:
        raise ValueError(
            f"{what}: expected the {TENSORS[family]} tensors of {NAMES[family]}'s U-Net, found {found}: {other}"
        )
    for more in MORE:
        if any(name.startswith(f"{UNET}{more}") for name in shapes) and not (family == "sdxl" and more == LABELS):
            raise ValueError(f"{what}: expected {EXPECTED}, found a U-Net that reads more than noise and text ({more})")


def _width(shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the width that the U-Net's first cross-attention reads; 0 without one."""
    found = [shape for name, shape in shapes.items() if name.startswith(UNET) and name.endswith("attn2.to_k.weight")]
    return found[0][-1] if found and found[0] else 0
