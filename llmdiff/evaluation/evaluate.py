"""Generates a picture a prompt and asks the exact judge which stated facts hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmdiff.evaluation.bootstrap import interval, mean_interval
from llmdiff.evaluation.prompts import Prompt
from llmdiff.shapes.captions import WORDINGS
from llmdiff.shapes.judge import FACTS, score


@dataclass(frozen=True)
class Evaluation:
    """One model's pictures, ``(prompt, height, width, channel)`` uint8, and verdicts, ``(prompt,)`` for each fact."""

    prompts: Sequence[Prompt]
    pictures: np.ndarray
    verdicts: dict[str, np.ndarray]

    def sample(self, fact: str, wording: str) -> np.ndarray:
        """The verdicts on one kind of fact for one wording, ``(scene,)``, scenes in the prompts' order."""
        rows = [i for i, prompt in enumerate(self.prompts) if prompt.wording == wording]
        return self.verdicts[fact][rows]

    def table(self) -> dict[str, dict[str, float]]:
        """Shares of prompts whose facts hold: ``table[wording][fact]``."""
        return {w: {f: float(self.sample(f, w).mean()) for f in FACTS} for w in self._wordings()}

    def intervals(self) -> dict[str, dict[str, tuple[float, float]]]:
        """The 95 % bootstrap interval of each share in `table`."""
        return {w: {f: mean_interval(self.sample(f, w)) for f in FACTS} for w in self._wordings()}

    def _wordings(self) -> list[str]:
        present = {prompt.wording for prompt in self.prompts}
        return [wording for wording in WORDINGS if wording in present]


def evaluate(
    pipe: Any,
    prompts: Sequence[Prompt],
    *,
    steps: int = 20,
    guidance: float = 3.0,
    batch_size: int = 50,
    progress: Callable[[int], None] | None = None,
    **call: Any,
) -> Evaluation:
    """Draws every prompt from its own seed with a diffusers pipeline and judges the pictures.

    Args:
        pipe: called as ``pipe(texts, generator=[...], output_type="np", ...)``, as every diffusers pipeline is.
        prompts: what to draw; a prompt's noise depends on its seed alone, not on its batch.
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        batch_size: prompts drawn at once.
        progress: called with the number of prompts done after each batch.
        call: more arguments for the pipeline (`adapter_scale`, say).
    """
    pictures = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        images = pipe(
            [prompt.text for prompt in batch],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(prompt.seed) for prompt in batch],
            output_type="np",
            **call,
        ).images
        pictures.append((images * 255 + 0.5).astype(np.uint8))
        if progress is not None:
            progress(len(batch))
    drawn = np.concatenate(pictures)
    return Evaluation(prompts, drawn, score(list(drawn), [prompt.scene for prompt in prompts]))


def gap_recovered(base: Evaluation, adapter: Evaluation, fact: str, wording: str) -> dict[str, Any]:
    """How much of what the base loses by a wording the adapter brings back, with its 95 % interval.

    (adapter - base on the wording) / (base on its own template - base on the wording): 1 means that the wording no
    longer matters. Prompts are resampled together, since all three samples are of the same scenes and seeds.
    """

    def share(own: np.ndarray, lost: np.ndarray, found: np.ndarray) -> np.ndarray:
        gap = own - lost
        return np.divide(found - lost, gap, out=np.full_like(gap, np.nan), where=gap > 0)

    samples = base.sample(fact, "template"), base.sample(fact, wording), adapter.sample(fact, wording)
    value = share(*(np.atleast_1d(sample.mean()) for sample in samples))
    return {"value": float(value[0]), "interval": interval(share, *samples)}
