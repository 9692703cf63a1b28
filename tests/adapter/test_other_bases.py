"""Files and folders that are no base for an adapter: refused in one line that names them, by headers and indexes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from llmdiff import LLMDiffPipeline
from llmdiff.diffusion.base import load_unet, unet_config
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.diffusion.text import BaseTextEncoder
from llmdiff.model_files.base_folders import check_base
from llmdiff.model_files.checkpoint_file import CONV_IN
from tests.adapter import tiny
from tests.adapter.single_files import altered


def with_channels(channels: int) -> Any:
    return lambda tensors: tensors.update({CONV_IN: torch.zeros(16, channels, 3, 3)})


OTHERS: dict[str, tuple[Any, str]] = {
    "inpainting": (with_channels(9), "an inpainting model: its U-Net has in_channels 9 and out_channels 4"),
    "editing": (with_channels(8), "an editing model: its U-Net has in_channels 8"),
    "depth": (with_channels(5), "a depth-to-image model"),
    "channels": (with_channels(6), "a model of another kind: its U-Net has in_channels 6"),
    "refiner": (
        lambda tensors: tensors.update({"conditioner.embedders.0.model.ln_final.bias": torch.zeros(1)}),
        "SDXL's refiner",
    ),
    "edm": (lambda tensors: tensors.update(edm_mean=torch.zeros(1, 4, 1, 1)), "a model with edm_mean"),
    "flux": (
        lambda tensors: {"double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(1)},
        "a model that diffusers takes for flux-schnell",
    ),
    "sd3": (
        lambda tensors: {
            "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": torch.zeros(9216),
            "model.diffusion_model.pos_embed": torch.empty(1, 36864, 1),
        },
        "a model that diffusers takes for sd3",
    ),
    "lora": (lambda tensors: {"lora_unet_down.alpha": torch.zeros(1)}, "a LoRA, which goes into a base"),
    "unet": (lambda tensors: {"input_blocks.0.0.weight": torch.zeros(1)}, "a U-Net alone, whose names don't begin"),
    "part": (lambda tensors: {"down_blocks.0.bias": torch.zeros(1)}, "one part of a base's folder: name the folder"),
    "nothing": (lambda tensors: {"weight": torch.zeros(1)}, "no U-Net, whose first tensor would be"),
}


@pytest.mark.parametrize(("change", "found"), OTHERS.values(), ids=OTHERS)
def test_a_file_that_is_no_base_is_named_by_its_header(single: Path, tmp_path: Path, change: Any, found: str) -> None:
    file = altered(single, tmp_path, change)
    expected = (
        f"^diffusion model .*base.safetensors: expected a base of Stable Diffusion 1.x, 2.x or SDXL, found {found}"
    )
    for look in (lambda: check_base(file, "vae"), lambda: LLMDiffPipeline.from_pretrained(file)):
        with pytest.raises(ValueError, match=expected):
            look()


KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("width", "count", "more", "found"),
    [
        (640, 686, {}, "expected Stable Diffusion 1.x's U-Net, which reads width 768, found 640: for one of another"),
        (1024, 680, {}, "expected the 686 tensors of Stable Diffusion 2.x's U-Net, found 680: for one of another"),
        (2048, 999, {}, "expected the 1680 tensors of SDXL's U-Net, found 999: for one of another shape, put its"),
        (1280, 1680, {}, "expected a base of .*, found SDXL's refiner"),
        (1024, 686, {"label_emb.0.0.bias"}, r"found a U-Net that reads more than noise and text \(label_emb"),
        (768, 686, {"time_embed.cond_proj.weight"}, r"found a U-Net that reads more than .* \(time_embed\.cond_proj"),
    ],
)
def test_a_u_net_that_is_not_its_familys_is_named_by_its_header(
    tmp_path: Path, width: int, count: int, more: set[str], found: str
) -> None:
    file, none = tmp_path / "base.safetensors", torch.zeros(0)
    tensors = {f"model.diffusion_model.{i}": none for i in range(count - 2 - len(more))}
    tensors |= {f"model.diffusion_model.{name}": none for name in more}
    save_file({**tensors, CONV_IN: torch.zeros(1, 4, 1, 1), KEY: torch.zeros(1, width)}, file)
    with pytest.raises(ValueError, match=f"^diffusion model .*: {found}|^diffusion model .*, {found}"):
        check_base(file, "unet")


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_a_file_without_a_part_is_refused_where_the_part_is_needed(single: Path, tmp_path: Path, part: str) -> None:
    prefix = {"vae": "first_stage_model.", "text_encoder": "cond_stage_model.transformer."}[part]
    file = altered(single, tmp_path, lambda tensors: {n: t for n, t in tensors.items() if not n.startswith(prefix)})
    check_base(file, "unet")
    with pytest.raises(ValueError, match=f"expected its {part} in tensors {prefix}…, found none"):
        check_base(file, part)


@pytest.mark.parametrize(
    ("part", "lost"),
    [
        ("unet", "model.diffusion_model.out.2.bias"),
        ("vae", "first_stage_model.quant_conv.bias"),
        ("text_encoder", "cond_stage_model.transformer.text_model.final_layer_norm.bias"),
    ],
)
def test_a_part_that_lacks_a_weight_is_refused(single: Path, tmp_path: Path, part: str, lost: str) -> None:
    file = altered(single, tmp_path, lambda tensors: tensors.pop(lost) is None)
    load = {"unet": load_unet, "vae": LatentEncoder.from_pretrained, "text_encoder": BaseTextEncoder.from_pretrained}
    with pytest.raises(ValueError, match=f"diffusion model .*: its {part} lacks 1 of the model's weights: "):
        load[part](str(file))


def test_other_files_are_refused_in_one_line(single: Path, tmp_path: Path) -> None:
    pickle, gguf, cut = tmp_path / "base.ckpt", tmp_path / "base.gguf", tmp_path / "base.safetensors"
    pickle.write_bytes(b"x")
    gguf.write_bytes(b"GGUF")
    cut.write_bytes(single.read_bytes()[:-1])
    refused = {
        pickle: (ValueError, r"base\.ckpt: expected a folder or a \.safetensors file, found .* a pickle can run code"),
        gguf: (ValueError, r"base\.gguf: expected a folder or a \.safetensors file, found another file$"),
        cut: (ValueError, r"base\.safetensors: expected \d+ bytes, found \d+: the file is cut short"),
        Path("none.safetensors"): (FileNotFoundError, r"^diffusion model none\.safetensors: no such file$"),
    }
    for file, (kind, message) in refused.items():
        for look in (lambda path: check_base(path, "unet"), LLMDiffPipeline.from_pretrained, unet_config):
            with pytest.raises(kind, match=message):
                look(str(file))


FOLDERS: dict[str, tuple[dict[str, Any], str]] = {
    "flux": (
        {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]},
        "a FluxPipeline with a transformer and no unet",
    ),
    "sd3": (
        {"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"]},
        "a StableDiffusion3Pipeline with a transformer and no unet",
    ),
    "pixart": (
        {"_class_name": "PixArtSigmaPipeline", "transformer": ["diffusers", "PixArtTransformer2DModel"]},
        "a PixArtSigmaPipeline with a transformer and no unet",
    ),
    "refiner": ({"requires_aesthetics_score": True, "unet": ["diffusers", "UNet2DConditionModel"]}, "SDXL's refiner"),
}


@pytest.mark.parametrize(("index", "found"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_that_is_no_base_is_named_by_its_index(tmp_path: Path, index: dict[str, Any], found: str) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"vae": ["diffusers", "AutoencoderKL"], **index}))
    expected = f"^diffusion folder .*: expected a base of Stable Diffusion 1.x, 2.x or SDXL, found {found}"
    for look in (lambda base: check_base(base, "vae"), LLMDiffPipeline.from_pretrained, LatentEncoder.from_pretrained):
        with pytest.raises(ValueError, match=expected):
            look(str(tmp_path))


def test_an_inpainting_folder_is_named_before_its_autoencoder_is_read(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"in_channels": 9, "out_channels": 4}))
    with pytest.raises(ValueError, match="found an inpainting model: its U-Net has in_channels 9 and out_channels 4"):
        check_base(tmp_path, "vae")


@pytest.mark.parametrize(("index", "found"), FOLDERS.values(), ids=FOLDERS)
def test_a_hub_name_that_is_no_base_is_named_by_its_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: dict[str, Any], found: str
) -> None:
    repository = tmp_path / "models--someone--model"
    files = {"model_index.json": {"vae": ["diffusers", "AutoencoderKL"], **index}}
    if "unet" in index:
        files["unet/config.json"] = dict(tiny.unet(**tiny.SDXL_CHANGES).config)
    for name, content in files.items():
        file = repository / "snapshots" / "1" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=f"^diffusion model someone/model: expected a base .*, found {found}"):
        unet_config("someone/model")
