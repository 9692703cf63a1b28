"""A mutex for jobs: what one process at a time may do on a store, from whichever machine.

It is a writer lock (`storage.locks.base`) in a folder of its own, apart from the writers'. On a disk the kernel frees
it when its process ends, however it ends; in an object store its holder renews it, and one who has been silent for
`storage.locks.lease.STALE_AFTER` has lost it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from storage.io.paths import StorePath
from storage.locks.base import WriterLock, WriterLocks
from storage.locks.select import select_locks

FOLDER = "turns"
RENEW_EVERY = 60.0
"""Seconds between two looks whether the lock is to be renewed."""


@dataclass(frozen=True)
class JobMutex:
    """The outcome of asking for a job's mutex."""

    taken_by: str | None = None
    """Who holds it, for people; None where it is held by the one who asked."""

    @property
    def is_ours(self) -> bool:
        """Whether the job may be done here."""
        return self.taken_by is None


@contextmanager
def job_mutex(root: StorePath, job: str, wait: float = 0.0) -> Iterator[JobMutex]:
    """Take the mutex of a job and hold it for the block; where another process has it, the block runs without it.

    Args:
        root: path of the store that the job is done on, `EncodingStore.path`.
        job: its name.
        wait: seconds to wait for another process to be done.
    """
    folder = root / FOLDER
    folder.make_folder()
    locks = select_locks(folder)
    lock = locks.lock(job)
    deadline = time.monotonic() + wait
    while not _acquire(locks, lock):
        if (left := deadline - time.monotonic()) <= 0:
            yield JobMutex(taken_by=_holder(lock.path))
            return
        time.sleep(min(1.0, left))
    ended = threading.Event()
    renewer = threading.Thread(target=_renew, args=(lock, ended), daemon=True)
    renewer.start()
    try:
        yield JobMutex()
    finally:
        ended.set()
        renewer.join()
        lock.release()


def _acquire(locks: WriterLocks, lock: WriterLock) -> bool:
    if lock.acquire():
        return True
    for _ in locks.abandoned():
        pass  # each is given back, as if it had never been held
    return lock.acquire()


def _renew(lock: WriterLock, ended: threading.Event) -> None:
    while not ended.wait(RENEW_EVERY):
        lock.renew()


def _holder(path: StorePath) -> str:
    """Return who holds a lock, for people."""
    try:
        owner = json.loads(path.read_bytes())
        since = datetime.fromtimestamp(owner["since"], UTC)
        return f"process {owner['pid']} on {owner['host']}, since {since:%Y-%m-%d %H:%M:%S} UTC ({path})"
    except (FileNotFoundError, ValueError, KeyError):
        return f"another process ({path})"  # which has left it by now
