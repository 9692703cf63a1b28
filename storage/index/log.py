"""The log of a Delta table where power may be lost: entries are brought to the disk, noted, checked, and mended.

Delta names an entry and a checkpoint before they are on the disk, and has no checksum of an entry. Beside the log lies
one for each entry, written once the entry is on the disk.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from storage.hashing import checksum
from storage.index.delta import CHECKSUMS, checkpoint_prefix, entry_name
from storage.io.paths import StorePath, remove_all

logger = logging.getLogger(__name__)
SIDECARS = "checksums"
"""Folder of the log entries' checksums."""


class DeltaLog:
    """The log of the table in a folder."""

    def __init__(self, folder: StorePath) -> None:
        self.log = folder / "_delta_log"
        self.sidecars = folder / SIDECARS

    def sync(self, version: int) -> None:
        """Bring an entry to the disk, and then its checksum."""
        entry = self.entry(version)
        entry.sync()
        self.log.sync()
        sidecar = self.sidecars / entry.name
        with contextlib.suppress(OSError):  # the commit is in, whether or not its checksum finds room
            self.sidecars.make_folder()
            if not sidecar.exists():
                sidecar.write(_sidecar(entry))

    def checkpoint(self, delta: DeltaTable) -> None:
        """Sum up the log, so that opening the table reads one file; any later commit may do it as well."""
        with contextlib.suppress(OSError, DeltaError):
            delta.create_checkpoint()
            prefix = checkpoint_prefix(delta.version())
            made = [path for path in self.log.children() if path.name.startswith(prefix)]
            for path in (*made, self.log / "_last_checkpoint", self.log):
                path.sync()

    def check(self) -> Iterator[tuple[str, str, str]]:
        """Yield kind, file and what was found of entries that are not as they were committed; open no version."""
        sidecars, entries = _json_files(self.sidecars.children()), _json_files(self.log.children())
        for version in range(max((int(Path(name).stem) for name in sidecars | entries), default=0) + 1):
            name = entry_name(version)
            if name not in entries:
                yield "missing", f"_delta_log/{name}", "expected an entry of the log, found none"
            elif name in sidecars and sidecars[name].read_bytes() != _sidecar(entries[name]):
                yield "flipped", f"_delta_log/{name}", "the CRC-32C is not the one that was noted"

    def checksums(self, version: int) -> dict[str, int]:
        """Return the CRC-32C of the files that the entries up to a version add; ValueError where one is no entry."""
        found: dict[str, int] = {}
        for number in range(version + 1):
            entry = self.entry(number)
            try:
                actions = [json.loads(line) for line in entry.read_bytes().splitlines()]
                for info in (action["commitInfo"] for action in actions if "commitInfo" in action):
                    found |= json.loads(info.get(CHECKSUMS, "{}"))
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise ValueError(f"{entry}: expected an entry of the log, found another one: {error}") from error
        return found

    def remove_torn(self) -> bool:
        """Remove what a loss of power left of a commit or a checkpoint that did not return; say whether there was any.

        An entry that has its checksum beside it was there whole.
        """
        files = self.log.children()
        last = list(_json_files(files).values())[-1:]
        torn = [path for path in last if not (self.sidecars / path.name).exists() and not _is_whole(path)]
        checkpoints = [path for path in files if ".checkpoint" in path.name or path.name == "_last_checkpoint"]
        if not all(map(_is_checkpoint, checkpoints)) or len(checkpoints) == 1:
            torn += checkpoints
        for path in torn:
            logger.warning("%s: removed: cut off by a loss of power before it was finished", path)
        remove_all(torn)
        return bool(torn)

    def entry(self, version: int) -> StorePath:
        """Return the file of a version."""
        return self.log / entry_name(version)


def _json_files(paths: list[StorePath]) -> dict[str, StorePath]:
    """Return those by name, in the order of the paths."""
    return {path.name: path for path in paths if path.name.endswith(".json")}


def _sidecar(entry: StorePath) -> bytes:
    return json.dumps({"crc32c": checksum(entry.read_bytes())}).encode()


def _is_whole(entry: StorePath) -> bool:
    """Return whether an entry of the log is one: lines of JSON."""
    try:
        return bool([json.loads(line) for line in entry.read_bytes().splitlines()])
    except ValueError:
        return False


def _is_checkpoint(path: StorePath) -> bool:
    """Return whether a file of a checkpoint can be read."""
    try:
        if path.name.endswith(".parquet"):
            return pq.ParquetFile(path.arrow_source()).metadata is not None
        return bool(json.loads(path.read_bytes()))
    except (ValueError, OSError):
        return False
