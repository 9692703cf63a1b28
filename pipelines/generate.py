"""The generate flow: pictures from prompts, from the same seeds with and without the adapter."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from infra.local import home
from infra.registry import MODEL, adapter_tags, fetch_adapter
from llmdiff.adapter.adapter import read_config
from pipelines.progress import advance, progress, quieten_loading
from pipelines.sheet import contact_sheet, save_png

CANDIDATE = f"models:/{MODEL}@candidate"


class GenerateResult(BaseModel):
    """Where the pictures are."""

    model_config = ConfigDict(frozen=True)

    output: str
    sheet: str
    adapter: str
    prompts: int
    seconds: float


@flow(name="generate")
def generate_flow(
    prompts: list[str],
    adapter: str = CANDIDATE,
    llm: str | None = None,
    diffusion: str | None = None,
    output: str | None = None,
    seed: int = 0,
    steps: int = 30,
    guidance: float = 5.0,
) -> GenerateResult:
    """Draws every prompt with the base model and with the adapter, from the same noise, onto one sheet.

    Args:
        prompts: what to draw.
        adapter: a folder, or a version in the registry: ``models:/llmdiff-adapter@candidate``.
        llm: folder or name of the LLM; None takes what was recorded when the adapter was registered.
        diffusion: folder or name of the base model; None takes the one that the adapter was trained on.
        output: folder for the pictures; None makes one below the folder of runs.
        seed: of the first prompt; the next prompt has the next seed.
        steps: of sampling.
        guidance: classifier-free guidance scale.
    """
    start = time.perf_counter()
    if not prompts:
        raise ValueError("prompts: expected at least one, found none")
    folder = Path(output or home() / "generate" / time.strftime("%Y%m%d-%H%M%S"))
    source = resolve_adapter(adapter, llm, diffusion)
    with progress("generate", 2 * len(prompts), "picture"):
        # The adapter first: where it doesn't fit the models, that shows before a picture is drawn.
        adapted = draw(source, True, prompts, folder / "adapter", seed, steps, guidance)
        base = draw(source, False, prompts, folder / "base", seed, steps, guidance)
    sheet = write_sheet(prompts, base, adapted, folder / "sheet.png")
    seconds = time.perf_counter() - start
    return GenerateResult(
        output=str(folder), sheet=str(sheet), adapter=source.adapter, prompts=len(prompts), seconds=seconds
    )


class Source(BaseModel):
    """The three parts of an adapted model: each a folder or a name."""

    model_config = ConfigDict(frozen=True)

    adapter: str
    llm: str | None
    diffusion: str


@task(name="resolve adapter", cache_policy=NO_CACHE)
def resolve_adapter(adapter: str, llm: str | None, diffusion: str | None) -> Source:
    """The adapter's files on this machine, and the models that go with it."""
    folder = fetch_adapter(adapter)
    config = read_config(folder)
    if config.encoder == "base":
        llm = None
    elif llm is None and (llm := adapter_tags(adapter).get("llm")) is None:
        raise ValueError(f"{adapter}: trained on an LLM's encodings: expected --llm, the LLM's folder or name")
    return Source(adapter=str(folder), llm=llm, diffusion=diffusion or config.base_model)


@task(name="draw", task_run_name="draw into {folder}", cache_policy=NO_CACHE)
def draw(
    source: Source, adapted: bool, prompts: list[str], folder: Path, seed: int, steps: int, guidance: float
) -> list[Path]:
    """One picture a prompt, written as it is drawn."""
    pipe = load_pipeline(source, adapted)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, prompt in enumerate(prompts):
        drawn = pipe(prompt, num_inference_steps=steps, guidance_scale=guidance, generator=noise(seed + number))
        paths.append(save_png(drawn.images[0], folder / f"{number:04d}.png"))
        advance(1)
    return paths


def load_pipeline(source: Source, adapted: bool) -> Any:
    """The base model's pipeline, with the adapter in it or as it was loaded."""
    import torch

    from llmdiff.pipeline import LLMDiffPipeline

    quieten_loading()
    adapter, llm = (source.adapter, source.llm) if adapted else (None, None)
    pipe = LLMDiffPipeline.from_pretrained(source.diffusion, adapter, llm, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def noise(seed: int) -> Any:
    """A generator on the CPU, so that a seed means the same noise on every device."""
    import torch

    return torch.Generator().manual_seed(seed)


@task(name="write sheet", cache_policy=NO_CACHE)
def write_sheet(prompts: list[str], base: list[Path], adapted: list[Path], path: Path) -> Path:
    """The contact sheet: a row a prompt; base and adapter side by side."""
    from PIL import Image

    rows = [
        (prompt, [Image.open(left), Image.open(right)])
        for prompt, left, right in zip(prompts, base, adapted, strict=True)
    ]
    return save_png(contact_sheet(rows, ["base", "adapter"]), path)
