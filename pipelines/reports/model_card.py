"""The page of an adapter on the hub: how to load it, what it draws, how it was evaluated, what it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from llmdiff.adapter.config import AdapterConfig

LIBRARY = "llmdiff"
TAGS = ["text-to-image", "stable-diffusion", "adapter", "llmdiff"]
SETTINGS = ("steps", "batch_size", "learning_rate", "timestep_weighting", "caption_dropout", "seed")
"""Settings of training that the card names, where the run has them."""


def model_card(
    config: AdapterConfig,
    repo: str,
    licence: str,
    data: dict[str, str],
    grid: str | None,
    scores: dict[str, Any] | None,
) -> str:
    """Return the card as Markdown, after the YAML that the hub reads.

    Args:
        config: of the adapter, without anything private.
        repo: ``owner/name``.
        licence: as the hub writes it.
        data: how many files and rows it was trained on, and their digest; see `infra.tracking.lineage.data_tags`.
        grid: name of a picture beside the card.
        scores: of an evaluation's report, by metric and model.
    """
    base, llm = config.base_model or "<the base model>", config.llm or "<the LLM>"
    about = {"license": licence, "library_name": LIBRARY, "pipeline_tag": "text-to-image", "tags": TAGS}
    about |= {"base_model": config.base_model} if config.base_model else {}
    arguments = f'"{base}", "{repo}"' + (f', "{llm}"' if config.encoder == "llm" else "")
    reads = f"encodings of {llm}" if config.encoder == "llm" else "the base model's own text features"
    blocks = [
        f"---\n{yaml.safe_dump(about, sort_keys=False).strip()}\n---",
        f"# {repo.partition('/')[2]}",
        f"An LLMDiff-Adapter ([arXiv 2502.04412](https://arxiv.org/abs/2502.04412)) for {base}, which reads {reads}.",
        "## Load it",
        f"```python\nfrom llmdiff import LLMDiffPipeline\n\npipe = LLMDiffPipeline.from_pretrained({arguments})\n"
        'image = pipe("a red circle to the left of a blue square").images[0]\n```',
    ]
    if grid is not None:
        blocks += ["## Samples", f"![Samples]({grid})"]
    if scores:
        blocks += ["## Evaluation", score_table(scores)]
    return "\n\n".join([*blocks, "## Made from", made_from(config, data)]) + "\n"


def score_table(scores: dict[str, Any]) -> str:
    """Return a row a model, a column a metric: means."""
    models = list(dict.fromkeys(model for by_model in scores.values() for model in by_model))
    rows = [["model", *scores], ["---"] * (1 + len(scores))]
    for model in models:
        values = [by_model.get(model, {}).get("mean") for by_model in scores.values()]
        rows.append([model, *("" if value is None else f"{value:.4g}" for value in values)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def made_from(config: AdapterConfig, data: dict[str, str]) -> str:
    """Return what the weights depend on, a line each."""
    facts = {
        "base model": config.base_model,
        "LLM": config.llm,
        "LLM's revision": config.llm_revision,
        "encoder": config.encoder_fingerprint,
        "data files": data.get("data_files"),
        "rows": data.get("data_rows"),
        "digest of the data": data.get("data_digest"),
        **{name.replace("_", " "): config.training.get(name) for name in SETTINGS},
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items() if value not in (None, ""))


def read_scores(path: str) -> dict[str, Any]:
    """Return the scores of a report of `llmdiff evaluate`; ValueError naming the file where it holds none."""
    try:
        scores: dict[str, Any] = json.loads(Path(path).read_bytes())["scores"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a report.json of `llmdiff evaluate`, found no scores") from error
    return scores
