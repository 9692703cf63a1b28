"""Locks in an object store: objects that writers renew, and that count as abandoned when nobody has for long.

An object store has no locks, but it creates an object for one only of several who try, and shows at once what was
written. Writers and whoever removes files keep out of each other's way by it: each first says that it is there and then
looks for the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from storage.io.objects import ObjectPath
from storage.io.paths import StorePath
from storage.locks.base import NAME, LockedError, owner

RENEW_AFTER = 600.0
"""Seconds after which a writer at work says again that it lives."""
STALE_AFTER = 7200.0
"""Seconds without a word after which a writer counts as dead, by the object store's clock."""
WAIT = 300.0
"""Seconds that a new writer waits for somebody who removes files."""


class LeaseLock:
    """A lock object; see `storage.locks.base.WriterLock`."""

    def __init__(self, folder: ObjectPath, name: str) -> None:
        self.name = name
        self.path = folder / f"{name}.lock"
        self._renewed = 0.0

    def acquire(self, removing: bool = False) -> bool:
        """Raise LockedError where somebody else removes files and does not come to an end."""
        deadline = time.monotonic() + WAIT
        while self.path.create(owner()):
            self._renewed = time.monotonic()
            if removing or not _live(self.path.parent, ["removing"]):
                return True
            self.path.remove()
            if time.monotonic() > deadline:
                raise LockedError(f"{self.path.parent / 'removing'}: somebody removes files of the store; try later")
            time.sleep(1.0)
        return False

    def renew(self) -> None:
        if time.monotonic() - self._renewed > RENEW_AFTER:
            self.path.write(owner())
            self._renewed = time.monotonic()

    def release(self, forget: bool = True) -> None:
        if forget:
            self.path.remove()


class LeaseLocks:
    """Lock objects under a prefix; see `storage.locks.base.WriterLocks`."""

    def __init__(self, folder: ObjectPath) -> None:
        self.folder = folder

    def lock(self, name: str) -> LeaseLock:
        return LeaseLock(self.folder, name)

    def held(self) -> list[str]:
        names = (path.stem for path in self.folder.children() if path.name.endswith(".lock"))
        return sorted(name for name in names if NAME.fullmatch(name))

    def abandoned(self, forget: bool = True) -> Iterator[LeaseLock]:
        names = self.held()
        live = _live(self.folder, [f"{name}.lock" for name in names])
        for name in names:
            if f"{name}.lock" not in live:
                lock = LeaseLock(self.folder, name)
                yield lock
                lock.release(forget)

    def leftovers(self) -> list[StorePath]:
        return []

    @contextmanager
    def committing(self, meanwhile: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold nothing: who commits has a lock, and `removing` is refused while there is one."""
        yield

    @contextmanager
    def removing(self) -> Iterator[None]:
        """Raise LockedError where a writer is at work, or another removes files."""
        ours = self.folder / "removing"
        if ours.exists() and not _live(self.folder, [ours.name]):
            ours.remove()
        if not ours.create(owner()):
            raise LockedError(f"{ours}: somebody else removes files of the store: {_holder(ours)}")
        try:
            for name in _live(self.folder, [f"{name}.lock" for name in self.held()]):
                path = self.folder / name
                raise LockedError(f"{path}: a writer is at work: {_holder(path)}; try again when it is done")
            yield
        finally:
            ours.remove()


def _live(folder: ObjectPath, names: list[str]) -> list[str]:
    """Return the lock objects that are there and were renewed lately; only the object store's own clock counts."""
    written = {name: time for name in names if (time := (folder / name).modified()) is not None}
    if not written:
        return []
    clock = folder / "clock"
    clock.write(b"")
    now = clock.modified()
    assert now is not None
    return [name for name, time in written.items() if (now - time).total_seconds() < STALE_AFTER]


def _holder(path: ObjectPath) -> str:
    """Return whose a lock object is, for people."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return "gone by now"
