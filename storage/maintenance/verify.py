"""Reads every checksum of a store and says what is not as it was committed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.hashing import Fingerprint, checksum
from storage.index.table import written_by
from storage.io.arrays import open_array, read_rows
from storage.io.files import MANIFEST, exists, file_checksum, file_sizes, list_folder, read_file, read_manifest
from storage.io.paths import StorePath
from storage.schema import ENCODING_COLUMNS, LATENT_COLUMNS, Problem

if TYPE_CHECKING:
    from storage.store import EncodingStore

BYTES_AT_ONCE = 64 * 1024 * 1024
"""Read from an array at once."""


def verify(store: EncodingStore, progress: Callable[[int, int], None] = lambda done, shards: None) -> list[Problem]:
    """All problems of the version that the store shows, and the files that no version names.

    What a killed writer left is no problem: nothing shows it, and the next writer or `gc` removes it.

    Args:
        store: to read.
        progress: called with (shards done, shards in all) after each.
    """
    problems = list(_check_tables(store))
    if problems:  # what the index would say about the shards can't be trusted
        return problems
    problems = list(_check_fingerprints(store))
    shards = stored_rows(store)
    for done, (shard, stored) in enumerate(shards.items(), 1):
        problems += _check_shard(store.path, shard, stored)
        progress(done, len(shards))
    return problems + list(_find_orphans(store))


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """What the index names of one array: encodings' tokens or latents, in the order in which they lie."""

    name: str
    """Of the array inside its shard."""
    keys: list[Any]
    """(fingerprint, caption hash) of encodings, keys of latents."""
    first: np.ndarray
    """int64 ``(n,)``"""
    count: np.ndarray
    """int64 ``(n,)``"""
    checksum: np.ndarray
    """int64 ``(n,)``"""

    def read(self, folder: StorePath) -> Iterator[tuple[Any, np.ndarray | None]]:
        """Each key with its bytes as they were committed, or None where they are lost."""
        try:
            array = open_array(folder, self.name)
        except ValueError:
            yield from ((key, None) for key in self.keys)
            return
        rows_at_once = BYTES_AT_ONCE // (array.dtype.itemsize * int(np.prod(array.shape[1:])) or 1)
        for start, stop in _runs(self.first, self.count, rows_at_once):
            rows = _read_each(array, self.first[start:stop], self.count[start:stop])
            for i, row in zip(range(start, stop), rows, strict=True):
                intact = row is not None and checksum(row) == self.checksum[i]
                yield self.keys[i], row if intact else None


def stored_rows(store: EncodingStore) -> dict[str, list[StoredRows]]:
    """All that the store's version names, by shard."""
    snapshot = store.snapshot()
    encodings = store.index.read(snapshot, ENCODING_COLUMNS, pc.field("encoding_shard").is_valid())
    latents = store.index.read(snapshot, LATENT_COLUMNS, pc.field("latent_shard").is_valid())
    found: dict[str, list[StoredRows]] = {}
    for (shard, fingerprint), rows in _by(encodings, "encoding_shard", "fingerprint", order="first_token"):
        stored = StoredRows(
            name=f"encodings/{fingerprint}",
            keys=[(fingerprint, key) for key in rows["caption_hash"].to_pylist()],
            first=rows["first_token"].to_numpy(),
            count=rows["token_count"].to_numpy().astype(np.int64),
            checksum=rows["encoding_checksum"].to_numpy(),
        )
        found.setdefault(shard, []).append(stored)
    for (shard, shape), rows in _by(latents, "latent_shard", "latent_shape", order="latent_index"):
        stored = StoredRows(
            name=f"latents/{shape}",
            keys=rows["latent_key"].to_pylist(),
            first=rows["latent_index"].to_numpy(),
            count=np.ones(len(rows), np.int64),
            checksum=rows["latent_checksum"].to_numpy(),
        )
        found.setdefault(shard, []).append(stored)
    return dict(sorted(found.items()))


