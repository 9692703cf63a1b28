"""Pictures as users have them, turned into what the autoencoder reads, or refused with a reason."""

from __future__ import annotations

import io
import struct
import warnings
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from llmdiff.data.buckets import Buckets
from llmdiff.data.budget import SharedBudget
from llmdiff.data.lfs import FOUND, is_pointer
from llmdiff.data.rejects import BadRow
from llmdiff.image_files import known_formats

MAX_PIXELS = 100_000_000
"""A picture of more pixels is refused before it is decoded: a small file can unpack to many gigabytes."""
MAX_ASPECT = 50
"""Most times its shorter side that a picture's longer side may be: of a longer strip hardly anything would be kept."""
PIXELS_AT_ONCE = 4 * MAX_PIXELS
"""Pixels of the pictures that are decoded at the same time, in all threads; one takes 4 to 16 bytes on its way."""
PIXELS = "srgb/1"
"""Name, in a latent's key, of how a picture becomes pixels: it changes whenever the same picture gives other pixels.
Latents without one are of before profiles were converted to sRGB."""
PLUGINS = {"HEIC": "pillow_heif", "JPEG XL": "pillow_jxl"}
"""Formats that Pillow reads with another package, and that package's module."""
PROFILES_KEPT, MAX_PROFILE_KEPT = 64, 1024**2
"""Most colour profiles whose conversion is kept, and most bytes of one: a camera's pictures all have the same."""

_decoding = SharedBudget(PIXELS_AT_ONCE)


class Crop(NamedTuple):
    """The part of a picture that was kept: its upright size in pixels, and the part's corner after the resize."""

    width: int
    height: int
    left: int
    top: int


def load_image(
    data: bytes, size: int, max_pixels: int = MAX_PIXELS, min_side: int = 1, buckets: Buckets | None = None
) -> tuple[np.ndarray, Crop]:
    """Decode a picture, turn it upright, and keep its centre: a square at `size` pixels, or what fits its bucket.

    Args:
        data: an encoded picture in one of `known_formats`; of an animation, the first frame. Its own profile
            says what its colours are, where it has one that can be read.
        size: side of the square in pixels.
        max_pixels: the most pixels a picture may have.
        min_side: the fewest pixels its shorter side may have.
        buckets: to choose a size from in place of the square.

    Returns:
        ``(height, width, channel)`` uint8 sRGB, transparent parts on white, and what was kept.

    Raises:
        BadRow: "image_too_large", "extreme_aspect", "too_small", "truncated_image" or "broken_image".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `max_pixels` decides here
        warnings.filterwarnings("ignore", module="PIL", category=UserWarning)  # about metadata that is cut short
        try:
            with Image.open(io.BytesIO(data), formats=known_formats()) as picture:
                _check_size(picture, max_pixels, min_side)
                _check_shape(picture, size, max_pixels)
                with _decoding.take(picture.width * picture.height):
                    picture.load()
                    _turn(picture)
                    kept = (size, size) if buckets is None else buckets.of(*picture.size)
                    return _centre(_rgb(_srgb(picture)), kept)
        except BadRow:
            raise
        except Image.DecompressionBombError as error:
            raise BadRow("image_too_large", str(error)) from error
        except Exception as error:  # Pillow's decoders raise errors of many classes, which mean the same here
            raise _unreadable(data, error) from error


def _check_size(picture: Image.Image, max_pixels: int, min_side: int) -> None:
    found = f"{picture.width}x{picture.height} pixels"
    if picture.width * picture.height > max_pixels:
        raise BadRow("image_too_large", f"expected at most {max_pixels} pixels, found {found}")
    if min(picture.size) < min_side:
        raise BadRow("too_small", f"expected a shorter side of at least {min_side} pixels, found {found}")


def _check_shape(picture: Image.Image, size: int, max_pixels: int) -> None:
    """Raise BadRow for a picture that is too long, or has too many pixels once its shorter side is `size`."""
    shorter, longer = sorted(picture.size)
    if longer > MAX_ASPECT * shorter:
        found = f"{picture.width}x{picture.height} pixels"
        raise BadRow(
            "extreme_aspect", f"expected a longer side of at most {MAX_ASPECT} times the shorter, found {found}"
        )
    if shorter < size and (pixels := size * longer * size // shorter) > max_pixels:
        found = f"{picture.width}x{picture.height}, {pixels} when its shorter side is {size}"
        raise BadRow("image_too_large", f"expected at most {max_pixels} pixels, found {found}")


def _unreadable(data: bytes, error: Exception) -> BadRow:
    """Return why a picture can't be read: truncated, by Pillow's words or the length that a WebP states, or broken."""
    detail = f"{type(error).__name__}: {error}".replace("\n", " ")
    if data[:4] == b"RIFF" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        return BadRow("truncated_image", f"expected {8 + int.from_bytes(data[4:8], 'little')} bytes, found {len(data)}")
    if "truncated" in detail.lower():
        return BadRow("truncated_image", detail)
    if isinstance(error, UnidentifiedImageError) and (named := _format_of(data)) is not None:
        package = PLUGINS[named].replace("_", "-") + "-plugin" * (named == "JPEG XL")
        return BadRow("broken_image", f"a {named} picture, which Pillow reads with the package {package}")
    if is_pointer(data):
        return BadRow("broken_image", FOUND)
    if isinstance(error, UnidentifiedImageError):
        return BadRow("broken_image", f"expected a picture, found bytes that begin {data[:12]!r}")
    return BadRow("broken_image", detail)


def _format_of(data: bytes) -> str | None:
    """Return which of `PLUGINS` a picture needs, by its first bytes; None where it needs none."""
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "HEIC"
    return "JPEG XL" if data[:2] == b"\xff\n" or data[:12] == b"\0\0\0\x0cJXL \r\n\x87\n" else None


def _turn(picture: Image.Image) -> None:
    """Turn a picture upright as its EXIF says; ignore EXIF that can't be read, as viewers do."""
    with suppress(SyntaxError, ValueError, TypeError, KeyError, struct.error):
        ImageOps.exif_transpose(picture, in_place=True)


