"""What `llmdiff generate` draws, and what its files say."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

import llmdiff
from llmdiff.sampling import SCHEDULERS, DType, Sampling, Scheduler
from pipelines.cli import generate as cli
from pipelines.cli.main import main
from pipelines.flows import generate as module
from pipelines.flows.generate import draw_into
from pipelines.requests.generate import GenerateRequest
from pipelines.runtime.adapter_source import Source, load_source

PROMPTS = ["a red circle", "a small blue square to the left of the large green triangle", "kreis, größer als 紅"]


@pytest.fixture
def source(folders: dict[str, Path]) -> Source:
    parts = {"adapter": folders["on-llm"], "llm": folders["llama"], "diffusion": folders["base"]}
    return Source(**{name: str(folder) for name, folder in parts.items()})


def drawn(
    source: Source, adapted: bool, prompts: list[str], folder: Path, sampling: Sampling, batch: int, seed: int = 0
) -> list[Path]:
    request = GenerateRequest(prompts=prompts, seed=seed, batch=batch, **sampling.model_dump(exclude={"size"}))
    pipe = load_source(source, adapted, sampling)
    return draw_into.fn(folder, pipe, source, request, adapted=adapted)


def pictures(paths: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)).astype(int) for path in paths])


def test_pictures_hold_their_settings(source: Source, tmp_path: Path) -> None:
    sampling = Sampling(steps=2, guidance=3.0, negative="a square", scale=0.7, scheduler="unipc")
    paths = drawn(source, True, PROMPTS, tmp_path, sampling, 2, seed=5)
    assert [path.name for path in paths] == ["0000.png", "0001.png", "0002.png"]
    assert Image.open(paths[2]).text == {
        "prompt": PROMPTS[2],
        "negative prompt": "a square",
        "seed": "7",
        "steps": "2",
        "guidance": "3.0",
        "scheduler": "UniPCMultistepScheduler",
        "dtype": "float32",
        "base": Path(source.diffusion).name,
        "adapter": Path(source.adapter).name,
        "scale": "0.7",
        "LLM": source.llm and Path(source.llm).name,
        "llmdiff": llmdiff.__version__,
    }
    (base,) = drawn(source, False, PROMPTS[:1], tmp_path / "base", sampling, 2)
    assert {"adapter", "scale", "LLM"}.isdisjoint(Image.open(base).text)


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize("scheduler", [None, "euler-a"])
def test_a_picture_is_the_same_whatever_the_batch(
    source: Source, tmp_path: Path, adapted: bool, scheduler: Scheduler | None
) -> None:
    """Pictures differ in the last bit alone, which matrix products of other sizes round differently."""
    sampling = Sampling(steps=2, scheduler=scheduler)
    one, three = (pictures(drawn(source, adapted, PROMPTS, tmp_path / str(n), sampling, n)) for n in (1, 3))
    assert np.abs(one - three).max() <= 1
    again = pictures(drawn(source, adapted, PROMPTS[1:2], tmp_path / "own", sampling, 1, seed=1))
    assert np.array_equal(again[0], one[1])


def test_scale_and_negative_prompt_matter(source: Source, tmp_path: Path) -> None:
    different = [
        pictures(drawn(source, True, PROMPTS[:1], tmp_path, Sampling(steps=2, **options), 1))
        for options in ({}, {"scale": 0.0}, {"negative": "a green square"}, {"dtype": "bfloat16"})
    ]
    assert len({found.tobytes() for found in different}) == 4


@pytest.mark.parametrize("name", get_args(Scheduler))
def test_every_scheduler_is_there(source: Source, name: Scheduler) -> None:
    assert type(load_source(source, False, Sampling(scheduler=name)).scheduler).__name__ == SCHEDULERS[name]


def test_the_command_line_offers_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(get_args(Scheduler)) == list(SCHEDULERS)
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    told = "".join(capsys.readouterr().out.split())
    assert f"<{'|'.join(SCHEDULERS)}>" in told
    assert f"<{'|'.join(get_args(DType))}>" in told


def test_the_command_line_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[GenerateRequest] = []
    result = module.GenerateResult(output="o", grid="s", adapter="a", prompts=1, seconds=0)

    def record(request: GenerateRequest) -> module.GenerateResult:
        calls.append(request)
        return result

    monkeypatch.setattr(module, "generate_flow", record)
    monkeypatch.setattr(cli, "start_engine", lambda **_: None)
    options = {"seed": 3, "steps": 4, "guidance": 2.5, "scale": 0.5, "count": 2, "batch": 8}
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    given += ["--scheduler", "dpm++", "--dtype", "bfloat16", "--negative", "blurred"]
    with pytest.raises(SystemExit) as left:
        main(["generate", "--prompt", "x", *given])
    assert left.value.code == 0
    expected = {**options, "scheduler": "dpm++", "dtype": "bfloat16", "negative": "blurred", "prompts": ["x"]}
    assert calls[0].model_dump(include=set(expected)) == expected
