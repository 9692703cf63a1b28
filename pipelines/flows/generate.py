"""The generate flow: pictures from prompts, from the same seeds with and without the adapter."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.environment import home
from llmdiff.image_files import public_name, save_png
from llmdiff.image_grid import image_grid
from llmdiff.sampling import Sampling, draw, to_images
from pipelines.requests.generate import GenerateRequest
from pipelines.runtime.adapter_source import Source, load_source, resolve_adapter
from pipelines.runtime.artifacts import show_picture
from pipelines.runtime.progress import advance, progress, say
from pipelines.runtime.stage import stage, task


class GenerateResult(BaseModel):
    """The result of a drawing: where the pictures are."""

    model_config = ConfigDict(frozen=True)

    output: str
    grid: str
    """File of the image grid, a row a prompt."""
    adapter: str
    prompts: int
    seconds: float


@stage("generate")
def generate_flow(request: GenerateRequest) -> GenerateResult:
    """Draw every prompt with the base model and with the adapter, from the same noise, onto one image grid."""
    start = time.perf_counter()
    if not request.prompts:
        raise ValueError("prompts: expected at least one, found none")
    folder = Path(request.output or home() / "generate" / time.strftime("%Y%m%d-%H%M%S"))
    source = resolve_adapter(request.adapter, request.llm, request.diffusion)
    with progress("generate", 2 * len(request.texts), "picture"):
        pipe = load_source(source, True, request.sampling)
        adapted = draw_into(folder / "adapter", pipe, source, request, adapted=True)
        take_out(pipe)
        base = draw_into(folder / "base", pipe, source, request, adapted=False)
    request.save(folder)
    grid = write_grid(request.texts, base, adapted, folder / "grid.png")
    seconds = time.perf_counter() - start
    return GenerateResult(
        output=str(folder), grid=str(grid), adapter=source.adapter, prompts=len(request.prompts), seconds=seconds
    )


@task("draw", run_name="draw into {folder}")
def draw_into(folder: Path, pipe: Any, source: Source, request: GenerateRequest, *, adapted: bool) -> list[Path]:
    """Draw one picture a prompt, each written as it is drawn, with its settings in it; the next has the next seed."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts, sampling = request.texts, request.sampling
    seeds = range(request.seed, request.seed + len(prompts))
    settings = describe(source, adapted, sampling, pipe)
    paths: list[Path] = []
    of_model = sampling if adapted else sampling.model_copy(update={"scale": 1.0})  # which the base has no use for
    for pictures in draw(pipe, prompts, seeds, of_model, request.batch):
        for image in to_images(pictures):
            i = len(paths)
            about = {"prompt": prompts[i], **settings, "seed": seeds[i]}
            paths.append(save_png(image, folder / f"{i:04d}.png", about))
            if adapted and i == 0:
                say(f"the first picture is there: {paths[0]}")
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
        "base": public_name(source.diffusion),
        "llmdiff": __version__,
    }
    if adapted:
        llm = source.llm and public_name(source.llm)
        settings |= {"adapter": public_name(source.adapter), "scale": sampling.scale, "LLM": llm}
    return {name: value for name, value in settings.items() if value is not None}


def take_out(pipe: Any) -> None:
    """Leave the base model, which is then as it was loaded."""
    from llmdiff.pipeline import unload_adapter

    unload_adapter(pipe)


@task("write grid")
def write_grid(prompts: list[str], base: list[Path], adapted: list[Path], path: Path) -> Path:
    """Write the image grid: a row a prompt; base and adapter side by side."""
    from PIL import Image

    rows = [
        (prompt, [Image.open(left), Image.open(right)])
        for prompt, left, right in zip(prompts, base, adapted, strict=True)
    ]
    grid = save_png(image_grid(rows, ["base", "adapter"]), path)
    show_picture("generate-grid", "Every prompt with the base model and with the adapter", grid)
    return grid
