"""The command ``llmdiff evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from llmdiff.extras import require
from pipelines.cli.bootstrap import start_engine
from pipelines.cli.console import print_json
from pipelines.cli.options import Json, options_of
from pipelines.reports.json_values import finite
from pipelines.requests.base import CommandLine, checked
from pipelines.requests.evaluate import EvaluateRequest

evaluate_app = typer.Typer()
EXAMPLE = (
    "Example: llmdiff evaluate --scenes 50\n\n"
    "Example: llmdiff evaluate runs/train/<run>/adapter --llm microsoft/phi-1_5 --prompts PartiPrompts.tsv "
    "--baseline base --baseline sdxl=stabilityai/stable-diffusion-xl-base-1.0 --seeds 0 --seeds 1 "
    "--metric siglip --metric clip=openai/clip-vit-base-patch32 --steps 50 --guidance 7.5"
)


@evaluate_app.command(epilog=EXAMPLE)
@options_of(EvaluateRequest, written={"adapter": CommandLine(argument=True)})
def evaluate(given: dict[str, Any], as_json: Json = False) -> None:
    """Score an adapter's pictures against baselines', from the same prompts, seeds and sampling, and write a report."""
    require("prefect")
    request = checked(given, EvaluateRequest, "evaluate")
    from llmdiff.evaluation import read_prompts
    from llmdiff.evaluation.metric_selection import choose_metrics

    choose_metrics(request.metrics, request.prompts, request.references)
    if request.prompts is not None:
        read_prompts(Path(request.prompts), request.seeds or [0])
    start_engine()
    from pipelines.flows.evaluate import evaluate_flow

    result = evaluate_flow(request)
    if as_json:
        print_json(finite({"output": result.output, "run_id": result.run_id, **result.report}))
        return
    for line in [*_categories(result.report), *result.report["sentences"], *result.report["summary"]]:
        print(line)
    print(f"report: {Path(result.output) / 'report.html'}")
    print(f"MLflow run: {result.run_id}")


def _categories(report: dict[str, Any]) -> list[str]:
    """Return a line for each model and category: the shapes benchmark's wordings, others' kinds of prompt."""
    scores = report["scores"]
    first = scores[report["columns"][0]]
    return [
        f"{model:10} {category or 'no category':16} "
        + "  ".join(f"{column} {scores[column][model]['by_category'][category]['mean']:.2f}" for column in scores)
        for model in first
        for category in first[model].get("by_category", {})
    ]
