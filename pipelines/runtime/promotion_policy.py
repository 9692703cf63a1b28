"""The score by which a promotion policy compares adapters: of their pictures of some prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from llmdiff.evaluation import Prompt, held_out_prompts, load_metric, read_prompts
from llmdiff.evaluation.evaluate import score_batches
from llmdiff.sampling import Sampling, draw, to_uint8
from pipelines.requests.promote import PromotionPolicy
from pipelines.runtime.progress import advance

BATCH = 4
"""Number of pictures drawn and scored at once."""


def prompts_of(policy: PromotionPolicy) -> list[Prompt]:
    """Return the prompts with their seeds; raise FileNotFoundError or ValueError where the file holds none."""
    if policy.prompts is not None:
        return read_prompts(Path(policy.prompts), [policy.seed])
    return [prompt for prompt in held_out_prompts(policy.scenes, policy.seed) if prompt.category == policy.wording]


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """Return the SHA-256 of texts and seeds: a file may change under its name."""
    return hashlib.sha256(json.dumps([(prompt.text, prompt.seed) for prompt in prompts]).encode()).hexdigest()


def score_of(policy: PromotionPolicy, load: Callable[[], Any], prompts: Sequence[Prompt]) -> float:
    """Return the score of a model.

    Args:
        policy: says how.
        load: gives the diffusers pipeline; called once the metric's own model is there.
        prompts: of `prompts_of`.
    """
    metric = load_metric("facts" if policy.prompts is None else policy.metric)
    column = policy.metric if policy.prompts is None else metric.columns[0]
    texts, seeds = [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
    drawn = draw(load(), texts, seeds, Sampling(steps=policy.steps, guidance=policy.guidance), BATCH)
    batches = ([Image.fromarray(picture) for picture in to_uint8(pictures)] for pictures in drawn)
    return float(score_batches(batches, prompts, [metric], advance)[column].mean())
