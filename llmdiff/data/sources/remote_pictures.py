"""Read and hash remote pictures, which lie in or below the folder of the file that names them."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable
from typing import Any

from llmdiff.data.rejects import BadRow
from llmdiff.data.remote import RemotePath
from llmdiff.data.sources.file_names import spelled
from llmdiff.data.sources.limits import check_size


def read_below(folder: RemotePath, name: str) -> bytes:
    """Return the bytes of a file below a folder; BadRow where it is not below it, or does not exist.

    ConnectionError where the place does not answer, or refuses: later rows would fail in the same way.
    """
    file = folder / _below(folder, name)
    try:
        check_size(file.listed_size or 0, repr(name))
        return file.read_bytes()
    except BadRow:
        raise
    except ConnectionError:
        raise
    except (OSError, ValueError) as error:
        raise BadRow("no_image", f"{name}: {error}") from error


def hash_below(folder: RemotePath, parts: Iterable[Any]) -> str | None:
    """Return a hash of some values, and of what a listing says of files below a folder.

    Args:
        folder: the folder; it is listed, as are those folders below it that files lie in.
        parts: a `Named` for each file; any other value is hashed by its ``repr``.

    Returns:
        The hash; None where the place does not identify a file's content.
    """
    if not folder.place.can_list:
        return None
    digest = hashlib.sha256()
    for part in parts:
        said = _said(folder, part) if isinstance(part, Named) else repr(part)
        if said is None:
            return None
        digest.update(len(data := said.encode(errors="surrogatepass")).to_bytes(8, "little") + data)
    return digest.hexdigest()


class Named(str):
    """The name of a file, relative to a folder."""

    __slots__ = ()


def _said(folder: RemotePath, name: str) -> str | None:
    try:
        facts = folder.listed(_below(folder, name)).facts
    except BadRow as bad:
        return str(bad)
    return f"no file {name}" if facts is None else facts.content_hash


def _below(folder: RemotePath, name: str) -> str:
    """Return a name relative to a folder, its dots resolved; BadRow where it leads out of the folder."""
    path = posixpath.normpath(spelled(folder, name))
    if path.startswith(("/", "../")) or path in ("..", ".") or "\0" in path:
        raise BadRow("outside_folder", f"expected a file below {folder}, found {name!r}")
    return path
