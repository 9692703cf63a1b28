"""The command ``llmdiff evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.bootstrap import start_engine
from pipelines.cli.console import finite, print_json
from pipelines.cli.options import CANDIDATE, AdapterBase, AdapterLLM, DType, Scheduler

evaluate_app = typer.Typer()
EXAMPLE = (
    "Example: llmdiff evaluate --scenes 50\n\n"
    "Example: llmdiff evaluate runs/train/<run>/adapter --llm microsoft/phi-1_5 --prompts PartiPrompts.tsv "
    "--baseline base --baseline sdxl=stabilityai/stable-diffusion-xl-base-1.0 --seeds 0 --seeds 1 "
    "--metric siglip --metric clip=openai/clip-vit-base-patch32 --steps 50 --guidance 7.5"
)


@evaluate_app.command(epilog=EXAMPLE)
def evaluate(
    adapter: Annotated[str, typer.Argument(help="Adapter folder, or a version in the registry.")] = CANDIDATE,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="txt, csv, tsv or jsonl file, or a folder of txt; default: held-out scenes of the embedded world."
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]MODEL",
            help="base (default: the base model without the adapter), a diffusers pipeline, another adapter; several.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=MODEL]",
            help="siglip, siglip2, clip, clip-iqa, facts (the embedded world's judge), cmmd, fid; several.",
        ),
    ] = None,
    references: Annotated[Path | None, typer.Option(help="Folder of pictures that cmmd and fid compare with.")] = None,
    seeds: Annotated[list[int] | None, typer.Option(help="A picture of each prompt for each; default: 0.")] = None,
    llm: AdapterLLM = None,
    diffusion: AdapterBase = None,
    output: Annotated[Path | None, typer.Option(help="Folder for report and scores.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder of all pictures ever drawn; what is there is not drawn again.")
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Of the embedded world, each drawn in every wording.")] = 200,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale.")] = 3.0,
    size: Annotated[int | None, typer.Option(min=8, help="Side in pixels; default: each model's own.")] = None,
    scheduler: Annotated[Scheduler | None, typer.Option(help="Sampler; default: each model's own.")] = None,
    dtype: Annotated[DType, typer.Option(help="Of the models that draw.")] = DType.float32,
    batch: Annotated[int, typer.Option(min=1, help="Pictures drawn at once.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score an adapter's pictures against baselines', from the same prompts, seeds and sampling, and write a report."""
    from llmdiff.evaluation import read_prompts
    from llmdiff.evaluation.choice import choose_metrics

    choose_metrics(metric, _text(prompts), _text(references))
    if prompts is not None:
        read_prompts(prompts, seeds or [0])
    start_engine()
    from pipelines.flows.evaluate import evaluate_flow

    result = evaluate_flow(
        adapter,
        llm,
        diffusion,
        _text(output),
        _text(prompts),
        baseline,
        metric,
        _text(references),
        seeds,
        scenes,
        steps,
        guidance,
        size,
        scheduler.value if scheduler is not None else None,
        dtype.value,
        batch,
        _text(pictures),
    )
    if as_json:
        print_json(finite({"output": result.output, "run_id": result.run_id, **result.report}))
        return
    for line in [*_categories(result.report), *result.report["sentences"], *result.report["summary"]]:
        print(line)
    print(f"report: {Path(result.output) / 'report.html'}")
    print(f"MLflow run: {result.run_id}")


def _categories(report: dict[str, Any]) -> list[str]:
    """A line for each model and category: the embedded world's wordings, a benchmark's kinds of prompt."""
    scores = report["scores"]
    first = scores[report["columns"][0]]
    return [
        f"{model:10} {category or 'no category':16} "
        + "  ".join(f"{column} {scores[column][model]['by_category'][category]['mean']:.2f}" for column in scores)
        for model in first
        for category in first[model].get("by_category", {})
    ]


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
