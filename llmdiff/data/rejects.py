"""Rows of data that cannot be used: why not, in a few words to count by."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "broken_image",
    "truncated_image",
    "image_too_large",
    "too_small",
    "no_image",
    "outside_folder",
    "not_fetched",
    "no_answer",
    "no_caption",
    "empty_caption",
    "not_utf8",
    "broken_metadata",
    "member_too_large",
    "not_finite",
    "no_token",
    "no_embedding",
    "control_token",
]
"""What the store's rejects are counted by; ``docs/reference/reject-reasons.md`` says what each means."""


class BadRow(ValueError):
    """A row that is refused: `reason` is one of a few words to count by, `detail` says what was found."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[BadRow], tuple[Reason, str]]:
        return BadRow, (self.reason, self.detail)  # a shard that holds some goes to other processes
