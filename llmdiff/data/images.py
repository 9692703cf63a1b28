"""Pictures as users have them, turned into the squares that the autoencoder reads, or refused with a reason."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from llmdiff.data.rejects import BadRow

MAX_PIXELS = 100_000_000
"""A picture of more pixels is refused before it is decoded: a small file can unpack to many gigabytes."""


class Crop(NamedTuple):
    """What of a picture was kept: its upright size in pixels, and the square's corner after the resize."""

    width: int
    height: int
    left: int
    top: int


def load_image(data: bytes, size: int, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> tuple[np.ndarray, Crop]:
    """Decodes a picture, turns it upright, and keeps the centred square at `size` pixels.

    Args:
        data: an encoded picture in any format that Pillow reads; of an animation, the first frame.
        size: side of the square in pixels.
        max_pixels: the most pixels a picture may have.
        min_side: the fewest pixels its shorter side may have.

    Returns:
        ``(height, width, channel)`` uint8 sRGB, transparent parts on white, and what was kept.

    Raises:
        BadRow: "image_too_large", "too_small", "truncated_image" or "broken_image".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `max_pixels` decides here
        try:
            with Image.open(io.BytesIO(data)) as picture:
                _check_size(picture, max_pixels, min_side)
                upright = ImageOps.exif_transpose(picture)
                return _square(_rgb(upright), size)
        except BadRow:
            raise
        except Image.DecompressionBombError as error:
            raise BadRow("image_too_large", str(error)) from error
        except Exception as error:  # Pillow's decoders raise many kinds on damaged data; each means the same here
            raise _unreadable(data, error) from error


def _check_size(picture: Image.Image, max_pixels: int, min_side: int) -> None:
    found = f"{picture.width}x{picture.height} pixels"
    if picture.width * picture.height > max_pixels:
        raise BadRow("image_too_large", f"expected at most {max_pixels} pixels, found {found}")
    if min(picture.size) < min_side:
        raise BadRow("too_small", f"expected a shorter side of at least {min_side} pixels, found {found}")


def _unreadable(data: bytes, error: Exception) -> BadRow:
    """A picture that breaks off, told by Pillow's words or by the length that a WebP states; or a broken one."""
    detail = f"{type(error).__name__}: {error}".replace("\n", " ")
    if data[:4] == b"RIFF" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        return BadRow("truncated_image", f"expected {8 + int.from_bytes(data[4:8], 'little')} bytes, found {len(data)}")
    if "truncated" in detail.lower():
        return BadRow("truncated_image", detail)
    if isinstance(error, UnidentifiedImageError):
        return BadRow("broken_image", f"expected a picture, found bytes that begin {data[:12]!r}")
    return BadRow("broken_image", detail)


def _rgb(picture: Image.Image) -> Image.Image:
    """Any colour mode as RGB: 16-bit grey is scaled, not clipped; what is transparent becomes white."""
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.float64) / 257  # 65535 -> 255
        return Image.fromarray(grey.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _square(picture: Image.Image, size: int) -> tuple[np.ndarray, Crop]:
    """The shorter side becomes `size`, then the centre is cut out."""
    width, height = picture.size
    scale = size / min(width, height)
    resized = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (resized[0] - size) // 2, (resized[1] - size) // 2
    if resized != picture.size:
        picture = picture.resize(resized, Image.Resampling.BICUBIC)
    square = picture.crop((left, top, left + size, top + size))
    return np.asarray(square), Crop(width, height, left, top)
