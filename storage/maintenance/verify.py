"""Reads every checksum of a store and says what is not as it was committed."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import replace
from itertools import islice

from storage.hashing import Fingerprint, checksum
from storage.index.batches import batches
from storage.index.names import Names
from storage.index.table import written_by
from storage.io.manifest import MANIFEST, read_manifest
from storage.io.paths import StorePath
from storage.maintenance.files import data_files
from storage.maintenance.stored_rows import StoredRows, stored_rows
from storage.schema import Problem
from storage.store import EncodingStore

Stored = tuple[str, list[StoredRows]]
"""A shard, and what the index names of it."""

Checked = tuple[str, list[Problem]]
"""A shard, and what is wrong with it."""


def verify(
    store: EncodingStore,
    progress: Callable[[int, int], None] = lambda done, shards: None,
    check: Callable[[StorePath, Iterable[Stored]], Iterator[Checked]] | None = None,
) -> list[Problem]:
    """Return all problems of the version that the store shows, and the files that no version names.

    What a killed writer left is no problem: nothing shows it, and the next writer or `gc` removes it.

    Args:
        store: to read.
        progress: called with (shards done, shards in all) after each.
        check: checks shards, in any order, where that is not done in this process; see `check_shards`.
    """
    problems = list(_check_tables(store))
    if problems:  # what the index would say about the shards can't be trusted
        return problems
    shards, fingerprints = _named(store)
    problems = list(_check_fingerprints(store, fingerprints))
    found: dict[str, list[Problem]] = {}
    for done, (shard, of_shard) in enumerate((check or check_shards)(store.path, stored_rows(store)), 1):
        if of_shard:
            found[shard] = of_shard
        progress(done, shards)
    return [*problems, *(problem for _, of_shard in sorted(found.items()) for problem in of_shard), *_find_orphans(store)]


def check_shards(root: StorePath, shards: Iterable[Stored]) -> Iterator[Checked]:
    """Check some shards of the store at a path, one after the other."""
    for shard in shards:
        yield check_shard(root, shard)


def check_in_processes(count: int, root: StorePath, shards: Iterable[Stored]) -> Iterator[Checked]:
    """Check some shards in so many processes of this machine."""
    left = iter(shards)
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(check_shard, root, shard) for shard in islice(left, 2 * count)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            waiting |= {pool.submit(check_shard, root, shard) for shard in islice(left, len(done))}
            yield from (future.result() for future in done)


def check_shard(root: StorePath, stored: Stored) -> Checked:
    """Return what is wrong with a shard's files and with the rows that the index names of it."""
    shard, rows = stored
    return shard, _check_shard(root, shard, rows)


def _named(store: EncodingStore) -> tuple[int, list[str]]:
    """Return the number of shards, and the fingerprints, that the version names."""
    shards, fingerprints = Names(), Names()
    columns = {"fingerprint": fingerprints, "encoding_shard": shards, "latent_shard": shards}
    for batch in batches(store.index, store.snapshot().at.files, list(columns)):
        for column, names in columns.items():
            names.numbers(batch[column].drop_null())
    return len(shards), fingerprints.values


def _check_shard(root: StorePath, shard: str, stored: list[StoredRows]) -> list[Problem]:
    """Return problems of a shard's files, each with the rows lost by it; and rows lost though the files look well."""
    problems = [replace(problem, shard=shard) for problem in _check_files(root, shard)]
    for rows in stored:
        lost = tuple(key for key, row in rows.read(root / "shards" / shard) if row is None)
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
    folder, path = root / "shards" / shard, f"shards/{shard}"
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


def _check_tables(store: EncodingStore) -> Iterator[Problem]:
    tables = store.tables
    problems = [(table, *found) for table in tables for found in table.log.check()]
    if not problems:
        versions = store.snapshot().at, *(table.newest() for table in tables[1:])
        found_in = zip(tables, versions, strict=True)
        problems = [(table, *found) for table, version in found_in for found in table.check_files(version)]
    for table, kind, path, detail in problems:
        yield Problem(kind, f"{table.folder.name}/{path}", detail)


def _check_fingerprints(store: EncodingStore, named: list[str]) -> Iterator[Problem]:
    described = [path for path in (store.path / "fingerprints").children() if path.name.endswith(".json")]
    for fingerprint in sorted(set(named) - {path.stem for path in described}):
        yield Problem("missing", f"fingerprints/{fingerprint}.json", "expected what the fingerprint stands for")
    for path in described:
        name = f"fingerprints/{path.name}"
        try:
            found = Fingerprint.of(json.loads(path.read_bytes()))
        except ValueError as error:
            yield Problem("flipped", name, f"expected JSON: {error}")
            continue
        if found != path.stem:
            yield Problem("flipped", name, f"expected the description of {path.stem}, found that of {found}")


def _find_orphans(store: EncodingStore) -> Iterator[Problem]:
    """Yield folders and files that no commit ever named and no writer, living or dead, has locked."""
    found = data_files(store)  # before the locks: a writer's lock is older than its files
    locked = set(store.locks.held())
    wrote = {"shards": store.index.committed, **{table.folder.name: table.wrote for table in store.tables}}
    for path in found:
        is_ours = written_by(path.name) in locked or wrote[path.parent.name](path.name)
        if not is_ours and (path.exists() or path.children()):
            yield Problem("orphan", f"{path.parent.name}/{path.name}", "no version names it")
