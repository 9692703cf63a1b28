"""A check whether a base is an ordinary Stable Diffusion, made without diffusers, whose import takes seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmdiff.diffusion.fields import FILES, check_fields, check_prediction_type
from llmdiff.model_files.base_kinds import check_channels, check_unet, is_xl

BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
MOST_TIMESTEPS = 100_000


def is_plain(base: str) -> bool:
    """Return whether a base is a folder of an SD 1.x or 2.x on which training surely can begin.

    Of all others, SDXL and hub names among them, False: `llmdiff.diffusion.base` tells, and says what is wrong.
    """
    try:
        unet, schedule = (read_part(base, part) for part in ("unet", "scheduler"))
        check_unet(unet)
        check_channels(unet)
        check_prediction_type(schedule.get("prediction_type", "epsilon"))
    except (OSError, ValueError, RecursionError):
        return False
    return not is_xl(unet) and can_be_built(schedule)


def read_part(base: str, part: str) -> Mapping[str, Any]:
    """Return a part's configuration; OSError or ValueError where it is none."""
    config: Mapping[str, Any] = json.loads((Path(base) / part / FILES[part]).read_bytes())
    check_fields(part, config, base)
    return config


def can_be_built(config: Mapping[str, Any]) -> bool:
    """Return whether diffusers surely makes a noise schedule of a configuration."""
    ends = (config.get(name, 0.01) for name in ("beta_start", "beta_end"))
    return (
        config.get("beta_schedule", "linear") in BETAS
        and config.get("trained_betas") is None
        and all(isinstance(end, float) and 0 < end < 1 for end in ends)
        and config.get("num_train_timesteps", 1000) <= MOST_TIMESTEPS
    )
