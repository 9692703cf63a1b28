"""Pictures of a model's prompts, each under a name made of all that decides its pixels: drawn once, ever."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from llmdiff.evaluation.prompts import Prompt
from llmdiff.image_files import save_png
from storage.hashing import canonical_json

LIBRARIES = ("diffusers", "llmdiff", "torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are drawn: the same for every model that is compared."""

    steps: int = 20
    """Denoising steps."""
    guidance: float = 3.0
    """Classifier-free guidance scale."""
    size: int | None = None
    """Side in pixels; None is each model's own."""
    scheduler: str | None = None
    """A sampler of `llmdiff generate`; None is each model's own."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the models."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, found {self.steps}")
        if self.size is not None and (self.size < 8 or self.size % 8):
            raise ValueError(f"size: expected a multiple of 8 pixels, found {self.size}")


@dataclass(frozen=True)
class Model:
    """A model under evaluation."""

    name: str
    identity: Mapping[str, Any]
    """What its pixels depend on besides `Sampling`: hashes or revisions of its files."""
    load: Callable[[Sampling], Any]
    """Loads a diffusers pipeline; called where a picture is missing, and not before."""


@dataclass(frozen=True)
class Gallery:
    """A model's pictures in a folder, which any number of evaluations share."""

    folder: Path
    model: Model
    sampling: Sampling

    def path(self, prompt: Prompt) -> Path:
        """Where a prompt's picture is, or will be."""
        key = canonical_json({**self._base, "prompt": prompt.text, "seed": prompt.seed})
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.png"

    def draw(
        self, prompts: Sequence[Prompt], batch_size: int = 4, progress: Callable[[int], None] | None = None
    ) -> list[Path]:
        """Draws what is missing, a batch at a time, and returns the path of each prompt's picture.

        A picture's noise comes from its seed alone; the size of its batch can move a value by rounding, one level of
        255. Killed, at most one batch is lost.
        """
        wanted = {self.path(prompt): prompt for prompt in prompts}
        missing = {path: prompt for path, prompt in wanted.items() if not path.exists()}
        if progress is not None:
            progress(len(prompts) - len(missing))
        if missing:
            options = {} if self.sampling.size is None else {"height": self.sampling.size, "width": self.sampling.size}
            pipe, paths = self.model.load(self.sampling), iter(missing)
            todo = list(missing.values())
            batches = draw(pipe, todo, self.sampling.steps, self.sampling.guidance, batch_size, **options)
            for pictures in batches:
                for picture, path in zip(pictures, paths, strict=False):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    save_png(Image.fromarray(picture), path, self._about(missing[path]))
                if progress is not None:
                    progress(len(pictures))
        return [self.path(prompt) for prompt in prompts]

    @cached_property
    def _base(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.identity),
            "sampling": asdict(self.sampling),
            **machine(),
        }

    def _about(self, prompt: Prompt) -> dict[str, Any]:
        settings = {name: value for name, value in asdict(self.sampling).items() if value is not None}
        return {"prompt": prompt.text, "seed": prompt.seed, "model": self.model.name, **settings}


def machine() -> dict[str, Any]:
    """What pixels depend on besides models and settings: the kind of device, and the libraries."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"device": device, "libraries": {name: version(name) for name in LIBRARIES}}


def draw(
    pipe: Any, prompts: Sequence[Prompt], steps: int, guidance: float, batch_size: int, **call: Any
) -> Iterator[np.ndarray]:
    """Draws prompts with a diffusers pipeline, each from its own seed: batches ``(prompt, height, width, 3)`` uint8."""
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        images = pipe(
            [prompt.text for prompt in batch],
            num_inference_steps=steps,
            guidance_scale=guidance,
            # on the CPU, so that a seed means the same noise on every device
            generator=[torch.Generator().manual_seed(prompt.seed) for prompt in batch],
            output_type="np",
            **call,
        ).images
        if not np.isfinite(images).all():
            raise ValueError(f"{batch[0].text!r:.80}: the model drew pixels that are no numbers; try another dtype")
        yield (images * 255 + 0.5).astype(np.uint8)
