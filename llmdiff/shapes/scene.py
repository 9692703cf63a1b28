"""Scenes of the synthetic shapes benchmark: one to three things of a colour, shape and size, in spatial relation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import combinations

import numpy as np

COLOURS = ("red", "green", "blue", "yellow", "purple")
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

SIDE = 64  # pixels, height and width of a picture
RADIUS = {"small": 8.0, "large": 12.0}  # pixels, half the width of a thing
MARGIN = 1.5  # pixels kept free at the border and between two things
HELD_OUT_SHARE = 8  # one pair of coloured shapes in eight is in no training data


@dataclass(frozen=True)
class Thing:
    """One coloured shape with its centre in pixels."""

    colour: str
    shape: str
    size: str
    x: float = 0.0
    y: float = 0.0

    @property
    def radius(self) -> float:
        return RADIUS[self.size]

    @property
    def kind(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Things and the relation of each to the next: ``relations[i]`` holds between thing ``i`` and thing ``i + 1``."""

    things: tuple[Thing, ...]
    relations: tuple[str, ...]

    @property
    def held_out(self) -> bool:
        """Whether any two of the things form a pair that no training data may show."""
        return any(is_held_out(a.kind, b.kind) for a, b in combinations(self.things, 2))


def is_held_out(kind: str, other: str) -> bool:
    """Return whether a pair of coloured shapes ("red circle", "blue square") is kept from all training, by hash."""
    name = "+".join(sorted((kind, other)))
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT_SHARE == 0


def relation_holds(relation: str, a: Thing, b: Thing) -> bool:
    """Return whether `a` stands in `relation` to `b`: the offset along its axis is the larger one, and has its sign."""
    dx, dy = a.x - b.x, a.y - b.y
    along, across = (dx, dy) if relation in ("left of", "right of") else (dy, dx)
    sign = -1 if relation in ("left of", "above") else 1
    return sign * along > abs(across)


def sample_scene(rng: np.random.Generator, count: int, held_out: bool = False) -> Scene:
    """Return a random scene of `count` things, from the held-out pairs or from the others."""
    while True:
        things = [_sample_thing(rng) for _ in range(count)]
        kinds = {thing.kind for thing in things}
        pairs_held_out = any(is_held_out(a.kind, b.kind) for a, b in combinations(things, 2))
        if len(kinds) < count or pairs_held_out != held_out:
            continue
        relations = tuple(_choose(rng, RELATIONS) for _ in range(count - 1))
        placed = _place(rng, things, relations)
        if placed is not None:
            return Scene(placed, relations)


def _sample_thing(rng: np.random.Generator) -> Thing:
    return Thing(_choose(rng, COLOURS), _choose(rng, SHAPES), _choose(rng, SIZES))


def _choose(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    """Return what `rng.choice` would, which makes an array of the names each time."""
    return names[rng.integers(len(names))]


def _place(rng: np.random.Generator, things: list[Thing], relations: tuple[str, ...]) -> tuple[Thing, ...] | None:
    """Return centres under which nothing overlaps and every relation holds clearly, or None where none was found."""
    low = np.array([[thing.radius + MARGIN] for thing in things])
    high = SIDE - low
    for _ in range(40):
        centres = rng.uniform(low, high, size=(len(things), 2)).tolist()
        placed = tuple(Thing(t.colour, t.shape, t.size, x, y) for t, (x, y) in zip(things, centres, strict=True))
        if _apart(placed) and all(
            _holds_clearly(relation, a, b) for relation, a, b in zip(relations, placed, placed[1:], strict=False)
        ):
            return placed
    return None


def _apart(things: tuple[Thing, ...]) -> bool:
    return all(max(abs(a.x - b.x), abs(a.y - b.y)) >= a.radius + b.radius + MARGIN for a, b in combinations(things, 2))


def _holds_clearly(relation: str, a: Thing, b: Thing) -> bool:
    dx, dy = abs(a.x - b.x), abs(a.y - b.y)
    return relation_holds(relation, a, b) and max(dx, dy) >= 1.5 * min(dx, dy)
