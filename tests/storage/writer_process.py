"""What the tests' child processes do: real writers that are killed, starved of disk, or not allowed to write."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from storage import EncodingStore
from storage.locks.base import LockedError
from storage.maintenance.repair import repair
from storage.maintenance.summary import summarise
from storage.maintenance.verify import verify
from storage.writing.optimize import optimize
from storage.writing.writer import ShardWriter
from tests.storage import synthetic

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tests.storage.writer_process", "storage.store", "storage.writing.writer", "zarrs", "pandas"]
)
FILE_EVENTS = ("open", "os.", "shutil.")


def start(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    process = CONTEXT.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def run(function: Callable[..., None], *arguments: Any, timeout: float = 60) -> int | None:
    """The exit code of a child; negative for a signal."""
    process = start(function, *arguments)
    process.join(timeout)
    code = process.exitcode
    process.kill()
    return code


def encode(path: Path, fingerprint: str, *sources: str) -> None:
    store = EncodingStore.open(path)
    for source in sources:
        synthetic.encode(store, fingerprint, source)


def die_at_file_operation(path: Path, fingerprint: str, source: str, number: int) -> None:
    """Encodes a source, and is killed just before the `number`-th time that Python touches a file of the store."""
    store = EncodingStore.open(path)
    die_at(path, number)
    synthetic.encode(store, fingerprint, source)


def die_while_repairing(path: Path, number: int) -> None:
    """Repairs a store, and is killed likewise."""
    store = EncodingStore.open(path)
    problems = verify(store)
    die_at(path, number)
    repair(store, problems)


def die_while_optimizing(path: Path, number: int) -> None:
    """Merges a store's files, and is killed likewise."""
    store = EncodingStore.open(path)
    die_at(path, number)
    optimize(store)


def die_before_merging(path: str) -> None:
    """Is killed when the merged file is there and the commit would begin."""
    store = EncodingStore.open(path)
    store.locks.committing = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    optimize(store)


def optimize_on_full_disk(path: Path, filled: Path) -> None:
    """Merges a store's files where there is no room; exits with 7 on the OSError that must come."""
    with suppress(OSError), filled.open("wb", buffering=0) as file:
        while file.write(bytes(64)):
            pass
    try:
        optimize(EncodingStore.open(path))
    except OSError as error:
        os._exit(7 if str(path) in str(error) else 8)


def encode_and_optimize(path: Path, fingerprint: str, *sources: str) -> None:
    """Encodes sources one after the other, and merges after each what another process does not merge."""
    store = EncodingStore.open(path)
    for source in sources:
        synthetic.encode(store, fingerprint, source)
        with suppress(LockedError):
            optimize(store)


def die_at(path: Path, number: int) -> None:
    count = itertools.count()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        ours = event.startswith(FILE_EVENTS) and str(arguments[0]).startswith(str(path))
        if ours and next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def die_while_writing(path: Path | str, fingerprint: str, caption: str) -> None:
    """Is killed with data on the disk and nothing committed."""
    with ShardWriter(EncodingStore.open(path), None, fingerprint) as writer:
        writer.add_encoding(caption, synthetic.encoding(caption))
        flush(writer)
        os.kill(os.getpid(), signal.SIGKILL)


def die_before_commit(path: str, fingerprint: str, caption: str) -> None:
    """Is killed when the data is where it belongs and the commit would begin."""
    store = EncodingStore.open(path)
    store.locks.committing = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    with ShardWriter(store, None, fingerprint) as writer:
        writer.add_encoding(caption, synthetic.encoding(caption))


def flush(writer: ShardWriter) -> None:
    """Brings to the disk what a writer would still keep in memory."""
    writer.staged.flush()


def encode_with_file_limit(path: Path, fingerprint: str, source: str, limit: int) -> None:
    """Encodes a source where no file may grow beyond `limit` bytes; exits with 7 on the OSError that must come."""
    store = EncodingStore.open(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        synthetic.encode(store, fingerprint, source)
    except OSError as error:
        os._exit(7 if str(path) in str(error) else 8)


def encode_on_full_disk(path: Path, fingerprint: str, source: str, rows: int) -> None:
    """Encodes more than there is room for; exits with 7 on the OSError that must come."""
    try:
        synthetic.encode(EncodingStore.open(path), fingerprint, source, range(rows))
    except OSError as error:
        os._exit(7 if str(path) in str(error) else 8)


def encode_as_nobody(path: Path, fingerprint: str, source: str) -> None:
    """Reads what is there, then encodes a source, as a user who may not write; exits with 7 on the OSError."""
    os.setgid(65534)
    os.setuid(65534)
    store = EncodingStore.open(path)
    synthetic.rows_of(store, fingerprint)
    summarise(store)
    try:
        synthetic.encode(store, fingerprint, source)
    except PermissionError as error:
        os._exit(7 if str(path) in str(error) else 8)


def encode_noting_syncs(path: Path, fingerprint: str, source: str, notes: Path) -> None:
    """Encodes a source and writes down what is on the disk for sure: each inode synced, and its state then."""
    synced: dict[int, int] = {}
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        state = os.fstat(descriptor)
        synced[state.st_ino] = state.st_mtime_ns

    os.fsync = noting  # type: ignore[assignment]
    synthetic.encode(EncodingStore.open(path), fingerprint, source)
    notes.write_text(json.dumps(synced))


def create_and_encode(path: Path | str, source: str) -> None:
    """Create the store and encode, as a first run does, at the same moment as others."""
    store = EncodingStore.open_or_create(path)
    synthetic.encode(store, store.register_fingerprint(synthetic.LLM), source)
