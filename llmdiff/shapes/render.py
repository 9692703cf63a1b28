"""Pictures of scenes: flat antialiased colours on a grey ground."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmdiff.shapes.scene import SIDE, Scene

GROUND = (64, 64, 68)
PALETTE = {
    "red": (224, 40, 36),
    "green": (40, 176, 60),
    "blue": (44, 84, 232),
    "yellow": (240, 216, 40),
    "purple": (200, 60, 216),
}


def render_scene(scene: Scene) -> np.ndarray:
    """Return the picture of a scene, ``(height, width, channel)`` uint8."""
    picture = np.empty((SIDE, SIDE, 3), np.float32)
    picture[:] = GROUND
    for thing in scene.things:
        cover = coverage(thing.shape, thing.x, thing.y, thing.radius)[..., None]
        picture = picture * (1 - cover) + np.array(PALETTE[thing.colour], np.float32) * cover
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def coverage(shape: str, x: float, y: float, radius: float) -> np.ndarray:
    """Return each pixel's coverage by a shape, ``(height, width)`` float32 in [0, 1]; centre, radius in pixels."""
    ys, xs = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + 0.5
    distance = _DISTANCE[shape](xs - x, ys - y, radius)
    return np.clip(0.5 - distance, 0, 1).astype(np.float32)


def _circle(dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    return np.hypot(dx, dy) - radius


def _square(dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    return np.maximum(np.abs(dx), np.abs(dy)) - 0.88 * radius


def _triangle(dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    side = (np.abs(dx) * 2 - (dy + radius)) / np.sqrt(5.0)  # apex on top, base as wide as the thing
    return np.maximum(side, dy - radius)


def _cross(dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    ax, ay = np.abs(dx), np.abs(dy)
    arm = 0.34 * radius
    return np.minimum(np.maximum(ax - radius, ay - arm), np.maximum(ay - radius, ax - arm))


_DISTANCE: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}
