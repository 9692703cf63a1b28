"""Remote shards whose rows can be counted only by fetching all of their data."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod

from llmdiff.data.remote import DataPath, RemotePath
from llmdiff.data.sources.columns import Columns


class Streamed(ABC):
    """Base of such shards, which adds to `SourceShard`: its ``count`` is known once its rows have been read."""

    name: str

    @property
    @abstractmethod
    def is_streamed(self) -> bool:
        """Whether counting the rows takes fetching the whole shard."""

    @abstractmethod
    def facts_hash(self) -> str | None:
        """Return a hash of what a place says of the content without sending it; None where that is not enough.

        Raise ValueError or OSError where the place does not answer, or answers with something else.
        """

    @property
    def is_counted(self) -> bool:
        """Whether the rows have been counted."""
        return "count" in self.__dict__

    def tell_count(self, rows: int) -> None:
        """Set the number of rows, which was counted in content with the same `facts_hash`."""
        self.__dict__["count"] = rows


class StreamedFile(Streamed):
    """A `Streamed` shard that is one file."""

    file: DataPath
    columns: Columns

    @property
    def is_streamed(self) -> bool:
        return isinstance(self.file, RemotePath)

    def facts_hash(self) -> str | None:
        """See `Streamed`; the hash covers the chosen columns too."""
        facts = self.file.facts if isinstance(self.file, RemotePath) else None
        content = None if facts is None else facts.content_hash
        return None if content is None else hashlib.sha256(f"{content}:{self.columns.key}".encode()).hexdigest()
