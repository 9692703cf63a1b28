"""Reads every checksum of a store and says what is not as it was committed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.arrays import open_array, read_rows
from storage.claims import claimed
from storage.files import MANIFEST, file_checksum, list_files
from storage.keys import Fingerprint, checksum, content_hash
from storage.records import Problem

if TYPE_CHECKING:
    from storage.store import EncodingStore

ROWS_BYTES = 64 * 1024 * 1024
"""Read at once when rows are compared."""


def verify(store: EncodingStore) -> list[Problem]:
    """All problems of the version that the store shows, and the files that no version names.

    What a killed writer left is no problem: nothing shows it, and the next writer or `gc` removes it.
    """
    problems = list(_index_files(store))
    if problems:  # what the index would say about the shards can't be trusted
        return problems
    problems = list(_fingerprints(store))
    rows = Named.of(store)
    for shard, manifest in sorted(rows.manifests.items()):
        problems += check_shard(store.path, shard, manifest, rows)
    return problems + list(_orphans(store))


class Named:
    """What the index names, by shard."""

    def __init__(self, manifests: dict[str, str | None], encodings: pa.Table, latents: pa.Table) -> None:
        self.manifests = manifests
        self.encodings = encodings
        self.latents = latents

    @classmethod
    def of(cls, store: EncodingStore) -> Named:
        """Of the version that the store shows."""
        from storage.store import ENCODING_COLUMNS, LATENT_COLUMNS

        snapshot = store.snapshot()
        encodings = store.index.read(snapshot, ENCODING_COLUMNS, pc.field("encoding_shard").is_valid())
        latents = store.index.read(snapshot, LATENT_COLUMNS, pc.field("latent_shard").is_valid())
        owners = store.index.read(snapshot, ["shard", "manifest"], pc.field("manifest").is_valid())
        manifests: dict[str, str | None] = dict.fromkeys(
            [*pc.unique(encodings["encoding_shard"]).to_pylist(), *pc.unique(latents["latent_shard"]).to_pylist()]
        )
        unique = owners.group_by(["shard", "manifest"]).aggregate([])
        manifests.update(zip(unique["shard"].to_pylist(), unique["manifest"].to_pylist(), strict=True))
        return cls(manifests, encodings, latents)

    def arrays_of(self, shard: str) -> Iterator[tuple[str, list[Any], np.ndarray, np.ndarray, np.ndarray]]:
        """For each array of a shard: name; and of its rows, by place: key, first, count, checksum."""
        ours = self.encodings.filter(pc.equal(self.encodings["encoding_shard"], shard))
        for fingerprint in pc.unique(ours["fingerprint"]).to_pylist():
            rows = ours.filter(pc.equal(ours["fingerprint"], fingerprint)).sort_by("first_token")
            keys = [(fingerprint, key) for key in rows["caption_hash"].to_pylist()]
            counts = rows["token_count"].to_numpy().astype(np.int64)
            yield (
                f"encodings/{fingerprint}",
                keys,
                rows["first_token"].to_numpy(),
                counts,
                rows["encoding_checksum"].to_numpy(),
            )
        ours = self.latents.filter(pc.equal(self.latents["latent_shard"], shard))
        for shape in pc.unique(ours["latent_shape"]).to_pylist():
            rows = ours.filter(pc.equal(ours["latent_shape"], shape)).sort_by("latent_index")
            first = rows["latent_index"].to_numpy()
            yield (
                f"latents/{shape}",
                rows["latent_key"].to_pylist(),
                first,
                np.ones_like(first),
                rows["latent_checksum"].to_numpy(),
            )


def check_shard(root: Path, shard: str, manifest: str | None, named: Named) -> list[Problem]:
    """Problems of a shard's files, each with the rows lost by it; and rows that are lost though the files look well."""
    problems = [replace(problem, shard=shard) for problem in _files(root, shard, manifest)]
    lost: dict[str, list[Any]] = {}
    for name, keys, first, count, expected in named.arrays_of(shard):
        if bad := sorted(set(_bad_rows(root / "shards" / shard, name, keys, first, count, expected))):
            lost[name] = bad
    for name, keys in lost.items():
        encodings, latents = (tuple(keys), ()) if name.startswith("encodings/") else ((), tuple(keys))
        path = f"shards/{shard}/{name}"
        blamed = next(
            (
                i
                for i, p in enumerate(problems)
                if (p.path + "/").startswith(path + "/") or path.startswith(p.path + "/")
            ),
            None,
        )
        if blamed is None:
            problems.append(
                Problem("mismatch", path, "rows are not those that the index names", shard, encodings, latents)
            )
        else:
            problem = problems[blamed]
            problems[blamed] = replace(
                problem, encodings=problem.encodings + encodings, latents=problem.latents + latents
            )
    return problems


