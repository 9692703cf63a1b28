"""Repeats: rows whose picture and caption the store has, such as those of a file that was appended to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import Row
from storage import caption_hash
from storage.index.snapshot import Snapshot


class RowContent(NamedTuple):
    """Content of a row by hashes; see `storage.schema.Content`."""

    image_hash: str | None
    """Hash of its picture's bytes; None where it has no picture."""
    caption_hash: str


ReadRow = Row | BadRow | RowContent
"""A row of the data; the reason why it can't be used; or for a repeat only what it holds."""


def tell_repeats(
    snapshot: Snapshot, fingerprint: str, rows: Sequence[tuple[int, Row | BadRow, str]]
) -> list[tuple[int, ReadRow, str]]:
    """Replace each row that holds what a sample of an encoder holds by that content; look all rows up at once.

    Args:
        snapshot: the store as it was before these rows.
        fingerprint: the encoder's.
        rows: number, row and hash of the picture's bytes, which is empty where there is no picture.
    """
    contents = {number: content_of(row, of_image) for number, row, of_image in rows if isinstance(row, Row)}
    known = snapshot.contents(fingerprint, set(contents.values()))
    return [
        (number, contents[number], "") if contents.get(number) in known else (number, row, of_image)
        for number, row, of_image in rows
    ]


def content_of(row: Row, of_image: str | None) -> RowContent:
    """Return a row's content by hashes; `of_image` is the hash of its picture's bytes."""
    return RowContent(of_image or None, caption_hash(row.caption))
