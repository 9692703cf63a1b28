"""Pictures for the page: prompts by columns, each from its own seed's noise, as `llmdiff generate` draws them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from llmdiff.sampling import draw, to_images
from pipelines.app.models import Models
from pipelines.requests.generate import GenerateRequest

BASE = None
"""Column that is drawn with the base model alone, instead of with a scale of the adapter."""
STRIP = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Scales of the adapter that a strip shows."""
OnStep = Callable[[int, int], None]
"""Function that is called with the number of steps done and the number of all steps."""


class StoppedError(Exception):
    """The person who asked for the pictures stopped the drawing."""


@dataclass
class Steps:
    """The steps of all pictures that were asked for: counted, shown, and the place where a drawing can be stopped."""

    total: int
    show: OnStep
    stop: threading.Event
    done: int = 0

    def callback(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Count a step, show it, and stop if asked to; diffusers calls this as ``callback_on_step_end``."""
        if self.stop.is_set():
            raise StoppedError
        self.done = min(self.done + 1, self.total)
        self.show(self.done, self.total)
        return tensors


def draw_columns(
    models: Models,
    request: GenerateRequest,
    columns: Sequence[float | None],
    show: OnStep = lambda done, total: None,
    stop: threading.Event | None = None,
) -> list[list[Image.Image]]:
    """Draw every prompt in every column: ``[prompt][column]`` pictures that hold their settings in `info`.

    Args:
        models: what is loaded already stays.
        request: the prompts, the first one's seed, and the settings; its `scale` is not read.
        columns: a scale of the adapter each, or `BASE`.
        show: called at each step of a batch of prompts.
        stop: set by another thread, it ends the drawing at the next step; one that is set already, before the first.

    Raises:
        StoppedError: it was stopped.
        ValueError: there is no prompt, or the models do not go together.
    """
    from pipelines.runtime.adapter_source import resolve_adapter

    if not request.prompts or not all(prompt.strip() for prompt in request.prompts):
        raise ValueError("prompts: expected at least one, found none")
    if stop is not None and stop.is_set():
        raise StoppedError
    source = resolve_adapter.fn(request.adapter, request.llm, request.diffusion)
    batches = -(-len(request.prompts) // request.batch)
    steps = Steps(len(columns) * batches * request.steps, show, stop or threading.Event())
    drawn = [_draw_column(models, request, source, scale, steps) for scale in columns]
    return [list(row) for row in zip(*drawn, strict=True)]


def _draw_column(
    models: Models, request: GenerateRequest, source: Any, scale: float | None, steps: Steps
) -> list[Image.Image]:
    """Draw each prompt with the base alone or with a scale of the adapter; the next prompt has the next seed."""
    from pipelines.flows.generate import describe

    sampling = request.sampling.model_copy(update={"scale": 1.0 if scale is None else scale})
    seeds = range(request.seed, request.seed + len(request.prompts))
    images: list[Image.Image] = []
    with models.drawing(source, sampling, adapted=scale is not None) as pipe:
        settings = describe(source, scale is not None, sampling, pipe)
        for pictures in draw(
            pipe, request.prompts, seeds, sampling, request.batch, callback_on_step_end=steps.callback
        ):
            images += to_images(pictures)
    for image, prompt, seed in zip(images, request.prompts, seeds, strict=True):
        image.info = {name: str(value) for name, value in {"prompt": prompt, **settings, "seed": seed}.items()}
    return images
