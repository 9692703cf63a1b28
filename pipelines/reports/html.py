"""Pages and data URIs: the one place that makes them. A page is one HTML file without scripts, its pictures inside."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110


def render(template: str, *, functions: dict[str, Any] | None = None, **values: Any) -> str:
    """Return a page from a template of this folder; whatever users wrote is escaped, and a missing value raises."""
    text = Path(__file__).with_name(template).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.globals.update(functions or {})
    return environment.from_string(text).render(**values)


def data_uri(kind: str, data: bytes) -> str:
    """Return bytes of a media type as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png(figure: Figure) -> str:
    """Return a figure as a data URI of pixels."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI)
    return data_uri("image/png", data.getvalue())


def svg(figure: Figure) -> str:
    """Return a figure as a data URI of lines."""
    data = io.BytesIO()
    figure.savefig(data, format="svg")
    return data_uri("image/svg+xml", data.getvalue())


def jpeg(image: Image.Image, size: tuple[int, int], quality: int = 88) -> str:
    """Return a picture as a data URI, resized to ``(width, height)``."""
    data = io.BytesIO()
    shown = image.convert("RGB")
    (shown if shown.size == size else shown.resize(size)).save(data, "JPEG", quality=quality)
    return data_uri("image/jpeg", data.getvalue())


def within_side(image: Image.Image, side: int) -> tuple[int, int]:
    """Return the size of a picture that is no wider and no higher than `side` pixels, and never enlarged."""
    return _shrunk(image, min(1.0, side / max(image.size)))


def within_area(image: Image.Image, pixels: int) -> tuple[int, int]:
    """Return the size of a picture of at most so many pixels, and never enlarged."""
    return _shrunk(image, min(1.0, (pixels / (image.width * image.height)) ** 0.5))


def _shrunk(image: Image.Image, by: float) -> tuple[int, int]:
    return max(1, int(image.width * by)), max(1, int(image.height * by))
