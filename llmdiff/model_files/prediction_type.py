"""Find out what a single-file checkpoint predicts, noise or velocity: from files beside it, its marks or metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from llmdiff.model_files.checkpoint_file import NAMES, Checkpoint
from llmdiff.model_files.named_files import json_object

SCHEDULER_CONFIG = "scheduler_config.json"
PREDICTIONS = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon", "eps": "epsilon"}
ARCHITECTURES = {"stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768-v": "v_prediction"}
V_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
"""Names of empty tensors: the checkpoint predicts velocity; its last step is noise alone."""


def schedule_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the file's settings of its noise schedule; ValueError where an SD 2.x does not say what it predicts."""
    predicted = prediction_type(checkpoint)
    if predicted is None:
        of_code, own = checkpoint.path.with_suffix(".yaml"), checkpoint.folder / "scheduler" / SCHEDULER_CONFIG
        raise ValueError(
            f"diffusion model {checkpoint.path}: a file of {NAMES[checkpoint.family]} does not say what it predicts: "
            f'expected {of_code} of the original code, with "parameterization: v" or without, or {own}'
        )
    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return {"prediction_type": predicted, **(zero_snr if ZERO_SNR_MARK in checkpoint.shapes else {})}


def prediction_type(checkpoint: Checkpoint) -> str | None:
    """Return what the base predicts, by its schedule's name for it; None for an SD 2.x that does not say.

    The schedule beside the file comes first, then the original code's configuration beside it (``.yaml``), then the
    file's marks and metadata (https://github.com/Stability-AI/ModelSpec).
    """
    own = json_object(checkpoint.folder / "scheduler" / SCHEDULER_CONFIG)
    if own:
        return str(own.get("prediction_type", "epsilon"))
    if (said := _parameterization(checkpoint.path.with_suffix(".yaml"))) is not None:
        return said
    if V_MARK in checkpoint.shapes:
        return PREDICTIONS["v"]
    said = PREDICTIONS.get(str(checkpoint.metadata.get("modelspec.prediction_type")))
    said = said or ARCHITECTURES.get(str(checkpoint.metadata.get("modelspec.architecture")))
    return said or (None if checkpoint.family == "sd2" else "epsilon")


def _parameterization(file: Path) -> str | None:
    """Return the parameterization in a configuration of the original code; None without one."""
    if not file.is_file():
        return None
    try:
        params = yaml.safe_load(file.read_bytes())["model"]["params"]
        return PREDICTIONS[params.get("parameterization", "eps")]
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file}: expected model: params: parameterization: v or eps, found {error!r:.80}") from None
