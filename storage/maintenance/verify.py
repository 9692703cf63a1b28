"""Reads every checksum of a store and says what is not as it was committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from storage.hashing import Fingerprint
from storage.index.names import Names
from storage.index.row_stream import stream_rows
from storage.index.table import written_by
from storage.io.paths import StorePath
from storage.maintenance.check_shard import Checked, Stored, check_shards
from storage.maintenance.files import data_files
from storage.maintenance.stored_rows import stored_rows
from storage.schema import Problem
from storage.store import EncodingStore, read_description


def verify(
    store: EncodingStore,
    progress: Callable[[int, int], None] = lambda done, shards: None,
    check: Callable[[StorePath, Iterable[Stored]], Iterator[Checked]] = check_shards,
) -> list[Problem]:
    """Return all problems of the version that the store shows, and the files that no version names.

    What a killed writer left is no problem: nothing shows it, and the next writer or `gc` removes it.

    Args:
        store: to read.
        progress: called with (shards done, shards in all) after each.
        check: checks shards, in any order; see `check_shards` and `check_in_processes`.
    """
    problems = list(_check_tables(store))
    if problems:  # what the index would say about the shards can't be trusted
        return problems
    shards, fingerprints = _named(store)
    problems = list(_check_fingerprints(store, fingerprints))
    found: dict[str, list[Problem]] = {}
    for done, (shard, of_shard) in enumerate(check(store.path, stored_rows(store)), 1):
        if of_shard:
            found[shard] = of_shard
        progress(done, shards)
    return [
        *problems,
        *(problem for _, of_shard in sorted(found.items()) for problem in of_shard),
        *_find_orphans(store),
    ]


def _named(store: EncodingStore) -> tuple[int, list[str]]:
    """Return the number of shards, and the fingerprints, that the version names."""
    shards, fingerprints = Names(), Names()
    columns = {"fingerprint": fingerprints, "encoding_shard": shards, "latent_shard": shards}
    for batch in stream_rows(store.index, store.snapshot().at.files, list(columns)):
        for column, names in columns.items():
            names.numbers(batch[column].drop_null())
    return len(shards), fingerprints.values


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
            found = Fingerprint.of(read_description(path))
        except ValueError as error:
            yield Problem("flipped", name, str(error).removeprefix(f"{path}: "))
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
