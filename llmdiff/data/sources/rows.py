"""The rows that every format yields: a picture and a caption, numbered, each usable or refused with a reason."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from llmdiff.data.rejects import BadRow
from llmdiff.data.remote import DataPath, RemotePath
from llmdiff.data.sources.file_names import is_url, spelled
from llmdiff.data.sources.limits import check_size, check_text
from llmdiff.data.sources.remote_pictures import read_below

URL_COLUMNS = ("url", "image_url")
BYTES_COLUMNS = ("jpg", "jpeg", "png", "webp")
"""Columns that img2dataset names after the pictures' format."""
PATH_COLUMNS = ("image", "img", "picture", "file_name", "image_path", "path")
IMAGE_COLUMNS = (*PATH_COLUMNS[:3], *BYTES_COLUMNS, *PATH_COLUMNS[3:], *URL_COLUMNS)
BASE64 = re.compile(r"data:image/|(iVBORw0KGgo|/9j/|UklGR|R0lGOD)[A-Za-z0-9+/=]{80}")
"""Beginning of a picture's bytes that are written as text; no path begins so."""
CAPTION_COLUMNS = ("caption", "text", "prompt")


class Url(str):
    """The URL of a picture; it is downloaded unless the store knows the row by its shard and number.

    A file that was appended to is a new shard, so all its pictures are downloaded again to be compared.
    """

    __slots__ = ()


class Row(NamedTuple):
    """One sample: its number in the file, the encoded picture, the caption."""

    row: int
    image: bytes | Url | None
    """Bytes or URL of the picture; None for a caption alone."""
    caption: str
    place: str = ""
    """Position of the row in the file, for messages, where its number does not tell it."""


class SourceShard(Protocol):
    """A piece of the data that is encoded, retried and committed as one. ValueError where it can't be read."""

    @property
    def name(self) -> str:
        """Name of the shard for people: its file, and its rows where the file has several shards."""

    @property
    def content_hash(self) -> str:
        """Hash of every byte the rows depend on, so that a changed shard is read again and a moved one is not.

        It covers the URL alone of a picture behind one.
        """

    @property
    def count(self) -> int:
        """Number of rows, bad ones included."""

    @property
    def has_pictures(self) -> bool:
        """Whether the rows are pictures with captions; else they are captions alone."""

    @property
    def unread(self) -> tuple[str, ...]:
        """Columns, or endings of a tar's members, that no row is made of."""

    @property
    def columns_read(self) -> tuple[str, ...]:
        """Columns that the rows are made of, the pictures' before the captions'; empty where there are no columns."""

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """Yield the number of every row, from 0 within the file, and the row, or why it can't be used."""


@dataclass(frozen=True)
class UnreadableShard:
    """A file that can't be read: every question about it raises ValueError with the reason."""

    name: str
    reason: str

    @property
    def content_hash(self) -> str:
        raise ValueError(self.reason)

    @property
    def count(self) -> int:
        raise ValueError(self.reason)

    @property
    def has_pictures(self) -> bool:
        raise ValueError(self.reason)

    @property
    def unread(self) -> tuple[str, ...]:
        raise ValueError(self.reason)

    @property
    def columns_read(self) -> tuple[str, ...]:
        raise ValueError(self.reason)

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """See `SourceShard`."""
        raise ValueError(self.reason)


class Pair(NamedTuple):
    """A picture and one of its captions as found, unchecked; a BadRow in place of either says why it is unusable."""

    number: int
    image: Any
    caption: Any
    place: str
    name: str = ""
    """Name of the picture, where its number does not tell which it is: a file's name, or a key."""


def pairs(records: Iterable[tuple[Any, Any] | tuple[Any, Any, str]]) -> Iterator[Pair]:
    """Yield numbered pairs of a picture and a caption: one for each caption of a list, one for an empty list."""
    number = 0
    for row, (image, captions, *name) in enumerate(records):
        several = isinstance(captions, list)
        for i, caption in enumerate(captions if several and captions else [captions]):
            place = f"row {row} of the file, caption {i}, both from 0: " if several or number != row else ""
            yield Pair(number, image, caption, place, *name)
            number += 1


