"""The evaluate flow: an adapter against baselines on the same prompts and seeds; scores, intervals and a report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.environment import home
from infra.tracking.run import tracked_run
from llmdiff.evaluation import Prompt
from llmdiff.evaluation.distances import DISTANCES
from llmdiff.evaluation.metric_selection import choose_metrics
from llmdiff.evaluation.metrics import split_spec
from llmdiff.sampling import Sampling
from pipelines.reports.json_values import finite
from pipelines.requests.evaluate import EvaluateRequest
from pipelines.runtime.artifacts import show_table
from pipelines.runtime.eval_models import BASE, EvalModel, find_eval_models, model_of, run_of
from pipelines.runtime.progress import advance, progress, quieten_loading
from pipelines.runtime.stage import stage, task
from storage.io.files import write_file


class EvaluateResult(BaseModel):
    """The result of an evaluation: its folder, its report, its MLflow run."""

    model_config = ConfigDict(frozen=True)

    output: str
    report: dict[str, Any]
    """Content of ``report.json``."""
    run_id: str
    """Id of the run in MLflow."""


@stage("evaluate")
def evaluate_flow(request: EvaluateRequest) -> EvaluateResult:
    """Score an adapter's pictures and baselines' of the same prompts, from the same seeds, by the same sampling."""
    chosen = choose_metrics(request.metrics, request.prompts, request.references)
    sampling = request.sampling
    seeds = request.seeds or [0]
    wanted = find_prompts(request.prompts, seeds, request.scenes)
    baselines = [BASE] if request.baselines is None else request.baselines
    eval_models = find_eval_models(request.adapter, baselines, request.llm, request.diffusion)
    load_metrics(chosen, request.references)
    folder = Path(request.output or home() / "evaluate" / time.strftime("%Y%m%d-%H%M%S"))
    pictures = Path(request.pictures or home() / "pictures")
    drawn: dict[str, list[Path]] = {}
    with progress("evaluate", 2 * len(eval_models) * len(wanted), "picture"):
        for each in eval_models:
            drawn[each.name] = draw(each, wanted, sampling, pictures, request.batch)
        scores = score(wanted, drawn, chosen, folder / "scores.parquet")
    request.save(folder)
    about = {
        "models": {each.name: {**each.model_dump(), "identity": model_of(each).identity} for each in eval_models},
        "source": request.prompts or "held-out scenes of the synthetic shapes benchmark",
        "seeds": seeds,
        "sampling": sampling.key(),
        "metrics": chosen,
        "references": request.references,
    }
    report = compare(scores, chosen, request.references, about)
    write_report(report, scores, folder)
    run_id = track(report, folder, request.adapter)
    return EvaluateResult(output=str(folder), report=report, run_id=run_id)


@task("find prompts")
def find_prompts(prompts: str | None, seeds: list[int], scenes: int) -> list[Prompt]:
    """Return the prompts of a file, or of the synthetic shapes benchmark, with every seed."""
    from llmdiff.evaluation import held_out_prompts, read_prompts

    if prompts is not None:
        return read_prompts(Path(prompts), seeds)
    return [prompt for seed in seeds for prompt in held_out_prompts(scenes, seed)]


@task("load metrics")
def load_metrics(metrics: list[str], references: str | None) -> None:
    """Refuse metric models and references that can't be used, before a picture is drawn."""
    from llmdiff.evaluation import load_metric
    from llmdiff.evaluation.compare import load_distance, reference_files

    quieten_loading()
    for spec in metrics:
        (load_distance if split_spec(spec)[0] in DISTANCES else load_metric)(spec)
    if references is not None:
        reference_files(Path(references))


@task("draw", run_name="draw {eval_model.name}")
def draw(eval_model: EvalModel, prompts: list[Prompt], sampling: Sampling, pictures: Path, batch: int) -> list[Path]:
    """Return the picture of each prompt; what was ever drawn is not drawn again."""
    from llmdiff.evaluation import Gallery

    return Gallery(pictures, model_of(eval_model), sampling).draw(prompts, batch, advance)


@task("score")
def score(prompts: list[Prompt], drawn: dict[str, list[Path]], metrics: list[str], path: Path) -> Path:
    """Write the scores of every picture, as a Parquet file."""
    from llmdiff.evaluation import Evaluation, load_metric, score_pictures
    from llmdiff.evaluation.scores_table import write_scores

    loaded = [load_metric(spec) for spec in metrics if split_spec(spec)[0] not in DISTANCES]
    evaluations = {
        name: Evaluation(prompts, paths, score_pictures(paths, prompts, loaded, progress=advance))
        for name, paths in drawn.items()
    }
    return write_scores(path, evaluations)


@task("compare")
def compare(scores: Path, metrics: list[str], references: str | None, about: dict[str, Any]) -> dict[str, Any]:
    """Return the content of ``report.json``, from the table of scores; take the distances to references."""
    from llmdiff.evaluation import compare_with_references
    from llmdiff.evaluation.report import build_report
    from llmdiff.evaluation.scores_table import read_scores

    evaluations = read_scores(scores)
    distances = {}
    for name in (spec for spec in metrics if split_spec(spec)[0] in DISTANCES):
        assert references is not None
        distances[split_spec(name)[0]] = compare_with_references(evaluations, name, Path(references))
    return build_report(evaluations, distances, about)


@task("write report")
def write_report(report: dict[str, Any], scores: Path, folder: Path) -> None:
    """Write ``report.json`` and ``report.html``, and the scores as a table in the Prefect UI."""
    from llmdiff.evaluation.scores_table import read_scores
    from pipelines.reports.evaluation import page

    write_file(folder / "report.json", (json.dumps(finite(report), indent=2) + "\n").encode())
    write_file(folder / "report.html", page(report, read_scores(scores)).encode())
    rows = [
        {"metric": column, "model": model, "mean": entry["mean"], "interval": entry["interval"], "prompts": entry["n"]}
        for column, models in report["scores"].items()
        for model, entry in models.items()
    ]
    said = "\n\n".join([*report["summary"], *report["sentences"], f"{folder / 'report.html'}"])
    show_table(rows, key="evaluation", title=said)


@task("track")
def track(report: dict[str, Any], folder: Path, adapter: str) -> str:
    """Make an MLflow run of every figure, its interval and the files, below the run that trained the adapter."""
    from llmdiff.evaluation.report import figures

    parent = run_of(adapter)
    tags = {
        "adapter": adapter,
        "summary": " ".join(report["summary"]),
        **({"mlflow.parentRunId": parent} if parent else {}),
    }
    params = {name: report[name] for name in ("source", "seeds", "sampling", "references")}
    params |= {"metrics": ", ".join(report["metrics"]), "models": {n: m["spec"] for n, m in report["models"].items()}}
    with tracked_run("evaluate", params, tags) as run:
        run.follow([{"step": 0, **figures(report)}])
        for name in ("report.json", "report.html", "scores.parquet"):
            run.keep(folder / name)
    return run.run_id