def _files(root: Path, shard: str, manifest: str | None) -> Iterator[Problem]:
    folder, path = root / "shards" / shard, f"shards/{shard}"
    if not folder.is_dir():
        yield Problem("missing", path, "expected a folder, found none")
        return
    try:
        data = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        yield Problem("missing", f"{path}/{MANIFEST}", "expected the shard's list of files, found none")
        return
    if content_hash(data) != manifest:
        yield Problem("flipped", f"{path}/{MANIFEST}", f"expected hash {manifest}, found {content_hash(data)}")
        return
    expected = json.loads(data)["files"]
    for name, entry in expected.items():
        yield from _file(folder / name, f"{path}/{name}", entry)
    for name in sorted(set(list_files(folder)) - expected.keys() - {MANIFEST}):
        yield Problem("orphan", f"{path}/{name}", "a file that the shard was not committed with")


def _file(path: Path, name: str, entry: dict[str, int]) -> Iterator[Problem]:
    if not path.is_file():
        yield Problem("missing", name, f"expected {entry['size']} bytes, found no file")
    elif (size := path.stat().st_size) != entry["size"]:
        kind = "truncated" if size < entry["size"] else "flipped"
        yield Problem(kind, name, f"expected {entry['size']} bytes, found {size}")
    elif (found := file_checksum(path)) != entry["crc32c"]:
        yield Problem("flipped", name, f"expected CRC-32C {entry['crc32c']:08x}, found {found:08x}")


def _bad_rows(
    folder: Path, name: str, keys: list[Any], first: np.ndarray, count: np.ndarray, expected: np.ndarray
) -> Iterator[Any]:
    """Keys of the rows whose bytes are not those that the index names."""
    try:
        array = open_array(folder, name)
    except ValueError:
        yield from keys
        return
    row_bytes = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:])))
    for group in _groups(first, count, ROWS_BYTES // row_bytes):
        for i, row in zip(group, _rows_or_none(array, first[group], count[group]), strict=True):
            if row is None or checksum(row) != expected[i]:
                yield keys[i]


def _groups(first: np.ndarray, count: np.ndarray, limit: int) -> Iterator[list[int]]:
    """Runs of sorted rows that span at most `limit` array rows."""
    group: list[int] = []
    for i in range(len(first)):
        if group and first[i] + count[i] - first[group[0]] > limit:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _rows_or_none(array: Any, first: np.ndarray, count: np.ndarray) -> Iterable[np.ndarray | None]:
    """Each row's bytes; where they can't be read at once, one by one."""
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


def _index_files(store: EncodingStore) -> Iterator[Problem]:
    """Parquet files of both tables that can't be read back."""
    for table, snapshot in ((store.index, store.snapshot()), (store.reject_table, store.reject_table.snapshot())):
        for name in snapshot.files:
            path = table.folder / name
            if not path.exists():
                yield Problem("missing", f"{table.folder.name}/{name}", "expected a file of the table, found none")
                continue
            try:
                pq.read_table(path, page_checksum_verification=True, partitioning=None)
            except (OSError, pa.ArrowException) as error:
                yield Problem("flipped", f"{table.folder.name}/{name}", str(error).splitlines()[0])


def _fingerprints(store: EncodingStore) -> Iterator[Problem]:
    for path in sorted((store.path / "fingerprints").glob("*.json")):
        name = f"fingerprints/{path.name}"
        try:
            found = Fingerprint.of(json.loads(path.read_bytes()))
        except ValueError as error:
            yield Problem("flipped", name, f"expected JSON: {error}")
            continue
        if found != path.stem:
            yield Problem("flipped", name, f"expected the description of {path.stem}, found that of {found}")


def _orphans(store: EncodingStore) -> Iterator[Problem]:
    """Folders and files that no commit ever named and no writer, living or dead, has claimed."""
    claims = set(claimed(store.path / "writing"))
    for path in sorted((store.path / "shards").iterdir()):
        if path.name not in claims and not store.index.committed(path.name):
            yield Problem("orphan", f"shards/{path.name}", "no version names it")
    for table in (store.index, store.reject_table):
        for path in sorted(table.folder.glob("*.parquet")):
            if path.stem not in claims and not table.wrote(path.name):
                yield Problem("orphan", f"{table.folder.name}/{path.name}", "no version names it")
