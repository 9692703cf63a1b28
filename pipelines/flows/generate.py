"""The generate flow: pictures from prompts, from the same seeds with and without the adapter."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from infra.environment import home
from infra.tracking.registry import MODEL, adapter_tags, fetch_adapter
from llmdiff.adapter.config import read_config
from llmdiff.image_files import save_png
from llmdiff.image_grid import image_grid
from llmdiff.sampling import DType, Sampling, Scheduler, draw, load_pipeline, to_images
from pipelines.runtime.artifacts import show_picture
from pipelines.runtime.progress import advance, progress, quieten_loading

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
    negative: str = "",
    scale: float = 1.0,
    count: int = 1,
    scheduler: Scheduler | None = None,
    dtype: DType = "float32",
    batch: int = 4,
) -> GenerateResult:
    """Draw every prompt with the base model and with the adapter, from the same noise, onto one sheet.

    Args:
        prompts: what to draw.
        adapter: a folder, or a version in the registry: ``models:/llmdiff-adapter@candidate``.
        llm: folder or name of the LLM; None takes what was recorded when the adapter was registered.
        diffusion: folder or name of the base model; None takes the one that the adapter was trained on.
        output: folder for the pictures; None makes one below the folder of runs.
        seed: of the first picture; the next one has the next seed, whatever the batch.
        steps: of sampling.
        guidance: classifier-free guidance scale.
        negative: what not to draw.
        scale: how much of the adapter: 1 is as trained, 0 the original attention alone.
        count: pictures of each prompt.
        scheduler: one of `SCHEDULERS`; None takes the base model's own.
        dtype: of the base model and the adapter: float32, bfloat16 or float16.
        batch: pictures drawn at once.
    """
    start = time.perf_counter()
    if not prompts:
        raise ValueError("prompts: expected at least one, found none")
    folder = Path(output or home() / "generate" / time.strftime("%Y%m%d-%H%M%S"))
    sampling = Sampling(
        steps=steps, guidance=guidance, negative=negative, scale=scale, scheduler=scheduler, dtype=dtype
    )
    source = resolve_adapter(adapter, llm, diffusion)
    wanted = [prompt for prompt in prompts for _ in range(count)]
    with progress("generate", 2 * len(wanted), "picture"):
        pipe = load_source(source, True, sampling)
        adapted = draw_into(folder / "adapter", pipe, source, True, wanted, seed, sampling, batch)
        take_out(pipe)
        base = draw_into(folder / "base", pipe, source, False, wanted, seed, sampling, batch)
    sheet = write_sheet(wanted, base, adapted, folder / "sheet.png")
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
    """Return the adapter's files on this machine, and the models that go with it."""
    folder = fetch_adapter(adapter)
    config = read_config(folder)
    if config.encoder == "base":
        llm = None
    elif llm is None and (llm := adapter_tags(adapter).get("llm")) is None:
        raise ValueError(f"{adapter}: trained on an LLM's encodings: expected --llm, the LLM's folder or name")
    return Source(adapter=str(folder), llm=llm, diffusion=diffusion or config.base_model)


@task(name="draw", task_run_name="draw into {folder}", cache_policy=NO_CACHE)
def draw_into(
    folder: Path,
    pipe: Any,
    source: Source,
    adapted: bool,
    prompts: list[str],
    seed: int,
    sampling: Sampling,
    batch: int,
) -> list[Path]:
    """Draw one picture a prompt, each written as it is drawn, with its settings in it; the next has the next seed."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(seed, seed + len(prompts))
    settings = describe(source, adapted, sampling, pipe)
    paths: list[Path] = []
    of_model = sampling if adapted else sampling.model_copy(update={"scale": 1.0})  # which the base has no use for
    for pictures in draw(pipe, prompts, seeds, of_model, batch):
        for image in to_images(pictures):
            i = len(paths)
            about = {"prompt": prompts[i], **settings, "seed": seeds[i]}
            paths.append(save_png(image, folder / f"{i:04d}.png", about))
        advance(len(pictures))
    return paths


def describe(source: Source, adapted: bool, sampling: Sampling, pipe: Any) -> dict[str, Any]:
    """Return what a picture depends on besides its prompt and seed."""
    from llmdiff import __version__

    settings = {
        "negative prompt": sampling.negative,
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "scheduler": type(pipe.scheduler).__name__,
        "dtype": sampling.dtype,
        "base": source.diffusion,
        "llmdiff": __version__,
    }
    if adapted:
        settings |= {"adapter": source.adapter, "scale": sampling.scale, "LLM": source.llm}
    return {name: value for name, value in settings.items() if value is not None}


def load_source(source: Source, adapted: bool, sampling: Sampling) -> Any:
    """Load the base model's pipeline, with the adapter in it or as it was loaded."""
    quieten_loading()
    adapter, llm = (source.adapter, source.llm) if adapted else (None, None)
    return load_pipeline(source.diffusion, adapter, llm, dtype=sampling.dtype, scheduler=sampling.scheduler)


def take_out(pipe: Any) -> None:
    """Leave the base model, which is then as it was loaded."""
    from llmdiff.pipeline import unload_adapter

    unload_adapter(pipe)


@task(name="write sheet", cache_policy=NO_CACHE)
def write_sheet(prompts: list[str], base: list[Path], adapted: list[Path], path: Path) -> Path:
    """Write the image grid: a row a prompt; base and adapter side by side."""
    from PIL import Image

    rows = [
        (prompt, [Image.open(left), Image.open(right)])
        for prompt, left, right in zip(prompts, base, adapted, strict=True)
    ]
    sheet = save_png(image_grid(rows, ["base", "adapter"]), path)
    show_picture("generate-sheet", "Every prompt with the base model and with the adapter", sheet)
    return sheet
