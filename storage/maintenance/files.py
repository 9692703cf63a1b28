"""A listing of what lies in a store's folder."""

from __future__ import annotations

from storage.io.paths import StorePath
from storage.store import EncodingStore


def data_files(store: EncodingStore) -> list[StorePath]:
    """Return folders of shards and files of the tables, whether or not a version names them."""
    shards = (store.path / "shards").children()
    return [*(file for table in store.tables for file in table.parquet_files()), *shards]
