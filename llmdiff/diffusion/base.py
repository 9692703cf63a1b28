"""Read the parts of a Stable Diffusion that training needs, and no others, from a folder, hub name or single file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.utils import is_accelerate_available
from safetensors import SafetensorError
from torch import Tensor

from llmdiff.diffusion.fields import check_fields, check_prediction_type
from llmdiff.diffusion.single_file import config_folder, index_of, load_model
from llmdiff.model_files.base_folders import check_base, variant_of
from llmdiff.model_files.base_kinds import TIME_IDS, check_channels, check_kind, check_unet, is_xl
from llmdiff.model_files.checkpoint_file import checkpoint_path, read_checkpoint
from llmdiff.model_files.model_folders import first_line

T = TypeVar("T")

TARGETS: dict[str, Callable[[Any, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda schedule, latents, noise, timesteps: noise,
    "sample": lambda schedule, latents, noise, timesteps: latents,
    "v_prediction": lambda schedule, latents, noise, timesteps: schedule.get_velocity(latents, noise, timesteps),
}
"""Training targets by the schedule's name for what a base predicts, one of `llmdiff.diffusion.fields.PREDICTIONS`."""
# No pickled weights; and without accelerate, diffusers would warn at each model that it loads it the plain way.
LOADING = {"use_safetensors": True, "low_cpu_mem_usage": is_accelerate_available()}


def load_unet(base: str, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """Return the frozen U-Net, in evaluation mode and without gradients."""
    unet = read_model(base, "unet", UNet2DConditionModel, dtype=dtype, **LOADING)
    return unet.requires_grad_(False).eval()


def unet_config(base: str) -> dict[str, Any]:
    """Return the configuration of a base's U-Net; ValueError for a base that an adapter can't be trained on."""
    try:
        config: dict[str, Any] = read_config(base, "unet", UNet2DConditionModel.load_config)
    except ValueError:
        check_hub_kind(base)
        raise
    check_fields("unet", config, base)
    check_kind(f"diffusion model {base}", {}, config)
    what = f"diffusion model {base}: its U-Net"
    check_unet(config, what)
    check_channels(config, what)
    if is_xl(config):
        check_hub_kind(base)  # a refiner's U-Net alone looks like SDXL's
        if pooled_width(config) <= 0:
            raise ValueError(f"{what} reads no pooled embedding and {TIME_IDS} time ids, as SDXL's does")
    return config


def check_hub_kind(base: str) -> None:
    """Raise ValueError for a hub name whose ``model_index.json`` is no base's; pass one whose file can't be had."""
    if Path(base).exists():
        return  # and was looked at
    try:
        index = read_index(base)
    except ValueError:
        return
    check_kind(f"diffusion model {base}", index, {})


def pooled_width(unet: Mapping[str, Any]) -> int:
    """Return the width of the pooled embedding that SDXL's U-Net reads beside its time ids."""
    return int(unet["projection_class_embeddings_input_dim"]) - TIME_IDS * int(unet["addition_time_embed_dim"])


def latent_size(base: str) -> int:
    """Return the side of the latents that a base was made for; ValueError where its U-Net does not say it."""
    found = unet_config(base).get("sample_size")
    side = found[0] if isinstance(found, (list, tuple)) and len(set(found)) == 1 else found
    if not isinstance(side, int) or isinstance(side, bool) or side < 1:
        raise ValueError(
            f"diffusion model {base}: unet/config.json: sample_size: expected its latents' side, found {found!r}; "
            "name the pictures' size instead"
        )
    return side


def schedule_config(base: str) -> dict[str, Any]:
    """Return the configuration of a base's noise schedule; ValueError where training has no target for it."""
    config: dict[str, Any] = read_config(base, "scheduler", DDPMScheduler.load_config)
    check_fields("scheduler", config, base)
    check_prediction_type(config.get("prediction_type", "epsilon"), f"diffusion model {base}: scheduler/")
    return config


def load_noise_schedule(base: str) -> DDPMScheduler:
    """Return the base's noise schedule for training, whichever sampler it names; ValueError as `schedule_config`."""
    config = schedule_config(base)
    with naming(base, "scheduler"):
        return DDPMScheduler.from_config(config)


def read_model(base: str, part: str, kind: Any, **options: Any) -> Any:
    """Return a part of a base model with weights; ValueError or FileNotFoundError in one line with base and part.

    A part whose files lack some of its weights is refused: the libraries would leave these random, or without values.

    `kind` is the model's class, and the `options` are of its ``from_pretrained``; a single file heeds `dtype` of them.
    """
    check_base(base, part)
    with naming(base, part):
        if (file := checkpoint_path(base)) is not None:
            model, missing = load_model(read_checkpoint(file), part, kind, options.get("dtype"))
        else:
            variant = variant_of(Path(base) / part)
            variants = {} if variant is None else {"variant": variant}
            found = kind.from_pretrained(base, subfolder=part, output_loading_info=True, **variants, **options)
            model, missing = found[0], sorted(found[1]["missing_keys"])
    if missing:
        raise ValueError(
            f"diffusion model {base}: its {part} lacks {len(missing)} of the model's weights: {', '.join(missing[:3])}"
        )
    return model


def read_config(base: str, part: str, load: Callable[..., T]) -> T:
    """Return a part's configuration, or a part without weights, from `load`; errors as `read_model`.

    `load` is a class's ``load_config`` or ``from_pretrained``.
    """
    check_base(base, part, weights=False)
    with naming(base, part):
        if (file := checkpoint_path(base)) is None:
            return load(base, subfolder=part)
        with config_folder(read_checkpoint(file), part) as folder:
            return load(folder, subfolder=part)


def read_index(base: str) -> dict[str, Any]:
    """Return the ``model_index.json`` of a base model, empty for a single file; ValueError where there is none."""
    from diffusers import DiffusionPipeline  # late: it imports the autoencoders, which training does not need

    if (file := checkpoint_path(base)) is not None:
        return index_of(read_checkpoint(file))
    with naming(base, "model_index.json"):
        index: dict[str, Any] = DiffusionPipeline.load_config(base)
        return index


@contextmanager
def naming(base: str, part: str) -> Iterator[None]:
    """Turn an error of reading a part into a ValueError in one line that names it."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        where = "" if Path(base).exists() else "no folder of that name here; from the hub: "
        raise ValueError(f"diffusion model {base}: {where}cannot read its {part}: {first_line(error)}") from error


def training_target(schedule: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return what the base was trained to predict: noise, velocity (arXiv 2202.00512, appendix D) or the latents."""
    kind = schedule.config.prediction_type
    check_prediction_type(kind)
    return TARGETS[kind](schedule, latents, noise, timesteps)


def snr_weights(schedule: DDPMScheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """Return Min-SNR weights ``(batch,)`` (arXiv 2303.09556): ``min(snr, gamma)`` in terms of what is predicted."""
    alpha = schedule.alphas_cumprod.to(timesteps.device)[timesteps].double()
    snr = alpha / (1 - alpha)
    denominators = {"epsilon": snr.clamp(min=1e-8), "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
    return (snr.clamp(max=gamma) / denominators[schedule.config.prediction_type]).float()
