"""Pictures as files: written whole or not at all, with what they were drawn from inside."""

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
"""Formats of pictures that are read, where Pillow or a package for it can. It has others that start other programs."""


@cache
def known_formats() -> list[str]:
    """Return those of `FORMATS` that can be read here: another name is an error of Pillow's."""
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
    """Return a model's folder or name as a picture may have it in its metadata, which goes to others.

    Of an absolute path it is the folder's own name, for those above it say whose machine it was.
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
