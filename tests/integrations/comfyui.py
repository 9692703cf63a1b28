"""ComfyUI's own code, from a checkout that ``LLMDIFF_COMFYUI`` names, and tiny MODELs in it.

Without a checkout, or without a package that it imports, the tests that need it skip. To run them::

    git clone --depth 1 https://github.com/comfyanonymous/ComfyUI ~/comfyui
    pip install --no-deps --target ~/comfyui-packages av boltons torchsde trampoline
    LLMDIFF_COMFYUI=~/comfyui PYTHONPATH=~/comfyui-packages python -m pytest tests/integrations
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

VARIABLE = "LLMDIFF_COMFYUI"


def load() -> SimpleNamespace:
    """Import ComfyUI for the CPU; skip where it is not to be had."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        pytest.skip(f"no ComfyUI: {VARIABLE} names no checkout of it")
    if not (Path(folder) / "comfy").is_dir():
        raise pytest.UsageError(f"{VARIABLE}={folder}: expected a checkout of ComfyUI")
    path, level = sys.path[:], logging.root.level
    sys.path.append(folder)  # behind our own modules: it has tests and app, too
    try:
        with torchvision():
            return import_all(Path(folder))
    except ModuleNotFoundError as error:
        pytest.skip(f"ComfyUI needs a package that is not installed: {error.name}")
    finally:
        sys.path[:] = [*path, folder]  # it puts folders before ours
        logging.root.setLevel(level)


def import_all(folder: Path) -> SimpleNamespace:
    """ComfyUI's own modules that the tests call."""
    from comfy.cli_args import args

    args.cpu = True  # read when the rest is imported
    import comfy.model_patcher
    import comfy.sample
    import comfy.supported_models
    import execution
    import nodes

    return SimpleNamespace(comfy=comfy, execution=execution, nodes=nodes, folder=folder)


@contextmanager
def torchvision() -> Iterator[None]:
    """An empty stand-in where it is missing: other models' modules import it, and no U-Net of Stable Diffusion does."""
    names = ("torchvision", "torchvision.transforms")
    if importlib.util.find_spec(names[0]) is not None:
        yield
        return
    for name in names:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules[names[0]].transforms = sys.modules[names[1]]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def model_of(
    comfy: Any,
    unet: UNet2DConditionModel,
    stored: torch.dtype = torch.float32,
    computed: torch.dtype = torch.float32,
) -> Any:
    """The MODEL of a U-Net of diffusers: ComfyUI's own U-Net, with its weights, in the dtypes that are named."""
    kinds = comfy.supported_models
    kind = kinds.SD20 if unet.config.use_linear_projection else kinds.SD15
    if unet.config.addition_embed_type is not None:
        kind = kinds.SDXL
    config = kind(unet_config(unet))
    config.set_inference_dtype(stored, None if stored == computed else computed)
    model = config.get_model({})
    names, weights = comfy.utils.unet_to_diffusers(config.unet_config), unet.state_dict()
    model.diffusion_model.load_state_dict({names[name]: tensor.to(stored) for name, tensor in weights.items()})
    devices = comfy.model_management
    patcher = comfy.model_patcher.ModelPatcher
    return patcher(model.eval(), load_device=devices.get_torch_device(), offload_device=devices.unet_offload_device())


def unet_config(unet: UNet2DConditionModel) -> dict[str, Any]:
    """A U-Net's shape in ComfyUI's words."""
    config = unet.config
    first = config.block_out_channels[0]
    depths = config.transformer_layers_per_block
    depths = [depths] * len(config.block_out_channels) if isinstance(depths, int) else list(depths)
    depths = [n if "CrossAttn" in kind else 0 for n, kind in zip(depths, config.down_block_types, strict=True)]
    assert config.layers_per_block == 1
    xl = {"num_classes": "sequential", "adm_in_channels": config.projection_class_embeddings_input_dim}
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": first,
        "channel_mult": [channels // first for channels in config.block_out_channels],
        "num_res_blocks": [1] * len(depths),
        "transformer_depth": depths,
        "transformer_depth_middle": depths[-1],
        "transformer_depth_output": [depth for depth in depths for _ in range(2)],
        "context_dim": config.cross_attention_dim,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": config.use_linear_projection,
        "legacy": False,
        **(xl if config.addition_embed_type else {"adm_in_channels": None}),
    }


def sample(comfy: Any, model: Any, noise: torch.Tensor, positive: Any, negative: Any, cfg: float = 3.0) -> list[Any]:
    """Latents after each of two Euler steps, scaled as the U-Net has them."""
    seen = []
    options = {"callback": lambda i, x0, x, n: seen.append(x.clone()), "disable_pbar": True}
    start = torch.zeros_like(noise)
    last = comfy.sample.sample(model, noise, 2, cfg, "euler", "normal", positive, negative, start, **options)
    return [seen[1], last * model.model.latent_format.scale_factor]
