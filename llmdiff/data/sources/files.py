"""The shards that files and folders of data are cut into, by what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from llmdiff.data.sources.arrow import ArrowShard
from llmdiff.data.sources.kinds import TARS, kind_of
from llmdiff.data.sources.listing import list_data
from llmdiff.data.sources.parquet import ParquetShard
from llmdiff.data.sources.rows import SourceShard
from llmdiff.data.sources.sidecars import sidecar_shards
from llmdiff.data.sources.text_tables import table_shards
from llmdiff.data.sources.webdataset import TarShard

_FORMATS: dict[str, Callable[[Path, str], Iterable[SourceShard]]] = {
    ".parquet": lambda file, name: [ParquetShard(file, name)],
    ".arrow": lambda file, name: [ArrowShard(file, name)],
    **dict.fromkeys(TARS, lambda file, name: [TarShard(file, name)]),
}
"""How a kind of file is cut into shards; of the others `table_shards` does it."""


def open_source(path: str | Path) -> list[SourceShard]:
    """Return the shards of all `source_files`; errors as there."""
    return shards_of(source_files(path))


def shards_of(files: Iterable[tuple[Path, str]]) -> list[SourceShard]:
    """Return the shards of some `source_files`."""
    return [shard for file, name in files for shard in _shards(file, name)]


def source_files(path: str | Path, may_be_empty: bool = False) -> list[tuple[Path, str]]:
    """Return the files of data below a path, and the folders of pictures with captions beside them; see `list_data`."""
    return list_data(path, may_be_empty).files


def _shards(file: Path, name: str) -> Iterable[SourceShard]:
    cut = sidecar_shards if file.is_dir() else _FORMATS.get(kind_of(file), table_shards)
    return cut(file, name)
