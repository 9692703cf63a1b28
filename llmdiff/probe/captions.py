"""Captions of two things, with the questions about them that a probe is trained on and asked.

They are the synthetic shapes benchmark's. A probe learns on natural wordings of pairs of things that are not held out.
It is asked about held-out pairs, in the same wordings and in those that it never saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llmdiff.shapes.captions import canonical, caption
from llmdiff.shapes.scene import COLOURS, SHAPES, SIZES, Scene, sample_scene

AXES = ("left of", "above")
OF_A_THING = (COLOURS, SHAPES, SIZES)
CHOICES = (*OF_A_THING, *OF_A_THING, AXES)
"""The answers to each question: colour, shape and size of the first thing and of the second, and how they stand.

Things are counted from the left or from above, whichever a caption begins with.
"""


class Labelled(NamedTuple):
    """Captions, and the right answers to the questions about each."""

    captions: list[str]
    answers: Tensor
    """Right answers, int64 (caption, question), as indices into `CHOICES`."""


@dataclass(frozen=True)
class ProbeCaptions:
    """The captions that a probe learns on, and those that it is asked about."""

    train: Labelled
    natural: Labelled
    """Captions of held-out pairs, in the wordings of training."""
    new: Labelled
    """Captions of held-out pairs, in wordings that training lacks."""

    @classmethod
    def draw(cls, train: int, test: int, seed: int) -> ProbeCaptions:
        """Draw `train` captions to learn on and `test` of either kind to be asked about; a seed gives the same ones."""
        return cls(
            labelled(train, "natural", held_out=False, seed=(seed, 0)),
            labelled(test, "natural", held_out=True, seed=(seed, 1)),
            labelled(test, "unseen_wording", held_out=True, seed=(seed, 2)),
        )

    @property
    def all(self) -> list[str]:
        """All captions: those of training, then those of both tests."""
        return [*self.train.captions, *self.natural.captions, *self.new.captions]


def labelled(count: int, wording: str, held_out: bool, seed: tuple[int, ...]) -> Labelled:
    """Draw captions of two things, of held-out pairs or of the others, in random wordings of a set of the benchmark."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, 2, held_out) for _ in range(count)]
    return Labelled([caption(scene, wording, rng) for scene in scenes], torch.tensor([answers(s) for s in scenes]))


def answers(scene: Scene) -> list[int]:
    """Return the right answer to each question about a scene of two things."""
    scene = canonical(scene)
    facts = [fact for thing in scene.things for fact in (thing.colour, thing.shape, thing.size)]
    return [choices.index(fact) for choices, fact in zip(CHOICES, [*facts, scene.relations[0]], strict=True)]
