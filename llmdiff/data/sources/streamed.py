"""Shards elsewhere that can be counted only by fetching all that they are read from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod

from llmdiff.data.remote import DataPath, RemotePath
from llmdiff.data.sources.columns import Columns


class Streamed(ABC):
    """What such a shard's class adds to `SourceShard`: it leaves its ``count`` behind once its rows have been read."""

    name: str

    @property
    @abstractmethod
    def is_streamed(self) -> bool:
        """Whether counting its rows takes fetching all of it."""

    @abstractmethod
    def facts_hash(self) -> str | None:
        """Hash what a place says of the content without giving it, or return None where it does not say enough.

        ValueError and OSError where it does not answer, or with something else.
        """

    @property
    def is_counted(self) -> bool:
        """Whether its rows have been counted."""
        return "count" in self.__dict__

    def tell_count(self, rows: int) -> None:
        """Take another's word for how many rows there are in what has this `facts_hash`."""
        self.__dict__["count"] = rows


class StreamedFile(Streamed):
    """A `Streamed` shard that is one file."""

    file: DataPath
    columns: Columns

    @property
    def is_streamed(self) -> bool:
        return isinstance(self.file, RemotePath)

    def facts_hash(self) -> str | None:
        """See `Streamed`; of what is chosen of the file, too."""
        facts = self.file.facts if isinstance(self.file, RemotePath) else None
        content = None if facts is None else facts.content_hash
        return None if content is None else hashlib.sha256(f"{content}:{self.columns.key}".encode()).hexdigest()
