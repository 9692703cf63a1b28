"""Files of data: which of a folder's there are, and the shards that their formats cut them into."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from llmdiff.data.sources.parquet import ParquetShard
from llmdiff.data.sources.readiness import TEMPORARY
from llmdiff.data.sources.rows import SourceShard
from llmdiff.data.sources.text_tables import table_shards
from llmdiff.data.sources.webdataset import TarShard

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
    """Return the shards of all `source_files`; errors as there."""
    return shards_of(source_files(path))


def shards_of(files: Iterable[tuple[Path, str]]) -> list[SourceShard]:
    """Return the shards of some `source_files`."""
    return [shard for file, name in files for shard in _FORMATS[file.suffix.lower()](file, name)]


def source_files(path: str | Path, may_be_empty: bool = False) -> list[tuple[Path, str]]:
    """Return a file, or the files of data in a folder, by their names, which are relative to it. Read none.

    A Parquet file beside a tar of the same name is the list that img2dataset leaves with its tars, and no data. Nor is
    a text file (a README, say) in a folder that holds other data, nor what lies in a `TEMPORARY` folder.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is of none of the formats; or a folder without data, unless that may be.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder; expected {EXPECTED}")
    if root.is_file():
        if root.suffix.lower() not in _FORMATS:
            raise ValueError(f"{root}: expected {EXPECTED}")
        return [(root, root.name)]
    files = sorted(file for file in root.rglob("*") if _is_data(file, root))
    if not files and not may_be_empty:
        raise ValueError(f"{root}: expected {EXPECTED}, found none in it")
    data = [file for file in files if file.suffix.lower() != ".txt"] or files
    return [(file, file.relative_to(root).as_posix()) for file in data]


def _is_data(file: Path, root: Path) -> bool:
    if file.suffix.lower() not in _FORMATS or file.is_dir() or TEMPORARY in file.relative_to(root).parts:
        return False
    return not (file.suffix == ".parquet" and file.with_suffix(".tar").is_file())
