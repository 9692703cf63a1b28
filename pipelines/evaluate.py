"""The evaluate flow: on the embedded world, which facts of held-out prompts hold, with and without the adapter."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from infra.local import home
from pipelines.generate import CANDIDATE, Source, load_pipeline, resolve_adapter
from pipelines.progress import advance, progress
from storage.files import write_file


@flow(name="evaluate")
def evaluate_flow(
    adapter: str = CANDIDATE,
    llm: str | None = None,
    diffusion: str | None = None,
    output: str | None = None,
    scenes: int = 200,
    seed: int = 0,
    steps: int = 20,
    guidance: float = 3.0,
) -> dict[str, Any]:
    """Judges pictures of held-out scenes, each in every wording, from the same seeds with and without the adapter.

    Args:
        adapter: a folder, or a version in the registry.
        llm: folder or name of the LLM; None takes what was recorded when the adapter was registered.
        diffusion: folder or name of the base model; None takes the one that the adapter was trained on.
        output: file for the figures; None makes one below the folder of runs.
        scenes: how many; each is drawn once in every wording.
        seed: of the scenes, their captions and the noise.
        steps: of sampling.
        guidance: classifier-free guidance scale.
    """
    if scenes < 1:
        raise ValueError(f"scenes: expected at least 1, found {scenes}")
    source = resolve_adapter(adapter, llm, diffusion)
    figures = judge(source, scenes, seed, steps, guidance)
    path = Path(output or home() / "evaluate" / f"{time.strftime('%Y%m%d-%H%M%S')}.json")
    return write_figures({"adapter_source": adapter, **figures}, path)


@task(name="judge", cache_policy=NO_CACHE)
def judge(source: Source, scenes: int, seed: int, steps: int, guidance: float) -> dict[str, Any]:
    """Shares of prompts whose facts hold, their intervals, and the gap recovered."""
    from llmdiff.evaluation import evaluate, gap_recovered, held_out_prompts

    prompts = held_out_prompts(scenes, seed)
    with progress("evaluate", 2 * len(prompts), "picture"):
        adapted, base = (  # the adapter first: where it doesn't fit the models, that shows before a picture is drawn
            evaluate(load_pipeline(source, with_adapter), prompts, steps=steps, guidance=guidance, progress=advance)
            for with_adapter in (True, False)
        )
    return {
        "prompts": len(prompts),
        "base": base.table(),
        "adapter": adapted.table(),
        "intervals": {"base": base.intervals(), "adapter": adapted.intervals()},
        "gap_recovered": {
            wording: {fact: gap_recovered(base, adapted, fact, wording) for fact in ("binding", "relation")}
            for wording in ("natural", "unseen_wording")
        },
    }


@task(name="write figures", cache_policy=NO_CACHE)
def write_figures(figures: dict[str, Any], path: Path) -> dict[str, Any]:
    """The figures as JSON, and as a table in the Prefect UI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(figures, indent=2) + "\n").encode())
    rows = [
        {"model": model, "wording": wording, **facts}
        for model in ("base", "adapter")
        for wording, facts in figures[model].items()
    ]
    create_table_artifact(rows, key="evaluation", description=f"Share of prompts whose facts hold; {path}")
    return {**figures, "file": str(path)}
