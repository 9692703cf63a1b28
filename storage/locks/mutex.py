"""Turns: a job that one process at a time may do on a store, from whichever machine.

A turn is a claim (`storage.locks.file`) in a folder of its own, apart from the writers'. On a disk the kernel frees it
when its process ends, however it ends; in an object store its holder renews it, and one who has been silent for
`storage.locks.lease.STALE_AFTER` has lost it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from storage.io.files import read_file
from storage.io.paths import StorePath
from storage.locks.file import Claim, Claims, claims_of
from storage.store import EncodingStore

FOLDER = "turns"
RENEW_EVERY = 60.0
"""Seconds between two looks whether the claim is to be renewed."""


@contextmanager
def turn(store: EncodingStore, job: str, wait: float = 0.0) -> Iterator[str | None]:
    """Holds the turn of a job; yields None where it is ours, else whose it is.

    Args:
        store: what the job is done on.
        job: its name.
        wait: seconds to wait for another process to be done.
    """
    claims = _claims(store)
    claim = claims.claim(job)
    deadline = time.monotonic() + wait
    while not _take(claims, claim):
        if (left := deadline - time.monotonic()) <= 0:
            yield _holder(claim.path)
            return
        time.sleep(min(1.0, left))
    ended = threading.Event()
    renewer = threading.Thread(target=_renew, args=(claim, ended), daemon=True)
    renewer.start()
    try:
        yield None
    finally:
        ended.set()
        renewer.join()
        claim.release()


def _claims(store: EncodingStore) -> Claims:
    folder = store.path / FOLDER
    if isinstance(folder, Path):
        folder.mkdir(exist_ok=True)
    return claims_of(folder)


def _take(claims: Claims, claim: Claim) -> bool:
    if claim.take():
        return True
    for _ in claims.abandoned():
        pass  # each is given back, as if it had never been taken
    return claim.take()


def _renew(claim: Claim, ended: threading.Event) -> None:
    while not ended.wait(RENEW_EVERY):
        claim.renew()


def _holder(path: StorePath) -> str:
    """Whose a claim is, for people."""
    try:
        owner = json.loads(read_file(path))
        since = datetime.fromtimestamp(owner["since"], UTC)
        return f"process {owner['pid']} on {owner['host']}, since {since:%Y-%m-%d %H:%M:%S} UTC ({path})"
    except (FileNotFoundError, ValueError, KeyError):
        return f"another process ({path})"  # which has left it by now
