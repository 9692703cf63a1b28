"""Draw image grids: a row for each prompt, a column for each model."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN = 8  # pixels
LABEL_SIZE = 14  # pixels


def image_grid(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], columns: Sequence[str], cell: int | None = None
) -> Image.Image:
    """Return one picture of many, each prompt written above its row.

    Args:
        rows: prompts with their pictures, as many as there are columns.
        columns: headings.
        cell: side of each picture on the grid in pixels; None is its own, at least 192.
    """
    cell = cell or max(192, max(image.width for _, images in rows for image in images))
    width = len(columns) * (cell + MARGIN) + MARGIN
    font = ImageFont.load_default(LABEL_SIZE)
    labels = [textwrap.wrap(prompt, max(20, width // 7)) for prompt, _ in rows]
    heights = [len(label) * (LABEL_SIZE + 4) + cell + 2 * MARGIN for label in labels]
    grid = Image.new("RGB", (width, sum(heights) + LABEL_SIZE + 3 * MARGIN), "white")
    draw = ImageDraw.Draw(grid)
    for i, column in enumerate(columns):
        draw.text((MARGIN + i * (cell + MARGIN), MARGIN), column, "black", font)
    top = LABEL_SIZE + 3 * MARGIN
    for label, (_, images), height in zip(labels, rows, heights, strict=True):
        for number, line in enumerate(label):
            draw.text((MARGIN, top + number * (LABEL_SIZE + 4)), line, "dimgray", font)
        below = top + len(label) * (LABEL_SIZE + 4) + MARGIN // 2
        for i, image in enumerate(images):
            enlarged = image.convert("RGB").resize((cell, cell), Image.Resampling.NEAREST)
            grid.paste(enlarged, (MARGIN + i * (cell + MARGIN), below))
        top += height
    return grid
