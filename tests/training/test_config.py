"""The configuration of a run: its file, its mistakes, and the DeepSpeed settings that go with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmdiff.training import TrainConfig
from tests.training.training_run import PATHS


def test_configuration_round_trip(tmp_path: Path) -> None:
    config = TrainConfig(**PATHS, epochs=2, validation_prompts=("a",), adapter={"base_context": "llm", "new_weight": 0})
    assert TrainConfig.read(config.write(tmp_path / "deep" / "run.json")) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "run.json: colour: .*'red'"),
        ({"adapter": {"colour": "red"}}, "run.json: adapter.colour: "),
        ({"batch_size": 0}, "run.json: batch_size: .*found 0"),
        ({"epochs": 1}, "either steps or epochs"),
        ({"adapter": {"base_context": "clip"}}, "base_fingerprint"),
        ({"sample_every": 5}, "validation_prompts"),
        ({"lr_scheduler": "cosinus"}, "lr_scheduler: .*'cosinus'"),
        ({"lr_scheduler": "polynomial", "learning_rate": 1e-7}, "learning_rate: expected more than 1e-07"),
        ({"torch_compile": True, "zero_stage": 3}, "torch_compile goes with zero_stage 0, 1 or 2"),
        ({"flip_words": ["left", ""]}, r"flip_words: expected words, found \['left', ''\]"),
    ],
)
def test_configuration_mistakes_name_file_and_field(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**PATHS, "steps": 1, **changes}))
    with pytest.raises(ValueError, match=message):
        TrainConfig.read(path)


def test_a_configuration_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("steps: 3")
    with pytest.raises(ValueError, match=r"run.json: not a JSON object"):
        TrainConfig.read(path)


SHIPPED = sorted((Path(__file__).resolve().parents[2] / "infra" / "deepspeed").glob("*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_deepspeed_files_go_with_a_configuration(path: Path) -> None:
    stage = json.loads(path.read_text())["zero_optimization"]["stage"]
    settings = TrainConfig(**PATHS, steps=1, deepspeed=str(path), zero_stage=stage, batch_size=3).for_deepspeed()
    assert settings["zero_optimization"]["stage"] == stage
    assert settings["train_micro_batch_size_per_gpu"] == 3


@pytest.mark.parametrize(("processes", "stage"), [(1, 2), (2, 2), (1, 0), (1, 3)])
def test_gradients_are_scattered_unless_a_process_is_alone(processes: int, stage: int) -> None:
    config = TrainConfig(**PATHS, steps=1, zero_stage=stage, processes=processes)
    scattered = config.for_deepspeed()["zero_optimization"].get("reduce_scatter", True)
    assert scattered is ((processes, stage) != (1, 2))


def test_a_deepspeed_file_may_not_contradict_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"gradient_clipping": 3.0}))
    with pytest.raises(ValueError, match=r"ds.json: gradient_clipping follows"):
        TrainConfig(**PATHS, steps=1, deepspeed=str(path)).for_deepspeed()
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    with pytest.raises(ValueError, match=r"ZeRO stage 3, but zero_stage is 2"):
        TrainConfig(**PATHS, steps=1, deepspeed=str(path)).for_deepspeed()
