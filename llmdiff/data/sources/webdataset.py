"""WebDataset shards: tar files whose members of one key are a sample, read as they lie and never extracted."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources.rows import CAPTION_COLUMNS, Row, checked, hash_file, pairs, text
from llmdiff.data.sources.text_tables import json_record

PICTURES = ("jpg", "jpeg", "png", "webp", "avif", "gif", "bmp", "tif", "tiff", "ppm")
TEXTS = ("txt", "caption")
MAX_BYTES = 64 * 1024**2
"""A larger member is refused unread: a sparse one may claim any size."""


@dataclass(frozen=True)
class TarShard:
    """A tar file; its samples are in the order of their members."""

    file: Path
    name: str
    has_pictures: bool = True

    @cached_property
    def content_hash(self) -> str:
        return hash_file(self.file)

    @cached_property
    def count(self) -> int:
        return sum(1 for _ in pairs(self._records((*TEXTS, "json"))))

    def rows(self) -> Iterator[tuple[int, Row | BadRow]]:
        """ValueError where the file is no tar or breaks off; see `SourceShard`."""
        for pair in pairs(self._records((*PICTURES, *TEXTS, "json"))):
            yield pair.number, checked(pair)

    def _records(self, read: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
        """Each sample's picture and caption, of which only members of some kinds are read."""
        try:
            with tarfile.open(self.file, "r:") as tar:
                for _, members in groupby(_named(tar), lambda item: item[0]):
                    sample = {kind: _content(tar, member, kind in read) for _, kind, member in members}
                    yield _first(sample, PICTURES), _caption(sample)
                _check_end(tar)
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise ValueError(f"{self.file}: expected a tar file, found none or a damaged one: {error}") from error


def _named(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, kind and member of each regular file of a sample; names are never used as paths."""
    for member in tar:
        folder, _, base = member.name.rpartition("/")
        stem, _, kind = base.partition(".")
        if member.isreg() and stem and kind.lower() in (*PICTURES, *TEXTS, "json"):
            yield f"{folder}/{stem}", kind.lower(), member


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, read: bool) -> bytes | BadRow:
    if not read:
        return b""
    if member.size > MAX_BYTES:
        found = f"{member.name!r} of {member.size} bytes"
        return BadRow("member_too_large", f"expected at most {MAX_BYTES} bytes, found {found}")
    file = tar.extractfile(member)
    assert file is not None  # it is a regular file
    return file.read()


def _caption(sample: dict[str, bytes | BadRow]) -> Any:
    """The text member's, or the JSON member's: text, a list of texts, None, or why it is none of them."""
    kind = next((kind for kind in (*TEXTS, "json") if kind in sample), None)
    found = None if kind is None else sample[kind]
    if found is None or isinstance(found, BadRow):
        return found
    try:
        return _first(json_record(found), CAPTION_COLUMNS) if kind == "json" else text(found).strip()
    except BadRow as bad:
        return bad


def _first(values: dict[str, Any], names: Iterable[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _check_end(tar: tarfile.TarFile) -> None:
    """ValueError where the headers end before the file does: `tarfile` takes a damaged one for the end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise ValueError(f"no header at byte {tar.offset}")
