"""Where rows come from: files and folders as users have them, cut into shards that name their own content."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from llmdiff.data.sources.arrow import ArrowShard
from llmdiff.data.sources.kinds import METADATA_FILES, TARS, kind_of
from llmdiff.data.sources.listing import Listing, list_data
from llmdiff.data.sources.parquet import ParquetShard
from llmdiff.data.sources.readiness import ReadinessPolicy, Scan, scan, signature
from llmdiff.data.sources.records import read_text
from llmdiff.data.sources.rows import CAPTION_COLUMNS, IMAGE_COLUMNS, Row, SourceShard, UnreadableShard, Url
from llmdiff.data.sources.sidecars import SidecarShard, sidecar_shards
from llmdiff.data.sources.tables import ROWS_PER_SHARD, TableShard, table_shards
from llmdiff.data.sources.webdataset import TarShard

__all__ = [
    "ArrowShard",
    "CAPTION_COLUMNS",
    "IMAGE_COLUMNS",
    "Listing",
    "METADATA_FILES",
    "ROWS_PER_SHARD",
    "ReadinessPolicy",
    "ParquetShard",
    "Row",
    "SidecarShard",
    "SourceShard",
    "Scan",
    "TableShard",
    "TarShard",
    "UnreadableShard",
    "Url",
    "list_data",
    "open_source",
    "read_text",
    "shards_of",
    "signature",
    "source_files",
    "scan",
]

_FORMATS: dict[str, Callable[[Path, str], Iterable[SourceShard]]] = {
    ".parquet": lambda file, name: [ParquetShard(file, name)],
    ".arrow": lambda file, name: [ArrowShard(file, name)],
    **dict.fromkeys(TARS, lambda file, name: [TarShard(file, name)]),
}
"""How a kind of file is cut into shards; of the others `table_shards` does it."""


def open_source(path: str | Path) -> list[SourceShard]:
    """The shards of all `source_files`; errors as there."""
    return shards_of(source_files(path))


def shards_of(files: Iterable[tuple[Path, str]]) -> list[SourceShard]:
    """The shards of some `source_files`."""
    return [shard for file, name in files for shard in _shards(file, name)]


def source_files(path: str | Path, may_be_empty: bool = False) -> list[tuple[Path, str]]:
    """The files of data below a path, and the folders of pictures with captions beside them; see `list_data`."""
    return list_data(path, may_be_empty).files


def _shards(file: Path, name: str) -> Iterable[SourceShard]:
    cut = sidecar_shards if file.is_dir() else _FORMATS.get(kind_of(file), table_shards)
    return cut(file, name)
