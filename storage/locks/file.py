"""Locks: which shards are being written, which were left by a process that died, and who may remove what.

On a disk a writer holds a lock file (`flock`) of its shard's name from before the first byte until after the commit.
The kernel frees the lock when the process ends, however it ends; the file stays and says whose half-written files those
are. In an object store, which has no locks, see `storage.locks.lease`.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from storage.io.files import lock_now, naming, sync
from storage.io.paths import StorePath


class Claim(Protocol):
    """The right to write the shard of one name."""

    name: str

    @property
    def path(self) -> StorePath: ...

    def take(self, removing: bool = False) -> bool:
        """True if it is ours now; False if it is another's, or was of one who died.

        Args:
            removing: `Claims.removing` is held by the caller.
        """

    def renew(self) -> None:
        """Says that its writer is alive; to be called now and then."""

    def release(self, forget: bool = True) -> None:
        """Gives it back; with `forget` as if it had never been taken: nothing half-written is left."""


class Claims(Protocol):
    """The claims of a store."""

    def claim(self, name: str) -> Claim: ...

    def claimed(self) -> list[str]:
        """Names that are claimed, by the living or the dead."""

    def abandoned(self, forget: bool = True) -> Iterator[Claim]:
        """Claims of writers that have died; each is ours while the caller deals with it."""

    def leftovers(self) -> list[StorePath]:
        """Files of claims that were never finished."""

    def committing(self) -> AbstractContextManager[None]:
        """Held while a commit names data; many at once, but never while `removing` is held."""

    def removing(self) -> AbstractContextManager[None]:
        """Held while files that nothing names are looked for and removed, or rows are replaced."""


def claims_of(folder: StorePath) -> Claims:
    """The claims that lie in a store's folder for them."""
    if isinstance(folder, Path):
        return FileClaims(folder)
    from storage.locks.lease import Leases

    return Leases(folder)


class FileClaim:
    """A locked file; see `Claim`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.path = folder / f"{name}.lock"
        self._descriptor: int | None = None

    def take(self, removing: bool = False) -> bool:
        """The file gets its name when it is locked and says whose it is: nobody sees it otherwise."""
        new = self.path.with_name(f"{self.name}.{uuid.uuid4().hex}.new")
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with naming(self.path):
                os.write(descriptor, owner())
                os.fsync(descriptor)
            self.path.hardlink_to(new)
            sync(self.path.parent)  # data whose claim is lost with the power would be nobody's
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
        if not lock_now(descriptor) or not _is_at(descriptor, self.path):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def renew(self) -> None:
        """Nothing: the kernel knows that we live."""

    def release(self, forget: bool = True) -> None:
        if self._descriptor is not None:
            if forget:
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


class FileClaims:
    """Locked files of a folder; see `Claims`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self, name: str) -> FileClaim:
        return FileClaim(self.folder, name)

    def claimed(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.lock"))

    def abandoned(self, forget: bool = True) -> Iterator[FileClaim]:
        """Locks of other machines are left alone: not every network file system shows them."""
        for name in self.claimed():
            claim = FileClaim(self.folder, name)
            if _host(claim.path) == socket.gethostname() and claim.take_over():
                try:
                    yield claim
                finally:
                    claim.release(forget)

    def leftovers(self) -> list[StorePath]:
        """Of processes that were killed before their claim had its name, long ago by the clock of their disk."""
        clock = self.folder / "commit"
        clock.write_bytes(b"")
        now = clock.stat().st_mtime
        return [path for path in self.folder.glob("*.new") if now - path.stat().st_mtime > 60]

    @contextmanager
    def committing(self) -> Iterator[None]:
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def removing(self) -> Iterator[None]:
        """Waits for the commits under way."""
        with self._locked(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        descriptor = os.open(self.folder / "commit", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)


def owner() -> bytes:
    """What a claim says: which process holds it, and since when."""
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}).encode()


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
