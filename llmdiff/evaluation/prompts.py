"""Prompts about held-out scenes of the embedded world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmdiff.shapes.captions import WORDINGS, caption
from llmdiff.shapes.scene import Scene, sample_scene


@dataclass(frozen=True)
class Prompt:
    """One caption, what it states, how it is worded, and the seed of its pictures' noise."""

    text: str
    scene: Scene
    wording: str
    seed: int


def held_out_prompts(count: int, seed: int = 0, things: int = 2) -> list[Prompt]:
    """`count` scenes with held-out pairs, each in every wording: ``prompts[i::len(WORDINGS)]`` has one wording.

    A scene keeps its seed in all its wordings, so that models and wordings are compared in pairs.
    """
    rng = np.random.default_rng([seed, 20])
    prompts = []
    for i in range(count):
        scene = sample_scene(rng, things, held_out=True)
        prompts += [Prompt(caption(scene, wording, rng), scene, wording, seed * 1_000_000 + i) for wording in WORDINGS]
    return prompts
