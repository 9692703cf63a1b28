"""Scenes of the synthetic shapes benchmark: one to three things of a colour, shape and size, in spatial relation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
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
    return _holds(relation, a.x - b.x, a.y - b.y)


def _holds(relation: str, dx: float, dy: float) -> bool:
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
    """Return what `rng.choice` would, without making an array of the names each time."""
    return names[rng.integers(len(names))]


def _place(rng: np.random.Generator, things: list[Thing], relations: tuple[str, ...]) -> tuple[Thing, ...] | None:
    """Return centres under which nothing overlaps and every relation holds clearly, or None where none was found."""
    radii = [thing.radius for thing in things]
    low = np.array(radii)[:, None] + MARGIN
    room = SIDE - low - low
    for _ in range(40):
        centres = (low + room * rng.random((len(things), 2))).tolist()  # as `rng.uniform`, which takes far longer
        if _apart(centres, radii) and all(
            _holds_clearly(relation, *a, *b) for relation, a, b in zip(relations, centres, centres[1:], strict=False)
        ):
            return tuple(replace(thing, x=x, y=y) for thing, (x, y) in zip(things, centres, strict=True))
    return None


def _apart(centres: list[list[float]], radii: list[float]) -> bool:
    return all(
        max(abs(x - other_x), abs(y - other_y)) >= radius + other_radius + MARGIN
        for ((x, y), radius), ((other_x, other_y), other_radius) in combinations(zip(centres, radii, strict=True), 2)
    )


def _holds_clearly(relation: str, x: float, y: float, other_x: float, other_y: float) -> bool:
    dx, dy = x - other_x, y - other_y
    small, large = sorted((abs(dx), abs(dy)))
    return _holds(relation, dx, dy) and large >= 1.5 * small
