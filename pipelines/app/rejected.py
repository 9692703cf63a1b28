"""The picture of a row that was refused, read again from the data where they are on this machine."""

from __future__ import annotations

import io
import shlex
from itertools import pairwise
from typing import Any

from PIL import Image, ImageOps

from llmdiff.data.images import MAX_PIXELS
from llmdiff.data.remote import is_remote
from llmdiff.data.sources import Columns, Url, open_source
from llmdiff.data.sources.columns import CAPTION_OPTION, IMAGE_OPTION, LINES_OPTION
from llmdiff.image_files import known_formats
from storage import EncodingStore
from storage.maintenance.data_sets import data_sets

REJECT_COLUMNS = ("source", "row", "reason", "detail", "source_hash", "fingerprint")
SHOWN_REJECTS = 2000
"""Number of rejects that the page lists at most."""


def list_rejects(store: EncodingStore) -> list[list[Any]]:
    """Return the refused rows, each as `REJECT_COLUMNS`."""
    rows = store.rejects().slice(0, SHOWN_REJECTS).select(REJECT_COLUMNS).to_pylist()
    return [[row[name] for name in REJECT_COLUMNS] for row in rows]


def rejected_picture(store: EncodingStore, source_hash: str, row: int, fingerprint: str) -> Image.Image:
    """Return a refused row's picture as it is in the data; ValueError with the reason where it can't be read."""
    known = [each for each in data_sets(store, fingerprint) if source_hash in each.ever]
    if not known:
        raise ValueError("the store does not know which data this row is from: `llmdiff encode` notes it since")
    where, *options = shlex.split(known[0].data)
    if is_remote(where):
        raise ValueError(f"{where}: the data are not on this machine")
    for shard in open_source(where, columns_of(options)):
        if shard.content_hash == source_hash:
            found = next((each for number, each in shard.rows() if number == row), None)
            image = getattr(found, "image", None)
            if image is None or isinstance(image, Url):
                raise ValueError(f"{shard.name} row {row}: no picture is in the data")
            return opened(image, f"{shard.name} row {row}")
    raise ValueError(f"{where}: the file is not there any more, or has changed")


def opened(data: bytes, what: str) -> Image.Image:
    """Return a picture, upright and in RGB; ValueError where it can't be decoded, or is larger than any that is read.

    Rows are refused for what hostile pictures do, too: the formats and the most pixels are those of encoding.
    """
    try:
        with Image.open(io.BytesIO(data), formats=known_formats()) as picture:
            if (pixels := picture.width * picture.height) > MAX_PIXELS:
                raise ValueError(f"expected at most {MAX_PIXELS} pixels, found {pixels}")
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{what}: the picture can't be decoded: {error}") from error


def columns_of(options: list[str]) -> Columns:
    """Return the columns that a data set's name chooses, see `llmdiff.data.encode.data_name`."""
    pairs = list(pairwise([*options, ""]))
    captions = tuple(value for name, value in pairs if name == CAPTION_OPTION)
    image = next((value for name, value in pairs if name == IMAGE_OPTION), None)
    return Columns(captions=captions, every="--every-caption" in options, image=image, lines=LINES_OPTION in options)
