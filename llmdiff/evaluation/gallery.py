"""Pictures of a model's prompts, each drawn only once: its name is a hash of all that decides its pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from llmdiff.devices import device
from llmdiff.evaluation.prompts import Prompt
from llmdiff.image_files import public_name, save_png
from llmdiff.sampling import Sampling, draw, to_uint8
from storage.hashing import canonical_json

LIBRARIES = ("diffusers", "llmdiff", "torch", "transformers")


@dataclass(frozen=True)
class Model:
    """A model under evaluation."""

    name: str
    identity: Mapping[str, Any]
    """What the model's pixels depend on besides `Sampling`: hashes or revisions of its files."""
    load: Callable[[Sampling], Any]
    """Function that loads a diffusers pipeline; it is called only if a picture is missing."""


@dataclass(frozen=True)
class Gallery:
    """A model's pictures in a folder, which any number of evaluations share."""

    folder: Path
    model: Model
    sampling: Sampling

    def path(self, prompt: Prompt) -> Path:
        """Return where a prompt's picture is, or will be."""
        key = canonical_json({**self._base, "prompt": prompt.text, "seed": prompt.seed})
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.png"

    def draw(
        self, prompts: Sequence[Prompt], batch_size: int = 4, progress: Callable[[int], None] | None = None
    ) -> list[Path]:
        """Draw the missing pictures, a batch at a time, and return the path of each prompt's picture.

        A picture's noise comes from its seed alone; the size of its batch can move a value by rounding, one level of
        255. Killed, at most one batch is lost.
        """
        wanted = {self.path(prompt): prompt for prompt in prompts}
        missing = {path: prompt for path, prompt in wanted.items() if not path.exists()}
        if progress is not None:
            progress(len(prompts) - len(missing))
        if missing:
            pipe, paths = self.model.load(self.sampling), iter(missing)
            texts, seeds = zip(*((prompt.text, prompt.seed) for prompt in missing.values()), strict=True)
            for pictures in draw(pipe, texts, seeds, self.sampling, batch_size):
                for picture, path in zip(to_uint8(pictures), paths, strict=False):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    save_png(Image.fromarray(picture), path, self._about(missing[path]))
                if progress is not None:
                    progress(len(pictures))
        return [self.path(prompt) for prompt in prompts]

    @cached_property
    def _base(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.identity),
            "sampling": self.sampling.key(),
            **machine(),
        }

    def _about(self, prompt: Prompt) -> dict[str, Any]:
        settings = {name: value for name, value in self.sampling.key().items() if value is not None}
        return {"prompt": prompt.text, "seed": prompt.seed, "model": public_name(self.model.name), **settings}


def machine() -> dict[str, Any]:
    """Return what pixels depend on besides models and settings: the kind of device, and the libraries' versions."""
    return {"device": device(), "libraries": {name: version(name) for name in LIBRARIES}}
