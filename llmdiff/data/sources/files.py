"""Cut files and folders of data into shards, each kind of file in its way."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmdiff.data.lfs import check_fetched
from llmdiff.data.rejects import printable
from llmdiff.data.remote import DataPath
from llmdiff.data.sources.columns import KNOWN, Columns
from llmdiff.data.sources.folders.sidecars import sidecar_shards
from llmdiff.data.sources.kinds import TARS, kind_of
from llmdiff.data.sources.listing import list_data
from llmdiff.data.sources.rows import SourceShard, UnreadableShard
from llmdiff.data.sources.streamed import Streamed
from llmdiff.data.sources.tables.arrow import ArrowShard
from llmdiff.data.sources.tables.parquet import ParquetShard
from llmdiff.data.sources.tables.text_tables import table_shards
from llmdiff.data.sources.tars.row_index import noted_rows
from llmdiff.data.sources.tars.webdataset import TarShard

_FORMATS: dict[str, Callable[[DataPath, str, Columns], Iterable[SourceShard]]] = {
    ".parquet": lambda *file: [ParquetShard(*file)],
    ".arrow": lambda *file: [ArrowShard(*file)],
    **dict.fromkeys(TARS, lambda *file: [TarShard(*file)]),
}
"""Functions that cut a kind of file into shards; `table_shards` cuts the other kinds."""


def open_source(path: str | DataPath, columns: Columns = KNOWN) -> list[SourceShard]:
    """Return the shards of all data below a path; errors as of `list_data`."""
    return shards_of(list_data(path, columns=columns).files, columns)


def shards_of(files: Iterable[tuple[DataPath, str]], columns: Columns = KNOWN) -> list[SourceShard]:
    """Return the shards of some files of a `Listing`."""
    return [shard for file, name in files for shard in _shards(file, name, columns)]


def known_row_count(shard: SourceShard) -> int | None:
    """Return how many rows a shard has; None where that takes reading all of it. ValueError where it is unreadable."""
    if isinstance(shard, TarShard) and not shard.is_counted:
        if not shard.is_streamed:
            shard.check_beginning()
        return None
    uncounted = isinstance(shard, Streamed) and shard.is_streamed and not shard.is_counted
    return None if uncounted else shard.count


def expected_row_count(shard: SourceShard) -> int | None:
    """Return how many rows a shard has, if known or noted beside it: good enough for a progress bar, not for a choice.

    Return None where there is neither; raise ValueError where the shard is unreadable.
    """
    rows = known_row_count(shard)
    return noted_rows(shard.file) if rows is None and isinstance(shard, TarShard) else rows


def _shards(file: DataPath, name: str, columns: Columns) -> Iterable[SourceShard]:
    try:
        check_fetched(file)
    except ValueError as error:
        return [UnreadableShard(name, printable(str(error)))]
    cut = sidecar_shards if file.is_dir() else _FORMATS.get(kind_of(file), table_shards)
    return cut(file, name, columns)
