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
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.files import naming


class Claim:
    """The right to write the shard of one name."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.lock"
        self._descriptor: int | None = None

    def take(self) -> bool:
        """True if it is ours now; False if it is another's, or was of one who died.

        The file gets its name when it is locked and says whose it is: nobody sees it otherwise.
        """
        new = self.path.with_name(f"{self.path.stem}.{uuid.uuid4().hex}.new")
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with naming(self.path):
                os.write(descriptor, json.dumps(owner).encode())
            self.path.hardlink_to(new)
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
        """True if it was of one who died, and is ours now."""
        try:
            descriptor = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return False
        if not _lock_now(descriptor) or not _is_at(descriptor, self.path):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
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


def unfinished(folder: Path) -> list[Path]:
    """Lock files of processes that were killed before their claim had its name."""
    return [path for path in folder.glob("*.new") if time.time() - path.stat().st_mtime > 60]


def abandoned(folder: Path, forget: bool = True) -> Iterator[Claim]:
    """Claims of processes of this machine that have died; each is ours while the caller deals with it.

    Locks of other machines are left alone: not every network file system shows them.
    """
    for name in claimed(folder):
        claim = Claim(folder, name)
        if _host(claim.path) == socket.gethostname() and claim.take_over():
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


def _lock_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this name: another may have dealt with it between our two calls."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _host(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_bytes())["host"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
