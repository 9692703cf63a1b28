"""Read and write pictures: they are written whole or not at all, with the settings that drew them as metadata."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from storage.io.files import write_file

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "HEIF", "JXL")
"""Formats that are read, where Pillow or a package for it can. Pillow's other formats may start other programs."""


@cache
def known_formats() -> list[str]:
    """Return those of `FORMATS` that can be read here, as Pillow raises an error for any other name."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def save_png(image: Image.Image, path: Path, settings: Mapping[str, Any] | None = None) -> Path:
    """Write a picture whole or not at all, and return where; `settings` go into its text metadata."""
    data, about = io.BytesIO(), PngInfo()
    for name, value in (settings or {}).items():
        about.add_text(name, str(value))
    image.save(data, "PNG", pnginfo=about)
    write_file(path, data.getvalue())
    return path


def public_name(model: str) -> str:
    """Return a model's folder or name in the form that goes into a picture's metadata, which others see.

    An absolute path is cut to the folder's own name, for the folders above it may tell whose machine it was.
    """
    is_private = Path(model).is_absolute() or model.startswith(("~", ".."))
    return Path(model).name if is_private else model


def open_rgb(path: Path) -> Image.Image:
    """Return a picture, upright and in RGB; ValueError naming the file where it can't be read."""
    try:
        with Image.open(path, formats=known_formats()) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: expected a picture: {error}") from error
