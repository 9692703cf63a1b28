"""Rows whose picture and caption the store has: of a file that was appended to or split, or twice in the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llmdiff.data.rejects import BadRow
from llmdiff.data.sources import Row
from storage import caption_hash
from storage.index.snapshot import Snapshot


class RowContent(NamedTuple):
    """What a row holds; see `storage.schema.Content`."""

    image_hash: str | None
    """Hash of its picture's bytes; None where it has no picture."""
    caption_hash: str


ReadRow = Row | BadRow | RowContent
"""A row of the data; why it can't be used; or, of one that holds what a sample holds, that content alone."""


def tell_repeats(
    snapshot: Snapshot, fingerprint: str, rows: Sequence[tuple[int, Row | BadRow, str]]
) -> list[tuple[int, ReadRow, str]]:
    """Put in the place of each row that holds what a sample of an encoder holds that content alone.

    One look-up is made for all the rows.

    Args:
        snapshot: of the store.
        fingerprint: the encoder.
        rows: numbered, with the hash of their picture's bytes; empty where there is none.
    """
    contents = {number: content_of(row, of_image) for number, row, of_image in rows if isinstance(row, Row)}
    known = snapshot.contents(fingerprint, set(contents.values()))
    return [
        (number, contents[number], "") if contents.get(number) in known else (number, row, of_image)
        for number, row, of_image in rows
    ]


def content_of(row: Row, of_image: str | None) -> RowContent:
    """Return what a row holds, whose picture's bytes have a hash."""
    return RowContent(of_image or None, caption_hash(row.caption))
