"""Every shipped recipe is a complete configuration that the commands take as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmdiff.encoder import EncoderConfig
from llmdiff.training import TrainConfig
from pipelines.cli.config_files import read_settings

RECIPES = Path(__file__).resolve().parents[2] / "infra" / "recipes"
NAMES = sorted(path.name for path in RECIPES.iterdir() if path.is_dir())
PATHS = {"store": "s", "fingerprint": "f", "base": "b", "output": "o"}


def test_the_papers_runs_are_there() -> None:
    assert NAMES == ["phi-1.5", "vicuna-7b"]


@pytest.mark.parametrize("name", NAMES)
def test_encode_takes_it_and_it_names_every_setting(name: str) -> None:
    settings = read_settings(RECIPES / name / "encode.yaml")
    assert EncoderConfig.from_dict(settings).to_dict() == settings


@pytest.mark.parametrize("name", NAMES)
def test_train_takes_it(name: str) -> None:
    settings = read_settings(RECIPES / name / "train.yaml")
    config = TrainConfig(**settings, **PATHS)
    assert config.adapter.base_context == "llm"
    assert list(config.validation_prompts) == (RECIPES / "prompts.txt").read_text().splitlines()
    assert config.batch_size * config.accumulate * 8 == 128


def test_the_recipes_differ_in_the_llm_alone() -> None:
    assert len({(RECIPES / name / "train.yaml").read_text().partition("\n\n")[2] for name in NAMES}) == 1
    assert read_settings(RECIPES / NAMES[0] / "encode.yaml") == read_settings(RECIPES / NAMES[1] / "encode.yaml")
