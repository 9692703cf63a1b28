"""Claims in an object store: objects that their writers renew, and that count as abandoned when nobody has for long.

An object store has no locks, but it creates an object for one only of several who try, and shows at once what was
written. Writers and whoever removes files keep out of each other's way by it: each first says that it is there and then
looks for the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import obstore

from storage.io.files import create_object, list_folder, naming, read_file, remove, write_file
from storage.io.paths import ObjectPath, StorePath
from storage.locks.file import owner

RENEW_AFTER = 600.0
"""Seconds after which a writer at work says again that it lives."""
STALE_AFTER = 7200.0
"""Seconds without a word after which a writer counts as dead, by the object store's clock."""
WAIT = 300.0
"""Seconds that a new writer waits for somebody who removes files."""


class Lease:
    """A lock object; see `storage.locks.file.Claim`."""

    def __init__(self, folder: ObjectPath, name: str) -> None:
        self.name = name
        self.path = folder / f"{name}.lock"
        self._renewed = 0.0

    def take(self, removing: bool = False) -> bool:
        """ValueError where somebody else removes files and does not come to an end."""
        deadline = time.monotonic() + WAIT
        while create_object(self.path, owner()):
            self._renewed = time.monotonic()
            if removing or not _held(self.path.parent, ["removing"]):
                return True
            remove(self.path)
            if time.monotonic() > deadline:
                raise ValueError(f"{self.path.parent / 'removing'}: somebody removes files of the store; try later")
            time.sleep(1.0)
        return False

    def renew(self) -> None:
        if time.monotonic() - self._renewed > RENEW_AFTER:
            write_file(self.path, owner())
            self._renewed = time.monotonic()

    def release(self, forget: bool = True) -> None:
        if forget:
            remove(self.path)


class Leases:
    """Lock objects under a prefix; see `storage.locks.file.Claims`."""

    def __init__(self, folder: ObjectPath) -> None:
        self.folder = folder

    def claim(self, name: str) -> Lease:
        return Lease(self.folder, name)

    def claimed(self) -> list[str]:
        return sorted(path.stem for path in list_folder(self.folder) if path.name.endswith(".lock"))

    def abandoned(self, forget: bool = True) -> Iterator[Lease]:
        names = self.claimed()
        held = _held(self.folder, [f"{name}.lock" for name in names])
        for name in names:
            if f"{name}.lock" not in held:
                lease = Lease(self.folder, name)
                yield lease
                lease.release(forget)

    def leftovers(self) -> list[StorePath]:
        return []

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Nothing to hold: who commits has a claim, and `removing` is refused while there is one."""
        yield

    @contextmanager
    def removing(self) -> Iterator[None]:
        """ValueError where a writer is at work, or another removes files."""
        ours = self.folder / "removing"
        if _written(ours) is not None and not _held(self.folder, [ours.name]):
            remove(ours)
        if not create_object(ours, owner()):
            raise ValueError(f"{ours}: somebody else removes files of the store: {_told(ours)}")
        try:
            for name in _held(self.folder, [f"{name}.lock" for name in self.claimed()]):
                path = self.folder / name
                raise ValueError(f"{path}: a writer is at work: {_told(path)}; try again when it is done")
            yield
        finally:
            remove(ours)


def _held(folder: ObjectPath, names: list[str]) -> list[str]:
    """Those of some lock objects that are there and were renewed lately; only the object store's own clock counts."""
    written = {name: time for name in names if (time := _written(folder / name)) is not None}
    if not written:
        return []
    clock = folder / "clock"
    write_file(clock, b"")
    now = _written(clock)
    assert now is not None
    return [name for name, time in written.items() if (now - time).total_seconds() < STALE_AFTER]


def _written(path: ObjectPath) -> datetime | None:
    """When an object was written; None where there is none."""
    try:
        with naming(path):
            return obstore.head(path.client, path.key)["last_modified"]
    except FileNotFoundError:
        return None


def _told(path: ObjectPath) -> str:
    """Whose a lock object is, for people."""
    try:
        return read_file(path).decode()
    except FileNotFoundError:
        return "gone by now"
