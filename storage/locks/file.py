"""Locks on a disk: files of the kernel's `flock`.

A writer holds a lock file of its shard's name from before the first byte until after the commit. The kernel frees the
lock when the process ends, however it ends; the file stays and says whose half-written files those are. In an object
store, which has no locks, see `storage.locks.lease`.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Queue
from threading import Thread

from storage.io.files import lock_now, naming, sync
from storage.io.paths import LocalPath, StorePath
from storage.locks.base import NAME, owner

LOOK_EVERY = 0.05
"""Seconds between two times that something else is done while others commit."""


class FileLock:
    """A locked file; see `storage.locks.base.WriterLock`."""

    def __init__(self, folder: LocalPath, name: str) -> None:
        self.name = name
        self.path = folder / f"{name}.lock"
        self._descriptor: int | None = None

    def acquire(self, removing: bool = False) -> bool:
        """Name the file once it is locked and says whose it is: nobody sees it otherwise."""
        new = self.path.with_name(f"{self.name}.{uuid.uuid4().hex}.new")
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with naming(self.path):
                os.write(descriptor, owner())
                os.fsync(descriptor)
            self.path.hardlink_to(new)
            sync(self.path.parent)  # data whose lock is lost with the power would be nobody's
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, FileExistsError):
                return False
            raise
        finally:
            new.unlink(missing_ok=True)
        self._descriptor = descriptor
        return True

    def take_over(self) -> bool:
        """Return True if it was of one who died, and is ours now."""
        try:
            descriptor = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return False
        if not lock_now(descriptor) or not _is_at(descriptor, self.path):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def renew(self) -> None:
        """Do nothing: the kernel knows that we live."""

    def release(self, forget: bool = True) -> None:
        if self._descriptor is not None:
            if forget:
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


class FileLocks:
    """Locked files of a folder; see `storage.locks.base.WriterLocks`."""

    def __init__(self, folder: LocalPath) -> None:
        self.folder = folder

    def lock(self, name: str) -> FileLock:
        return FileLock(self.folder, name)

    def held(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.lock") if NAME.fullmatch(path.stem))

    def abandoned(self, forget: bool = True) -> Iterator[FileLock]:
        """Leave locks of other machines alone: not every network file system shows whether they are held."""
        for name in self.held():
            lock = FileLock(self.folder, name)
            if _host(lock.path) == socket.gethostname() and lock.take_over():
                try:
                    yield lock
                finally:
                    lock.release(forget)

    def leftovers(self) -> list[StorePath]:
        """Return files of processes that were killed before their lock had its name, long ago by their disk's clock."""
        clock = self.folder / "commit"
        clock.write_bytes(b"")
        now = clock.stat().st_mtime
        return [path for path in self.folder.glob("*.new") if now - path.stat().st_mtime > 60]

    @contextmanager
    def committing(self, meanwhile: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Wait for one's turn: of commits at once each would have to look at what the one before it brought."""
        with self._locked("commit", fcntl.LOCK_SH), self._locked("turn", fcntl.LOCK_EX, meanwhile):
            yield

    @contextmanager
    def removing(self) -> Iterator[None]:
        """Wait for the commits under way."""
        with self._locked("commit", fcntl.LOCK_EX):
            yield

    @contextmanager
    def _locked(self, name: str, kind: int, meanwhile: Callable[[], None] | None = None) -> Iterator[None]:
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if meanwhile is None:
                fcntl.flock(descriptor, kind)
            else:
                _lock_in_thread(descriptor, kind, meanwhile)
            yield
        finally:
            os.close(descriptor)


def _lock_in_thread(descriptor: int, kind: int, meanwhile: Callable[[], None]) -> None:
    """Lock an open file while doing something else again and again; the kernel lets those who wait in by turns.

    Where that raises and the caller closes the file, the kernel frees the lock once the thread has got it.
    """
    done: Queue[OSError | None] = Queue()

    def lock() -> None:
        try:
            fcntl.flock(descriptor, kind)
            done.put(None)
        except OSError as error:
            done.put(error)

    Thread(target=lock, daemon=True, name="wait-for-turn").start()
    while True:
        try:
            error = done.get(timeout=LOOK_EVERY)
        except Empty:
            meanwhile()
            continue
        if error is not None:
            raise error
        return


def _is_at(descriptor: int, path: LocalPath) -> bool:
    """Return whether an open file still has this name: another may have dealt with it between our two calls."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _host(path: LocalPath) -> str | None:
    try:
        return str(json.loads(path.read_bytes())["host"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
