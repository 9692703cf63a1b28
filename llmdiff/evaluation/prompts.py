"""Prompts: about held-out scenes of the synthetic shapes benchmark here, from files in `prompt_files`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmdiff.shapes.captions import WORDINGS, caption
from llmdiff.shapes.scene import Scene, sample_scene


@dataclass(frozen=True)
class Prompt:
    """A text to draw, the noise to draw it from, and what is known of it."""

    text: str
    seed: int
    """Seed of the picture's noise."""
    unit: int
    """Number of the prompt's unit: a text with all its seeds, or a scene in all its wordings. Units are independent."""
    category: str = ""
    """Category of the prompt in its file; in the synthetic shapes benchmark, its wording."""
    scene: Scene | None = None
    """The scene that the prompt states, where rules can decide whether it holds."""


def held_out_prompts(count: int, seed: int = 0, things: int = 2) -> list[Prompt]:
    """Return `count` scenes with held-out pairs, each in every wording: ``prompts[i::len(WORDINGS)]`` has one wording.

    A scene keeps its seed in all its wordings, so that models and wordings are compared in pairs.
    """
    rng = np.random.default_rng([seed, 20])
    prompts = []
    for i in range(count):
        scene = sample_scene(rng, things, held_out=True)
        number = seed * 1_000_000 + i
        prompts += [Prompt(caption(scene, wording, rng), number, number, wording, scene) for wording in WORDINGS]
    return prompts
