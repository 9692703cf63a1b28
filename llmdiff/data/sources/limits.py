"""Limits on the bytes that are read of data, whose author may claim any size, or compress any amount."""

from __future__ import annotations

from llmdiff.data.rejects import BadRow

MAX_BYTES = 64 * 1024**2
"""Most bytes of a picture, of its file, of a member of a tar, or of a cell of a table."""
MAX_TEXT_BYTES = 4 * 1024**2
"""Most bytes of a caption, and of the JSON that holds one: JSON takes many times its bytes as objects."""

FREE_ROWS, ROWS_A_BYTE = 1_000_000, 100
"""Rows that any table may have, and rows for each byte that a larger one may have: a few bytes may claim any number."""


def most_rows(size: int) -> int:
    """Return how many rows a table in a file of so many bytes may have."""
    return max(FREE_ROWS, ROWS_A_BYTE * size)


def check_size(size: int, what: str, most: int = MAX_BYTES) -> None:
    """Raise BadRow where something has more bytes than are read."""
    if size > most:
        raise BadRow("member_too_large", f"expected at most {most} bytes, found {what} of {size} bytes")


def check_text(data: bytes | str) -> None:
    """Raise BadRow where a caption, or the JSON that holds one, is longer than any is."""
    check_size(len(data), "a text", MAX_TEXT_BYTES)
