"""The log of a Delta table: its entries and checkpoints, on the disk when a commit returns, checked and repaired.

A table made by an earlier version of the program may have an entry that was named before it was on the disk, and Delta
has no checksum of an entry. Beside the log lies one for each entry, written once the entry is on the disk.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError

from storage.hashing import checksum
from storage.index.delta import Action, checkpoint_name, create_checkpoint, entry_name, noted_checksums, parse_entry
from storage.io.paths import StorePath, remove_all

logger = logging.getLogger(__name__)
SIDECARS = "checksums"
"""Folder of the log entries' checksums."""
REQUESTS_AT_ONCE = 16
"""Files asked of an object store at once, for there each is a wait."""
CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")


class DeltaLog:
    """The log of the table in a folder."""

    def __init__(self, folder: StorePath) -> None:
        self.folder = folder
        self.log = folder / "_delta_log"
        self.sidecars = folder / SIDECARS

    def read(self, version: int) -> list[Action] | None:
        """Return an entry; None where there is none, ValueError where it is not one."""
        entry = self.entry(version)
        try:
            with refusing(entry):
                return parse_entry(entry.read_bytes())
        except FileNotFoundError:
            return None

    def read_from(self, versions: Sequence[int]) -> list[list[Action]]:
        """Return the entries of consecutive versions, up to the first that is not there."""
        found: Iterable[list[Action] | None] = map(self.read, versions)
        if self.folder.is_remote and len(versions) > 1:
            with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
                found = list(pool.map(self.read, versions))
        entries = []
        for entry in found:
            if entry is None:
                break
            entries.append(entry)
        return entries

    def write(self, version: int, data: bytes) -> bool:
        """Write an entry, on the disk before it has its name; False where another one is there."""
        return self.entry(version).create(data)

    def check_newest(self, version: int) -> None:
        """Raise ValueError where there was an entry after this one, for its checksum is there."""
        following = entry_name(version + 1)
        if (self.sidecars / following).exists() and not (self.log / following).exists():
            raise ValueError(
                f"{self.log / following}: expected an entry of the log, whose checksum is there; found none"
            )

    def sync(self, version: int, ours: bool = False) -> None:
        """Bring an entry to the disk, unless it is `ours`, which is there already, and then its checksum."""
        entry = self.entry(version)
        sidecar = self.sidecars / entry.name
        if sidecar.exists():
            return
        if not ours:
            entry.sync()
            self.log.sync()
        with contextlib.suppress(OSError):  # the commit is in, whether or not its checksum finds room
            self.sidecars.make_folder()
            sidecar.write(_sidecar(entry))

    def checkpoint(self) -> None:
        """Sum up the log, so that opening the table reads one file; any later commit may do it as well."""
        with contextlib.suppress(OSError, DeltaError):
            made = checkpoint_name(create_checkpoint(str(self.folder)))
            for path in (self.log / made, self.log / "_last_checkpoint", self.log):
                path.sync()

    def checkpoint_before(self, version: int | None) -> int | None:
        """Return the version of the newest checkpoint, up to a version; ValueError where Delta's hint is wrong."""
        try:
            hint = int(json.loads((self.log / "_last_checkpoint").read_bytes())["version"])
        except FileNotFoundError:
            hint = None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{self.log / '_last_checkpoint'}: expected a version, found {error!r}") from error
        if hint is not None and (version is None or hint <= version):
            return hint
        matches = (CHECKPOINT.fullmatch(path.name) for path in self.log.children())
        found = [int(match[1]) for match in matches if match]
        return max((number for number in found if version is None or number <= version), default=None)

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
        for number, actions in enumerate(self.read_from(range(version + 1))):
            with refusing(self.entry(number)):
                for info in (action["commitInfo"] for action in actions if "commitInfo" in action):
                    found |= noted_checksums(info)
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


@contextlib.contextmanager
def refusing(path: StorePath) -> Iterator[None]:
    """Raise ValueError that names a file of the log where what it says has not the form that it should have."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: expected an entry of the log, found another one: {error!r}") from error


def _json_files(paths: list[StorePath]) -> dict[str, StorePath]:
    """Return the JSON files among some paths by name, in the order of the paths."""
    return {path.name: path for path in paths if path.name.endswith(".json") and path.name[0].isdigit()}


def _sidecar(entry: StorePath) -> bytes:
    return json.dumps({"crc32c": checksum(entry.read_bytes())}).encode()


def _is_whole(entry: StorePath) -> bool:
    """Return whether an entry of the log is one: lines of JSON."""
    try:
        return bool(parse_entry(entry.read_bytes()))
    except ValueError:
        return False


def _is_checkpoint(path: StorePath) -> bool:
    """Return whether a file of a checkpoint can be read."""
    try:
        if path.name.endswith(".parquet"):
            return pq.ParquetFile(path.arrow_source()).metadata is not None
        return bool(json.loads(path.read_bytes()))
    except (ValueError, OSError, RecursionError):
        return False
