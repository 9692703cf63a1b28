"""Rejects: rows of data that cannot be used, with reasons to count by."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "broken_image",
    "truncated_image",
    "image_too_large",
    "extreme_aspect",
    "too_small",
    "no_image",
    "outside_folder",
    "private_address",
    "not_fetched",
    "no_answer",
    "no_caption",
    "empty_caption",
    "not_utf8",
    "broken_metadata",
    "member_too_large",
    "broken_tar",
    "not_finite",
    "no_token",
    "no_embedding",
    "control_token",
]
"""Reasons that the store's rejects are counted by; ``docs/reference/reject-reasons.md`` says what each means."""
TRY_AGAIN: tuple[Reason, ...] = ("no_answer",)
"""Reasons that may no longer hold in the next run, which tries again; the others are final."""

LONGEST = 500
"""Most characters of a detail: a caption that it quotes may be megabytes long."""


class BadRow(ValueError):
    """A row that is refused: `reason` is one of a few words to count by, `detail` says what was found, `printable`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        detail = printable(detail)
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[BadRow], tuple[Reason, str]]:
        return BadRow, (self.reason, self.detail)  # picklable: shards that hold rejects go to other processes


def printable(text: str) -> str:
    """Return a text for a line of a terminal and a cell of a table: no control characters, at most `LONGEST` long.

    What is not printable, bytes of a file's name that are no UTF-8 included, becomes an escape such as ``\\n``.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 100]}… ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
