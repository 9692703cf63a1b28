"""The most bytes that are read of anything in data: whoever wrote them may have claimed any size, or packed it."""

from __future__ import annotations

from llmdiff.data.rejects import BadRow

MAX_BYTES = 64 * 1024**2
"""Of a picture, of its file, of a member of a tar, of a cell of a table."""
MAX_TEXT_BYTES = 4 * 1024**2
"""Of a caption, and of the JSON that holds one: as objects JSON takes many times its bytes."""

FREE_ROWS, ROWS_A_BYTE = 1_000_000, 100
"""A table may have so many rows, and more where its file has so many bytes: in a few bytes it may claim any number."""


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
