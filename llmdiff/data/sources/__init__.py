"""Where rows come from: files and folders as users have them, cut into shards that name their own content."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from llmdiff.data.sources.parquet import ParquetShard
from llmdiff.data.sources.rows import CAPTION_COLUMNS, IMAGE_COLUMNS, Row, SourceShard, UnreadableShard, Url
from llmdiff.data.sources.tables import (
    METADATA_FILES,
    ROWS_PER_SHARD,
    TableShard,
    image_folder,
    read_text,
    table_shards,
)
from llmdiff.data.sources.webdataset import TarShard

__all__ = [
    "CAPTION_COLUMNS",
    "IMAGE_COLUMNS",
    "METADATA_FILES",
    "ROWS_PER_SHARD",
    "ParquetShard",
    "Row",
    "SourceShard",
    "TableShard",
    "TarShard",
    "UnreadableShard",
    "Url",
    "image_folder",
    "open_source",
    "read_text",
]

_FORMATS: dict[str, Callable[[Path, str], Iterable[SourceShard]]] = {
    ".parquet": lambda file, name: [ParquetShard(file, name)],
    ".tar": lambda file, name: [TarShard(file, name)],
    ".jsonl": table_shards,
    ".csv": table_shards,
    ".tsv": table_shards,
    ".txt": table_shards,
}
EXPECTED = f"a file of {', '.join(_FORMATS)}, or a folder of such files"


def open_source(path: str | Path) -> list[SourceShard]:
    """The shards of a file, or of all files of a folder in the order of their names.

    A Parquet file beside a tar of the same name is the list that img2dataset leaves with its tars, and no data. Nor is
    a text file (a README, say) in a folder that holds other data.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is of none of the formats.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder; expected {EXPECTED}")
    if root.is_file():
        return _open_file(root, root.name)
    files = sorted(file for file in root.rglob("*") if _is_data(file))
    if not files:
        raise ValueError(f"{root}: expected {EXPECTED}, found none in it")
    data = [file for file in files if file.suffix.lower() != ".txt"] or files
    return [shard for file in data for shard in _open_file(file, file.relative_to(root).as_posix())]


def _is_data(file: Path) -> bool:
    listed = file.suffix == ".parquet" and file.with_suffix(".tar").is_file()
    return file.suffix.lower() in _FORMATS and not file.is_dir() and not listed


def _open_file(file: Path, name: str) -> list[SourceShard]:
    if file.suffix.lower() not in _FORMATS:
        raise ValueError(f"{file}: expected {EXPECTED}")
    return list(_FORMATS[file.suffix.lower()](file, name))