def _by(table: pa.Table, *keys: str, order: str) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """A table's distinct rows by the values of two columns, sorted by a third."""
    table = table.group_by(table.column_names).aggregate([])
    for group in table.select(keys).group_by(keys).aggregate([]).to_pylist():
        mask = pc.and_(*(pc.equal(table[key], group[key]) for key in keys))
        yield tuple(group[key] for key in keys), table.filter(mask).sort_by(order)


def _runs(first: np.ndarray, count: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Slices of sorted rows that span at most `limit` rows of the array, or are a single one."""
    start = 0
    for i in range(1, len(first) + 1):
        if i == len(first) or first[i] + count[i] - first[start] > limit:
            yield start, i
            start = i


def _read_each(array: Any, first: np.ndarray, count: np.ndarray) -> Iterator[np.ndarray | None]:
    """Rows read at once; one by one, None for those that can't be read, where that fails."""
    try:
        block = read_rows(array, int(first[0]), int((first + count).max()))
    except ValueError:
        for a, n in zip(first.tolist(), count.tolist(), strict=True):
            try:
                yield read_rows(array, a, a + n)
            except ValueError:
                yield None
        return
    for a, n in zip((first - first[0]).tolist(), count.tolist(), strict=True):
        yield block[a : a + n]


def _check_shard(root: StorePath, shard: str, stored: list[StoredRows]) -> list[Problem]:
    """Problems of a shard's files, each with the rows lost by it; and rows lost though the files look well."""
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
    """Whether one path is the other, or inside it."""
    return f"{problem}/".startswith(f"{array}/") or f"{array}/".startswith(f"{problem}/")


def _check_files(root: StorePath, shard: str) -> Iterator[Problem]:
    folder, path = root / "shards" / shard, f"shards/{shard}"
    sizes = file_sizes(folder)
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
    elif (found := file_checksum(path)) != entry["crc32c"]:
        yield Problem("flipped", name, f"expected CRC-32C {entry['crc32c']:08x}, found {found:08x}")


def _check_tables(store: EncodingStore) -> Iterator[Problem]:
    tables = store.index, store.reject_table
    problems = [(table, *found) for table in tables for found in table.log.check()]
    if not problems:
        snapshots = store.snapshot(), store.reject_table.snapshot()
        found_in = zip(tables, snapshots, strict=True)
        problems = [(table, *found) for table, snapshot in found_in for found in table.check_files(snapshot)]
    for table, kind, path, detail in problems:
        yield Problem(kind, f"{table.folder.name}/{path}", detail)


def _check_fingerprints(store: EncodingStore) -> Iterator[Problem]:
    named = store.index.read(store.snapshot(), ["fingerprint"])["fingerprint"].unique().drop_null().to_pylist()
    described = [path for path in list_folder(store.path / "fingerprints") if path.name.endswith(".json")]
    for fingerprint in sorted(set(named) - {path.stem for path in described}):
        yield Problem("missing", f"fingerprints/{fingerprint}.json", "expected what the fingerprint stands for")
    for path in described:
        name = f"fingerprints/{path.name}"
        try:
            found = Fingerprint.of(json.loads(read_file(path)))
        except ValueError as error:
            yield Problem("flipped", name, f"expected JSON: {error}")
            continue
        if found != path.stem:
            yield Problem("flipped", name, f"expected the description of {path.stem}, found that of {found}")


def data_files(store: EncodingStore) -> list[StorePath]:
    """Folders of shards and files of the tables, whether or not a version names them."""
    shards = list_folder(store.path / "shards")
    return [*store.index.parquet_files(), *store.reject_table.parquet_files(), *shards]


def _find_orphans(store: EncodingStore) -> Iterator[Problem]:
    """Folders and files that no commit ever named and no writer, living or dead, has claimed."""
    found = data_files(store)  # before the claims: a writer's claim is older than its files
    claims = set(store.claims.claimed())
    wrote = {"shards": store.index.committed, "index": store.index.wrote, "rejects": store.reject_table.wrote}
    for path in found:
        is_ours = written_by(path.name) in claims or wrote[path.parent.name](path.name)
        if not is_ours and (exists(path) or list_folder(path)):
            yield Problem("orphan", f"{path.parent.name}/{path.name}", "no version names it")
