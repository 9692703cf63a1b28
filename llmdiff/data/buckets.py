"""Aspect ratio buckets: the sizes among which each picture goes into the one that cuts the least of it.

NovelAI described them for Stable Diffusion, and SDXL was trained on such (arXiv 2307.01952, section 2.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

STEP = 64
"""Pixels between the sides of two buckets: eight latents, which the deepest layers of SD 1's U-Net need."""
LEAST_AREA = 0.8
"""Least area of a bucket, as a share of the square's; with the 0.9 of SDXL's own list, 512 pixels would have no 3:2."""
FARTHEST = 4
"""Greatest ratio of a bucket's longer side to its shorter one."""


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """All sizes in whole steps, of at most as many pixels as a square and not much fewer."""

    size: int
    """Side of the square, in pixels."""
    step: int
    """Step between the sides of two buckets, in pixels."""

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each bucket, in pixels."""
        most = self.size**2 / self.step**2
        sides = range(1, int(most**0.5 * FARTHEST) + 1)
        return tuple(
            (width * self.step, height * self.step)
            for width in sides
            for height in sides
            if LEAST_AREA * most < width * height <= most and max(width, height) <= FARTHEST * min(width, height)
        )

    def of(self, width: int, height: int) -> tuple[int, int]:
        """Return the bucket that keeps the most of a picture; of several such, the largest."""

        def kept(bucket: tuple[int, int]) -> tuple[float, int]:
            across, down = bucket[0] * height, bucket[1] * width
            return min(across, down) / max(across, down), bucket[0] * bucket[1]

        return max(self.sizes, key=kept)


def default_step(size: int, factor: int) -> int:
    """Return `STEP`, or for small pictures less: an eighth of the side, in whole latents of `factor` pixels."""
    return max(factor, min(STEP, size // 8) // factor * factor)


def check_step(size: int, step: int, factor: int) -> None:
    """Raise ValueError where a step is no whole number of latents, or leaves hardly a bucket but the square."""
    if step < 1 or step % factor:
        raise ValueError(f"bucket_step: expected a multiple of {factor} pixels, found {step}")
    if 4 * step > size:
        raise ValueError(f"bucket_step: expected at most a quarter of the size, {size} pixels, found {step}")
