"""Bases on which training can begin are told without diffusers; all others are left to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmdiff.diffusion.base import TARGETS, load_noise_schedule, unet_config
from llmdiff.diffusion.fields import PREDICTIONS
from llmdiff.shapes import DIFFUSION
from pipelines.runtime.plain_base import BETAS, is_plain

FILES = {"unet": "config.json", "scheduler": "scheduler_config.json"}


def base(folder: Path, part: str = "unet", **changes: Any) -> str:
    """The configurations of the embedded base, some fields of a part changed."""
    for name, file in FILES.items():
        config = json.loads((DIFFUSION / name / file).read_text())
        (folder / name).mkdir()
        (folder / name / file).write_text(json.dumps({**config, **(changes if name == part else {})}))
    return str(folder)


@pytest.mark.parametrize(
    ("part", "field", "values"),
    [
        ("scheduler", "prediction_type", PREDICTIONS),
        ("scheduler", "beta_schedule", BETAS),
        ("unet", "sample_size", (8,)),
    ],
)
def test_what_is_plain_can_be_trained_on(tmp_path: Path, part: str, field: str, values: tuple[Any, ...]) -> None:
    for value in values:
        (folder := tmp_path / str(value)).mkdir()
        path = base(folder, part, **{field: value})
        assert is_plain(path)
        load_noise_schedule(path)
        unet_config(path)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("scheduler", {"prediction_type": "flow"}),
        ("scheduler", {"beta_schedule": "some"}),
        ("scheduler", {"trained_betas": [0.1]}),
        ("scheduler", {"beta_end": "0.012"}),
        ("scheduler", {"num_train_timesteps": 10**9}),
        ("scheduler", {"num_train_timesteps": "1000"}),
        ("unet", {"in_channels": 9}),
        ("unet", {"addition_embed_type": "text_time"}),
        ("unet", {"class_embed_type": "timestep"}),
        ("unet", {"_class_name": "UNet1DModel"}),
    ],
)
def test_what_is_not_plain_is_left_to_diffusers(tmp_path: Path, part: str, changes: dict[str, Any]) -> None:
    assert not is_plain(base(tmp_path, part, **changes))


def test_hub_names_and_broken_files_are_left_to_diffusers(tmp_path: Path) -> None:
    assert not is_plain("owner/name")
    path = base(tmp_path)
    for text in ("[]", "{", "[" * 100_000):
        (tmp_path / "unet" / "config.json").write_text(text)
        assert not is_plain(path)


def test_training_has_a_target_for_each_prediction() -> None:
    assert TARGETS.keys() == set(PREDICTIONS)
