"""A remote file or folder, named, joined and opened as a `pathlib.Path` is."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from llmdiff.cached import cached_attribute
from llmdiff.data.remote.place import Child, FileFacts, Refusal, RemotePlace
from llmdiff.data.remote.read_ahead import ReadAhead

BUFFER = 64 * 1024
"""Bytes that are taken from the read-ahead at a time."""


class RemotePath:
    """A path of a `RemotePlace`.

    As `os.DirEntry` does, it keeps what a listing said of it, and asks once for what it lacks. A pickled path keeps its
    own facts and forgets the listing around it.
    """

    def __init__(
        self, place: RemotePlace, key: str, known: Child | None = None, parent: RemotePath | None = None
    ) -> None:
        self.place = place
        self.key = key
        self._known = known
        self._parent = parent

    def __reduce__(self) -> tuple[Any, ...]:
        asked = self.__dict__.get("facts")
        known = self._known if asked is None else Child(self.name, is_folder=False, facts=asked)
        return RemotePath, (self.place.only(self.key), self.key, known)

    def __str__(self) -> str:
        return self.place.address(self.key)

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and (self.place, self.key) == (other.place, other.key)

    def __hash__(self) -> int:
        return hash((self.place, self.key))

    def __truediv__(self, name: str) -> RemotePath:
        path = self
        for part in PurePosixPath(name).parts:
            known = path.children.get(part) if path.is_listed else None
            path = known or RemotePath(path.place, posixpath.join(path.key, part), parent=path)
        return path

    def listed(self, name: str) -> RemotePath:
        """Return a file below this folder, with what the listing of the file's own folder says of it."""
        *folders, last = PurePosixPath(name).parts
        path = self
        for part in folders:
            path = path.children.get(part) or path / part
        return path.children.get(last) or path / last

    @property
    def name(self) -> str:
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> RemotePath:
        return self._parent or RemotePath(self.place, posixpath.dirname(self.key))

    @property
    def parents(self) -> list[RemotePath]:
        above, path = [], self
        while path.key:
            path = path.parent
            above.append(path)
        return above

    def with_name(self, name: str) -> RemotePath:
        return self.parent / name

    def with_suffix(self, suffix: str) -> RemotePath:
        return self.with_name(self.stem + suffix)

    def resolve(self) -> RemotePath:
        return self  # remote places have no links

    @cached_attribute
    def facts(self) -> FileFacts | None:
        """Return the facts of the file; None where there is no such file."""
        known = self._known
        return self.place.facts(self.key) if known is None or not (known.is_folder or known.facts) else known.facts

    @property
    def listed_size(self) -> int | None:
        """Size of the file in bytes, from a listing; None where there was no listing, or it has no size."""
        facts = None if self._known is None else self._known.facts
        return None if facts is None else facts.size

    @cached_property
    def children(self) -> dict[str, RemotePath]:
        """Return what lies directly in the folder, by name, as it was at the first call; empty for a file."""
        found = self.place.children(self.key)
        joined = ((child, posixpath.join(self.key, child.name)) for child in found)
        return {child.name: RemotePath(self.place, key, child, self) for child, key in joined}

    def again(self) -> RemotePath:
        """Return the same path without anything known of it."""
        return RemotePath(self.place, self.key)

    def is_file(self) -> bool:
        """Return whether there is such a file; False also where the place refuses to tell."""
        with suppress(Refusal):
            return self.facts is not None
        return False

    def is_dir(self) -> bool:
        return self._known.is_folder if self._known is not None else not self.is_file() and bool(self.children)

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def holds(self, name: str) -> bool:
        """Return whether a name lies directly in the folder; for a place without listings, whether it was given."""
        known = self.is_listed or not self.place.can_list
        return name in self.children if known else (self / name).exists()

    @property
    def is_listed(self) -> bool:
        """Whether the folder has been listed."""
        return "children" in self.__dict__

    def iterdir(self) -> Iterator[RemotePath]:
        yield from self.children.values()

    def read_bytes(self) -> bytes:
        facts = None if self._known is None else self._known.facts
        return self.place.read(self.key, 0, None, "" if facts is None else facts.tag)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Open the file for reading and seeking, with read-ahead; FileNotFoundError where there is none."""
        assert mode == "rb"
        if self.facts is None:
            raise FileNotFoundError(f"{self}: no such file")
        facts = self.facts
        return io.BufferedReader(
            ReadAhead(lambda start, stop: self.place.read(self.key, start, stop, facts.tag), facts.size), BUFFER
        )


DataPath: TypeAlias = Path | RemotePath
"""A file or a folder of data, wherever it lies."""
