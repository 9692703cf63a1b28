"""Tell which files of growing data are whole, and which somebody is still writing."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from llmdiff.data.remote import DataPath, RemotePath

MARKER, TEMPORARY = "_SUCCESS", "_temporary"
"""Name that Hadoop and Spark leave in a finished folder, and name that they have in an unfinished one."""
ABANDONED_AFTER = 86_400.0
"""Seconds without a change after which a file without its end counts as broken, and not as unfinished."""
PARQUET, TAR_END = b"PAR1", bytes(1024)
"""Bytes at the beginning and end of a Parquet file, and bytes at the end of a tar."""


class ReadinessPolicy(BaseModel):
    """How files that are still being written are recognised."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    settle: float = Field(default=10.0, ge=0)
    """Seconds for which a file must not have changed; a younger one gets a second look when they have passed."""
    wait_for_success: bool = False
    """Whether a file counts only once its folder, or one above it in the data, holds `_SUCCESS`."""


class Scan(NamedTuple):
    """Files of data, in their order, sorted into whole and unfinished ones; names are relative to the data."""

    whole: list[tuple[DataPath, str]]
    unfinished: dict[str, str]
    """Names of files that are left for the next run, and why."""


class FileState(NamedTuple):
    """Size and last change of a file, which tell without reading it whether it is still the same."""

    bytes: int
    changed: int
    """Nanoseconds of its last change, by the clock of its file system."""
    tags: tuple[str, ...] = ()
    """Hashes by which a remote place identifies the content."""

    @classmethod
    def at(cls, file: DataPath) -> FileState | None:
        """Return a file's state, for a remote file as its listing had it; None where there is no such file."""
        if isinstance(file, RemotePath):
            files = file.children.values() if file.is_dir() else [file]
            said = [each.facts for each in files if not each.is_dir() and each.facts is not None]
            changed = max((facts.modified for facts in said), default=0.0)
            tags = tuple(facts.content_hash or "" for facts in said)
            return cls(sum(facts.size for facts in said), int(changed * 1e9), tags) if said else None
        try:
            found = [file.stat()]
            if file.is_dir():  # a folder whose pictures are rows
                found += [entry.stat() for entry in os.scandir(file) if entry.is_file()]
        except OSError:
            return None
        return cls(sum(each.st_size for each in found), max(each.st_mtime_ns for each in found))

    @property
    def age(self) -> float:
        """Seconds since its last change, or until it where the clocks differ."""
        return abs(time.time() - self.changed / 1e9)

    def __str__(self) -> str:
        """Return the text that `signature` hashes; with another one, every scan that was kept would look outdated."""
        return f"Look(bytes={self.bytes}, changed={self.changed}, tags={self.tags})"


def scan(root: DataPath, files: list[tuple[DataPath, str]], how: ReadinessPolicy) -> Scan:
    """Look at every file twice, and wait in between for as long as the youngest needs to settle, and no longer.

    A file is unfinished while its folder says so (`TEMPORARY`; `MARKER`, where asked for), while it changes, and while
    it has no end: a Parquet file no footer, a tar no empty blocks. Text has no end to look for. In another place a file
    appears whole, so that its end is not looked for, and one that has settled is not looked at again.
    """
    unfinished = {name: why for file, name in files if (why := _outside(root, file, how) or _without_end(file))}
    first = {
        name: state for file, name in files if name not in unfinished and (state := FileState.at(file)) is not None
    }
    young = {name: how.settle - state.age for name, state in first.items()}
    time.sleep(max([0.0, *young.values()]))
    for file, name in files:
        if isinstance(file, RemotePath):
            if young.get(name, 0.0) <= 0:
                continue
            file = file.again()
        before, after = first.get(name), FileState.at(file)
        if before is not None and after != before:
            unfinished[name] = f"changing: {before.bytes} bytes, then {'gone' if after is None else after.bytes}"
    return Scan([(file, name) for file, name in files if name not in unfinished], unfinished)


def signature(root: DataPath, besides: Collection[DataPath] = ()) -> str:
    """Return a hash of the names, sizes and times of all files below a folder, or beside a file.

    For a remote place it covers what has been listed.
    """
    digest = hashlib.sha256()
    if isinstance(root, RemotePath):
        for file in _listed(root):
            if file not in besides:
                digest.update(f"{file}\0{FileState.at(file)}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()
    seen: set[str] = set()
    for folder, folders, names in os.walk(root if root.is_dir() else root.parent, followlinks=root.is_dir()):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()  # the folder was seen before, through a link
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name != TEMPORARY)
        for path in (Path(folder, name) for name in sorted(names)):
            if path not in besides:
                digest.update(f"{path}\0{FileState.at(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _listed(root: RemotePath) -> Iterator[RemotePath]:
    """Yield the files below a folder, or beside a file, by name, as far as folders have been listed."""
    if not root.is_dir() and not root.place.can_list:
        yield root
        return
    for name, child in sorted((root if root.is_dir() else root.parent).children.items()):
        if not child.is_dir():
            yield child
        elif name != TEMPORARY and child.is_listed:
            yield from _listed(child)


def _outside(root: DataPath, file: DataPath, how: ReadinessPolicy) -> str | None:
    """Return why a file is unfinished, judged by the folders that it is in; else None."""
    parents: list[DataPath] = list(file.parents)
    above = [folder for folder in parents if folder == root or root in folder.parents] or [file.parent]
    folders = [file, *above] if file.is_dir() else above
    for folder in folders:
        if _holds(folder, TEMPORARY):
            return f"a job is writing: {folder / TEMPORARY} is there"
    if how.wait_for_success and not any(_holds(folder, MARKER) for folder in folders):
        return f"no {MARKER} in {file.parent}"
    return None


def _holds(folder: DataPath, name: str) -> bool:
    if isinstance(folder, RemotePath):
        return folder.holds(name) or (name == MARKER and not folder.place.can_list and _is_empty(folder / name))
    return (folder / name).exists()


def _is_empty(file: RemotePath) -> bool:
    """Return whether a web server has an empty file; its answer for an unknown name may be anything."""
    try:
        return file.facts is not None and file.facts.size == 0
    except (OSError, ValueError):
        return False


def _without_end(file: DataPath) -> str | None:
    """Return why a file is unfinished, judged by its bytes; None also where nobody has written to it for long."""
    if isinstance(file, RemotePath):
        return None
    kind, state = file.suffix.lower(), FileState.at(file)
    if state is None or state.age > ABANDONED_AFTER:
        return None
    if kind == ".parquet" and PARQUET.startswith(_edge(file, 4, 0)) and _edge(file, 4, 2) != PARQUET:
        return f"no footer yet after {state.bytes} bytes; last written to {state.age:.0f} s ago"
    if kind == ".tar" and _edge(file, len(TAR_END), 2) != TAR_END:
        return f"no end yet after {state.bytes} bytes; last written to {state.age:.0f} s ago"
    return None


def _edge(file: Path, count: int, whence: int) -> bytes:
    """Return the first bytes of a file, or with `whence` 2 the last ones; none where it can't be read."""
    try:
        with file.open("rb") as data:
            data.seek(-min(count, file.stat().st_size) if whence == 2 else 0, whence)
            return data.read(count)
    except OSError:
        return b""
