"""A warm start: training goes on from a trained adapter's weights, with a fresh optimiser, EMA and schedule.

The weights are those of the folder: in a registered version the averaged ones, by which it was evaluated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel

from llmdiff.adapter import LLMAdapter
from llmdiff.adapter.config import AdapterConfig
from llmdiff.model_files.model_folders import weights_hash

SETTINGS = ("base_context", "paths", "band_gates", "refiner", "standardise")
"""Settings that must be the same for the weights to be of use."""
ALIKE = ("encoder_fingerprint", "encoding_dim", "bands", "context_dim", "base_tokens", *SETTINGS)
"""Facts of an adapter that must be the same for its weights to be of use."""


def load_initial_checkpoint(adapter: LLMAdapter, folder: str, unet: UNet2DConditionModel) -> None:
    """Give a new adapter the weights of a trained one, and the statistics that they were trained with.

    Raises:
        ValueError: the trained adapter reads other encodings, or is for another base.
        FileNotFoundError: there is no such folder.
    """
    initial = LLMAdapter.load(folder, unet)
    wanted = adapter.config
    check_initial_checkpoint(initial.config, folder, wanted.base_model, {name: getattr(wanted, name) for name in ALIKE})
    adapter.load_state(initial.state())


def check_initial_checkpoint(initial: AdapterConfig, name: str, base: str, facts: dict[str, Any]) -> None:
    """Raise ValueError where the adapter `name` differs from a run's base or facts, some of `ALIKE`."""
    for fact, wanted in facts.items():
        if (found := getattr(initial, fact)) != wanted:
            raise ValueError(
                f"{name}: can't start from it: expected {fact} {wanted!r}, as the run has, found {found!r}"
            )
    if not same_base(initial.base_model, base):
        raise ValueError(
            f"{name}: can't start from it: expected the base {base!r}, as the run has, found {initial.base_model!r}"
        )


def same_base(one: str, other: str) -> bool:
    """Return whether two bases are the same: by name, or as folders of the same U-Net's weights."""
    if one == other:
        return True
    hashes = {weights_hash(Path(base) / "unet") for base in (one, other)}
    return len(hashes) == 1 and "" not in hashes
