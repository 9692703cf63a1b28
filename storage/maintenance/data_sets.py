"""The data sets that a store was filled from, and the sources of each by encoder: ``data/<key>.json``.

The tables name the source that a row was first found in. Of which data set that source is, and whether the data set
still has it, is kept here: once a run of it is over, for a run sees all of a data set and a shard does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from storage.hashing import content_hash
from storage.io.paths import StorePath
from storage.store import EncodingStore

FOLDER = "data"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The sources of a data set under one encoder: names by the hashes of their content."""

    data: str
    """Name by which the data set is known: its path or address, and which columns of it were chosen."""
    fingerprint: str
    """Fingerprint of the encoder."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Sources that the last run found."""
    earlier: Mapping[str, str] = field(default_factory=dict)
    """Sources that earlier runs found and the last one did not: deleted, or of another content since."""

    @property
    def ever(self) -> dict[str, str]:
        """All sources that were ever found."""
        return {**self.earlier, **self.sources}

    def after(self, found: Mapping[str, str], whole: bool) -> DataSet:
        """Return the data set as it is known after a run.

        Args:
            found: the sources that the run read.
            whole: whether it read all of the data: what it did not find is there no more.
        """
        now = dict(found) if whole else {**self.sources, **found}
        return replace(self, sources=now, earlier={key: name for key, name in self.ever.items() if key not in now})


def data_sets(store: EncodingStore, fingerprint: str | None = None) -> list[DataSet]:
    """Return the data sets of a store; of one encoder, or of all.

    Raises:
        ValueError: a file of theirs can't be read.
    """
    files = [path for path in (store.path / FOLDER).children() if path.name.endswith(".json")]
    return [found for found in map(_read, files) if fingerprint in (None, found.fingerprint)]


def data_set(store: EncodingStore, data: str, fingerprint: str) -> DataSet:
    """Return one data set, without a source where no run of it was noted; ValueError where its file can't be read."""
    path = _path(store, data, fingerprint)
    return _read(path) if path.exists() else DataSet(data=data, fingerprint=fingerprint)


def note(store: EncodingStore, known: DataSet) -> None:
    """Keep what is known of a data set, in place of what was."""
    if known != data_set(store, known.data, known.fingerprint):
        (store.path / FOLDER).make_folder()
        _path(store, known.data, known.fingerprint).write(json.dumps(asdict(known), indent=1).encode())


def _path(store: EncodingStore, data: str, fingerprint: str) -> StorePath:
    return store.path / FOLDER / f"{content_hash(f'{fingerprint}:{data}'.encode())}.json"


def _read(path: StorePath) -> DataSet:
    try:
        return DataSet(**json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: expected the sources of a data set, found {error}") from error
