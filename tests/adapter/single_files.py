"""Single-file checkpoints of the original layout, from models of diffusers: the inverse of how diffusers reads them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from tests.adapter import tiny

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TIME = {"linear_1": "0", "linear_2": "2"}
OUTSIDE = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPEN_CLIP_OUTSIDE = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def original(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a single file from a base's models by part, on whatever device they are."""
    found = {f"{UNET}{name}": tensor for name, tensor in unet_tensors(parts["unet"]).items()}
    found |= {f"{VAE}{name}": tensor for name, tensor in vae_tensors(parts["vae"]).items()}
    text = parts["text_encoder"]
    if parts.get("text_encoder_2") is not None:
        found |= clip_tensors(text, "conditioner.embedders.0.transformer.")
        return found | open_clip_tensors(parts["text_encoder_2"], "conditioner.embedders.1.model.")
    if text.config.hidden_act == "gelu":
        return found | open_clip_tensors(text, "cond_stage_model.model.")
    return found | clip_tensors(text, "cond_stage_model.transformer.")


def unet_tensors(unet: Any) -> dict[str, Tensor]:
    n = unet.config.layers_per_block + 1
    return {unet_name(name, n, unet): tensor for name, tensor in unet.state_dict().items()}


def unet_name(name: str, n: int, unet: Any) -> str:
    head, rest = name.split(".", 1)
    if head in ("time_embedding", "add_embedding"):
        layer, kind = rest.split(".")
        return f"{'time_embed' if head == 'time_embedding' else 'label_emb.0'}.{TIME[layer]}.{kind}"
    if head in OUTSIDE:
        return f"{OUTSIDE[head]}.{rest}"
    if head == "mid_block":
        kind, index, rest = rest.split(".", 2)
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}.{inside(kind, rest)}"
    block, kind, index, rest = rest.split(".", 3)
    if kind == "downsamplers":
        return f"input_blocks.{n * int(block) + n}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        attends = "CrossAttn" in unet.config.up_block_types[int(block)]
        return f"output_blocks.{n * int(block) + n - 1}.{1 + attends}.{rest}"
    first = n * int(block) + int(index)
    place = f"input_blocks.{first + 1}" if head == "down_blocks" else f"output_blocks.{first}"
    return f"{place}.{int(kind == 'attentions')}.{inside(kind, rest)}"


def inside(kind: str, rest: str) -> str:
    layer, _, of = rest.partition(".")
    return rest if kind == "attentions" else f"{RESNET[layer]}.{of}"


def vae_tensors(vae: Any) -> dict[str, Tensor]:
    found, blocks = {}, len(vae.config.block_out_channels)
    for name, tensor in vae.state_dict().items():
        name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{blocks - 1 - int(match[1])}", name)
        name = name.replace("down_blocks.", "down.").replace("conv_norm_out", "norm_out")
        name = re.sub(r"(down|up)samplers\.0", r"\1sample", name)
        if "mid_block.attentions" in name:
            for new, old in VAE_ATTENTION.items():
                name = name.replace(f"attentions.0.{new}.", f"attn_1.{old}.")
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
        name = (
            name.replace("mid_block.", "mid.").replace(".resnets.", ".block.").replace("conv_shortcut", "nin_shortcut")
        )
        found[name] = tensor
    return found


def clip_tensors(model: Any, prefix: str) -> dict[str, Tensor]:
    return {
        f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in model.state_dict().items()
    }


def open_clip_tensors(model: Any, prefix: str) -> dict[str, Tensor]:
    state = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    found = {}
    for name, tensor in state.items():
        if name == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
        elif name in OPEN_CLIP_OUTSIDE:
            found[OPEN_CLIP_OUTSIDE[name]] = tensor
        elif ".q_proj." in name:
            three = [state[name.replace("q_proj", f"{each}_proj")] for each in "qkv"]
            place, kind = name.removeprefix("encoder.layers.").split(".self_attn.q_proj.")
            found[f"transformer.resblocks.{place}.attn.in_proj_{kind}"] = torch.cat(three)
        elif not re.search(r"\.[kv]_proj\.", name):
            for new, old in OPEN_CLIP.items():
                name = name.replace(new, old)
            found[f"transformer.resblocks.{name.removeprefix('encoder.layers.')}"] = tensor
    found.setdefault("logit_scale", torch.tensor(4.6))
    return {f"{prefix}{name}": tensor for name, tensor in found.items()}


def save_single(
    folder: Path,
    pipe: Any,
    dtype: torch.dtype = torch.float32,
    metadata: dict[str, str] | None = None,
    without: tuple[str, ...] = (),
) -> Path:
    """A base as a single file, ``<folder>.safetensors``, and its configurations in the folder beside it."""
    pipe.save_pretrained(folder, safe_serialization=True)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    for part in without:
        shutil.rmtree(folder / part)
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in original(pipe.components).items()}
    file = folder.with_suffix(".safetensors")
    save_file(tensors, file, metadata=metadata)
    return file


def altered(single: Path, folder: Path, change: Any, beside: bool = True) -> Path:
    """The file with other tensors, under another folder."""
    file = folder / single.name
    if beside:
        shutil.copytree(single.with_suffix(""), file.with_suffix(""))
    tensors = load_file(single)
    save_file(change(tensors) or tensors, file)
    return file


def sd2_pipeline() -> StableDiffusionPipeline:
    """A pipeline of SD 2.x's form: an OpenCLIP text encoder, and linear projections."""
    tokenizer = tiny.clip_tokenizer()
    config = {**tiny.text_encoder(tokenizer).config.to_dict(), "hidden_act": "gelu"}
    text = CLIPTextModel(CLIPTextConfig(**config)).eval()
    unet = tiny.unet(**tiny.SD2_CHANGES)
    parts = (tiny.vae(), text, tokenizer, unet, tiny.schedule("v_prediction"), None, None)
    return StableDiffusionPipeline(*parts, requires_safety_checker=False)
