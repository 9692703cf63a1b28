"""The rule-based evaluator: it finds the things in a picture and says which of the stated facts hold."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import ndimage

from llmdiff.shapes.render import GROUND, PALETTE, coverage
from llmdiff.shapes.scene import RADIUS, SHAPES, SIDE, Scene, Thing, relation_holds

FACTS = ("colour", "binding", "relation", "count")
SMALLEST = 40  # pixels; the smallest thing ever drawn covers 125
SOFTNESS = 0.8  # pixels, standard deviation
_RADII = np.arange(6.0, 14.5, 0.5)


def facts_that_hold(picture: np.ndarray, scene: Scene) -> dict[str, bool]:
    """Return which kinds of fact stated of the scene hold in the picture, each only if *all* its facts do.

    Args:
        picture: ``(64, 64, 3)`` uint8.
        scene: what the prompt stated.

    Returns:
        colour: every stated colour is present. binding: every stated coloured shape is present. relation: the
        stated things are present and stand in the stated relations (no relation stated: as binding). count: there
        are as many things as stated.
    """
    found = find_things(picture)
    by_kind = {thing.kind: thing for thing in found}
    bound = all(thing.kind in by_kind for thing in scene.things)
    return {
        "colour": {thing.colour for thing in scene.things} <= {thing.colour for thing in found},
        "binding": bound,
        "relation": bound and _relations_hold(scene, by_kind),
        "count": len(found) == len(scene.things),
    }


def score_facts(pictures: Sequence[np.ndarray], scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """Return 1 where a kind of fact holds and 0 where not, as one ``(picture,)`` float array for each kind of fact."""
    held = [facts_that_hold(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]
    return {fact: np.array([facts[fact] for facts in held], np.float64) for fact in FACTS}


def find_things(picture: np.ndarray) -> list[Thing]:
    """Return every thing in the picture with colour, shape, size and centre, largest first."""
    cover, colour_of = _unmix(picture)
    things = []
    for index, colour in enumerate(PALETTE):
        labels, count = ndimage.label((cover > 0.5) & (colour_of == index))
        for label in range(1, count + 1):
            mask = labels == label
            if mask.sum() >= SMALLEST:
                things.append((int(mask.sum()), _recognise(mask, cover, colour)))
    return [thing for _, thing in sorted(things, key=lambda pair: -pair[0])]


def _unmix(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel as a mixture of the ground and one colour: the coverage, and which colour fits best."""
    ground = np.array(GROUND, np.float32)
    rest = picture.astype(np.float32) - ground  # (h, w, 3)
    colours = np.array(list(PALETTE.values()), np.float32) - ground  # (colour, 3)
    cover = np.clip(rest @ colours.T / np.square(colours).sum(1), 0, 1)  # (h, w, colour)
    error = np.square(rest[:, :, None] - cover[..., None] * colours).sum(-1)
    best = error.argmin(-1)
    return np.take_along_axis(cover, best[..., None], -1)[..., 0], best


def _recognise(mask: np.ndarray, cover: np.ndarray, colour: str) -> Thing:
    """Return the thing whose ideal picture, at the same bounding-box centre, differs least from the mask's."""
    ys, xs = np.nonzero(mask)
    x, y = (xs.min() + xs.max() + 1) / 2, (ys.min() + ys.max() + 1) / 2
    alone = np.where(ndimage.binary_dilation(mask, iterations=2), cover, 0)
    middle = ndimage.shift(alone, (SIDE / 2 - y, SIDE / 2 - x), order=1)
    names, ideals = _ideals()
    shape, radius = names[int(np.square(ideals - middle).sum((1, 2)).argmin())]
    size = min(RADIUS, key=lambda name: abs(RADIUS[name] - radius))
    return Thing(colour, shape, size, float(x), float(y))


@lru_cache(maxsize=1)
def _ideals() -> tuple[list[tuple[str, float]], np.ndarray]:
    """Return every shape at every radius, softened as by the autoencoder: names, ``(ideal, height, width)``."""
    names = [(shape, float(radius)) for shape in SHAPES for radius in _RADII]
    sharp = [coverage(shape, SIDE / 2, SIDE / 2, radius) for shape, radius in names]
    return names, np.stack([ndimage.gaussian_filter(ideal, SOFTNESS) for ideal in sharp])


def _relations_hold(scene: Scene, by_kind: dict[str, Thing]) -> bool:
    pairs = zip(scene.relations, scene.things, scene.things[1:], strict=False)
    return all(relation_holds(relation, by_kind[a.kind], by_kind[b.kind]) for relation, a, b in pairs)