def _srgb(picture: Image.Image) -> Image.Image:
    """Return the picture in sRGB where it has a profile; ignore a profile that can't be read, as viewers do."""
    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return picture
    with suppress(ImageCms.PyCMSError, OSError, ValueError):
        transform = _transform if len(profile) <= MAX_PROFILE_KEPT else _transform.__wrapped__
        return ImageCms.applyTransform(picture, transform(profile, picture.mode)) or picture
    return picture


@lru_cache(PROFILES_KEPT)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    """Return the conversion from a profile to sRGB."""
    to = "RGBA" if mode == "RGBA" else "RGB"
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, to)


def _rgb(picture: Image.Image) -> Image.Image:
    """Return a picture of any mode as RGB: more than 8 bits are scaled, not clipped; transparent parts become white."""
    if picture.mode.startswith("I"):
        return _scaled(np.asarray(picture).astype(np.float64), 65535)
    if picture.mode == "F":
        values = np.asarray(picture).astype(np.float64)
        return _scaled(values, 1 if values.max() <= 1 else 255)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _scaled(values: np.ndarray, white: int) -> Image.Image:
    """Return grey values from 0 to `white` as RGB; raise BadRow for values outside that range, and for NaN."""
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= white):
        found = f"values from {values.min():g} to {values.max():g}"
        raise BadRow("broken_image", f"expected grey values from 0 to {white}, found {found}")
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8)).convert("RGB")


def _centre(picture: Image.Image, kept: tuple[int, int]) -> tuple[np.ndarray, Crop]:
    """Resize a picture until it just covers the kept width and height, then cut out its centre."""
    width, height = picture.size
    scale = max(kept[0] / width, kept[1] / height)
    resized = max(kept[0], round(width * scale)), max(kept[1], round(height * scale))
    left, top = (resized[0] - kept[0]) // 2, (resized[1] - kept[1]) // 2
    if resized != picture.size:
        picture = picture.resize(resized, Image.Resampling.BICUBIC)
    centre = picture.crop((left, top, left + kept[0], top + kept[1]))
    return np.asarray(centre), Crop(width, height, left, top)


for _module in PLUGINS.values():  # importing an installed one registers it with Pillow
    with suppress(ImportError):
        _plugin = import_module(_module)
        getattr(_plugin, "register_heif_opener", lambda: None)()