def checked(pair: Pair, folder: DataPath | None = None, has_picture: bool = True) -> Row | BadRow:
    """Return a pair as a row, its picture read if it is a path; a BadRow where picture or caption can't be used.

    Args:
        pair: the picture and the caption as found.
        folder: folder of the pictures that are given by path; None where there are none.
        has_picture: whether there should be a picture.
    """
    named = pair.place + (f"{pair.name}: " if pair.name else "")
    try:
        image = _picture(pair.image, folder) if has_picture else None
        return Row(pair.number, image, _caption(pair.caption), named)
    except BadRow as bad:
        names_itself = bad is pair.image or bad is pair.caption
        return BadRow(bad.reason, (pair.place if names_itself else named) + bad.detail)


def column(names: Iterable[Any], known: tuple[str, ...]) -> str | None:
    """Return the first known column that is among the names, in any case; None where there is none."""
    by_lower = {str(name).strip().lower(): name for name in names}
    return next((by_lower[name] for name in known if name in by_lower), None)


def text(data: bytes | str) -> str:
    """Return text that can be stored; raise BadRow where it is not UTF-8, or has half a surrogate pair."""
    try:
        if isinstance(data, bytes):
            data = data.decode("utf-8-sig")
        data.encode()
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise BadRow("not_utf8", f"expected UTF-8 text, found {found}: {data!r:.80}") from error
    except UnicodeEncodeError as error:
        raise BadRow("not_utf8", f"expected text, found half a surrogate pair: {data!r:.80}") from error
    return data


def hash_file(file: DataPath) -> str:
    """Return the SHA-256 of a file, or its place's own hash of it; ValueError where it can't be read."""
    if isinstance(file, RemotePath) and file.facts is not None and (known := file.facts.content_hash) is not None:
        return known
    try:
        with file.open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    except ConnectionError:
        raise
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}") from error


def hash_rows(rows: Iterable[tuple[int, Row | BadRow]]) -> str:
    """Return the SHA-256 of rows and of all that they depend on."""
    digest = hashlib.sha256()
    for number, row in rows:
        parts = (row.reason, row.detail) if isinstance(row, BadRow) else (row.image or b"", row.caption)
        for part in (str(number), *parts):
            data = part if isinstance(part, bytes) else part.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _caption(value: Any) -> str:
    if isinstance(value, BadRow):
        raise value
    if not isinstance(value, (str, bytes)):
        raise BadRow("no_caption", f"expected text, found {type(value).__name__}")
    check_text(value)
    caption = text(value)
    if "\0" in caption:
        raise BadRow("not_utf8", f"expected text, found a NUL: {caption!r:.80}")
    if not (stripped := caption.strip()):
        raise BadRow("empty_caption", f"expected text, found {caption!r:.80}")
    return stripped


def _picture(value: Any, folder: DataPath | None) -> bytes | Url:
    if isinstance(value, BadRow):
        raise value
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        check_size(len(value), "a picture")
        return value
    if is_url(value):
        return Url(text(value))
    if isinstance(value, str) and BASE64.match(value):
        raise BadRow("no_image", f"expected a picture's bytes, path or URL, found bytes as text: {value!r:.80}")
    if isinstance(value, str) and value and folder is not None:
        return read_inside(folder, text(value))
    raise BadRow("no_image", f"expected a picture's bytes, path or URL, found {value!r:.80}")


def read_inside(folder: DataPath, name: str) -> bytes:
    """Return the bytes of a file in the data's own folder; BadRow for one outside it, whatever the metadata says."""
    if isinstance(folder, RemotePath):
        return read_below(folder, name)
    try:
        file, inside = (folder / spelled(folder, name)).resolve(), folder.resolve()
        if not (file.is_relative_to(inside) or _is_of_hub(file, inside)):
            linked = ", a link that leads out of it" if ".." not in name and not Path(name).is_absolute() else ""
            raise BadRow("outside_folder", f"expected a file below {folder}, found {name!r}{linked}")
        about = file.stat()
        if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
            raise BadRow("no_image", f"{name}: expected a file, found a pipe, a socket or a device")
        check_size(about.st_size, repr(name))
        return file.read_bytes()
    except OSError as error:
        raise BadRow("no_image", f"{name}: {error.strerror} below {folder}") from error
    except RuntimeError as error:  # links in a circle
        raise BadRow("no_image", f"{name}: {error}") from error
    except BadRow:
        raise
    except ValueError as error:  # a name with a NUL
        raise BadRow("no_image", f"{name!r}: {error}") from error


def _is_of_hub(file: Path, folder: Path) -> bool:
    """Return whether a file is a blob of the hub's cache, to which a folder links: ``snapshots/…`` to ``blobs/…``."""
    return any(above.name == "snapshots" and file.parent == above.parent / "blobs" for above in folder.parents)
