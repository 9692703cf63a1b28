"""Checks a shard of a store: its files, and the rows that the index names of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import replace
from itertools import islice
from threading import Thread

from storage.hashing import checksum
from storage.io.manifest import MANIFEST, read_manifest
from storage.io.names import shard_folder
from storage.io.paths import StorePath
from storage.maintenance.stored_rows import StoredRows
from storage.schema import Problem

Stored = tuple[str, list[StoredRows]]
"""Name of a shard, and what the index names of it."""

Checked = tuple[str, list[Problem]]
"""Name of a shard, and what is wrong with it."""


def check_shards(root: StorePath, shards: Iterable[Stored]) -> Iterator[Checked]:
    """Check some shards of the store at a path, one after the other."""
    for shard in shards:
        yield check_shard(root, shard)


def check_in_processes(count: int, root: StorePath, shards: Iterable[Stored]) -> Iterator[Checked]:
    """Check some shards in so many processes of this machine, which end with this one, however it ends."""
    left = iter(shards)
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        waiting = {pool.submit(check_shard, root, shard) for shard in islice(left, 2 * count)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            waiting |= {pool.submit(check_shard, root, shard) for shard in islice(left, len(done))}
            yield from (future.result() for future in done)
    finally:
        pool.shutdown(cancel_futures=True)


def check_shard(root: StorePath, stored: Stored) -> Checked:
    """Return the problems of a shard's files, and of the rows that the index names of it."""
    shard, rows = stored
    return shard, _check_shard(root, shard, rows)


def _check_shard(root: StorePath, shard: str, stored: list[StoredRows]) -> list[Problem]:
    """Return problems of a shard's files, each with the rows lost by it; and rows lost though the files look well."""
    problems = [replace(problem, shard=shard) for problem in _check_files(root, shard)]
    for rows in stored:
        lost = tuple(key for key, row in rows.read(shard_folder(root, shard)) if row is None)
        if not lost:
            continue
        path = f"shards/{shard}/{rows.name}"
        blamed = next((i for i, problem in enumerate(problems) if _is_about(problem.path, path)), None)
        if blamed is None:
            blamed = len(problems)
            problems.append(Problem("mismatch", path, "rows are not those that the index names", shard))
        if rows.name.startswith("encodings/"):
            problems[blamed] = replace(problems[blamed], encodings=problems[blamed].encodings + lost)
        else:
            problems[blamed] = replace(problems[blamed], latents=problems[blamed].latents + lost)
    return problems


def _is_about(problem: str, array: str) -> bool:
    """Return whether one path is the other, or inside it."""
    return f"{problem}/".startswith(f"{array}/") or f"{array}/".startswith(f"{problem}/")


def _check_files(root: StorePath, shard: str) -> Iterator[Problem]:
    folder, path = shard_folder(root, shard), f"shards/{shard}"
    sizes = folder.file_sizes()
    if not sizes:
        yield Problem("missing", path, "expected a folder, found none")
        return
    try:
        expected = read_manifest(folder)
    except FileNotFoundError:
        yield Problem("missing", f"{path}/{MANIFEST}", "expected the shard's list of files, found none")
        return
    except ValueError as error:
        yield Problem("flipped", f"{path}/{MANIFEST}", str(error))
        return
    for name, entry in expected.items():
        yield from _check_file(folder / name, f"{path}/{name}", sizes.get(name), entry)
    for name in sorted(sizes.keys() - expected.keys() - {MANIFEST}):
        yield Problem("orphan", f"{path}/{name}", "a file that the shard was not committed with")


def _check_file(path: StorePath, name: str, size: int | None, entry: dict[str, int]) -> Iterator[Problem]:
    if size is None:
        yield Problem("missing", name, f"expected {entry['size']} bytes, found no file")
    elif size != entry["size"]:
        kind = "truncated" if size < entry["size"] else "flipped"
        yield Problem(kind, name, f"expected {entry['size']} bytes, found {size}")
    elif (found := checksum(path.read_bytes())) != entry["crc32c"]:
        yield Problem("flipped", name, f"expected CRC-32C {entry['crc32c']:08x}, found {found:08x}")


def _begin() -> None:
    """Make a new process ready: Ctrl-C is for the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
