"""Locks: which shards are being written, which were left by a process that died, and who may remove what.

A writer holds a lock file (`flock`) of its shard's name from before the first byte until after the commit. The kernel
frees the lock when the process ends, however it ends; the file stays and says whose half-written files those are.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNSIGNED_SECONDS = 60.0
"""How long a writer may take from its lock to its signature."""


class Claim:
    """The right to write the shard of one name."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.lock"
        self._descriptor: int | None = None

    def take(self) -> bool:
        """True if it is ours now; False if another process has it."""
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            if _is_at(descriptor, self.path):
                break
            os.close(descriptor)  # a sweep removed the file between our two calls
        self._descriptor = descriptor
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        try:
            os.truncate(descriptor, 0)
            os.write(descriptor, json.dumps(owner).encode())
        except OSError:
            self.release()
            raise
        return True

    def release(self, forget: bool = True) -> None:
        """Gives it back; with `forget` removes the file too: nothing half-written is left."""
        if self._descriptor is not None:
            if forget:
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def claimed(folder: Path) -> list[str]:
    """Names that are claimed, by the living or the dead."""
    return sorted(path.stem for path in folder.glob("*.lock"))


def abandoned(folder: Path, forget: bool = True) -> Iterator[Claim]:
    """Claims of processes of this machine that have died; each is ours while the caller deals with it.

    Locks of other machines are left alone: not every network file system shows them.
    """
    for name in claimed(folder):
        if not _is_of_this_machine(folder / f"{name}.lock"):
            continue
        claim = Claim(folder, name)
        if claim.take():
            try:
                yield claim
            finally:
                claim.release(forget)


@contextmanager
def committing(folder: Path) -> Iterator[None]:
    """Held while a commit names data; many at once, but never while `removing` is held."""
    with _locked(folder, fcntl.LOCK_SH):
        yield


@contextmanager
def removing(folder: Path) -> Iterator[None]:
    """Held while files that nothing names are looked for and removed; waits for the commits under way."""
    with _locked(folder, fcntl.LOCK_EX):
        yield


@contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(folder / "commit", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_of_this_machine(path: Path) -> bool:
    """Of an owner that was killed before it could say who it is, so after a while."""
    try:
        return bool(json.loads(path.read_bytes())["host"] == socket.gethostname())
    except FileNotFoundError:
        return False
    except (ValueError, KeyError):
        return time.time() - path.stat().st_mtime > UNSIGNED_SECONDS
