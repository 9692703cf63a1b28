"""Find out whether a table names the pictures beside it, and has their captions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from llmdiff.data.remote import DataPath
from llmdiff.data.sources.columns import IMAGE_OPTION, KNOWN, ColumnError, Columns
from llmdiff.data.sources.file_names import is_there, is_url, spelled
from llmdiff.data.sources.json_cells import Record
from llmdiff.data.sources.kinds import METADATA_FILES, TARS, is_picture, kind_of
from llmdiff.data.sources.rows import PATH_COLUMNS
from llmdiff.data.sources.tables.arrow import ArrowShard
from llmdiff.data.sources.tables.columnar import ColumnarShard, is_text_type, path_in
from llmdiff.data.sources.tables.parquet import ParquetShard
from llmdiff.data.sources.tables.records import first_records, names_in

ALONE = "name the file itself for its captions alone"


class Naming(NamedTuple):
    """Facts about pictures in the first rows of a table."""

    pictures: bool = False
    """Whether the rows name pictures in a column that is read."""
    captions: bool = False
    """Whether there is a column of captions."""
    columns: tuple[str, ...] = ()
    """Names of all columns."""
    unknown: str | None = None
    """A column that names an existing picture, where the table has no known column of pictures."""
    elsewhere: tuple[str, str] | None = None
    """A column that names a picture which is not there, and that name; None without captions, or with `unknown`."""

    @property
    def why_other_captions(self) -> str:
        """Why the captions beside the pictures are read, and not this table."""
        return f"it names pictures and has no captions; its columns: {', '.join(self.columns) or 'none'}"

    @property
    def why_named_first(self) -> str:
        """Why the captions are not read unless the column of pictures is named."""
        named = f"{IMAGE_OPTION} {self.unknown}"
        return f"its column {self.unknown} names pictures: add {named}, or {ALONE}"

    def why_not_beside(self, folders: Iterable[tuple[DataPath, str]]) -> str | None:
        """Return why the captions are not read alone, where one of the folders holds their picture; else None."""
        if self.elsewhere is None:
            return None
        column, cell = self.elsewhere
        name = PurePosixPath(cell.replace("\\", "/")).name
        for folder, here in folders:
            if is_there(folder, spelled(folder, name)):
                paths = f"have it name them from the table's own folder and add {IMAGE_OPTION} {column}"
                return f"its column {column} names pictures, which are in {here}: {paths}, or {ALONE}"
        return None


def naming_of(table: DataPath, columns: Columns = KNOWN) -> Naming:
    """Return what a table says of pictures; an empty answer for a tar, and for a table that can't be read."""
    if kind_of(table) in TARS:
        return Naming()
    columnar = {".parquet": ParquetShard, ".arrow": ArrowShard}.get(table.suffix.lower())
    try:
        if columnar is None:
            found = naming_in(table, first_records(table), columns)
        else:
            found = _naming_of_columnar(columnar(table, table.name), columns)
    except ConnectionError:
        raise
    except (ValueError, OSError):
        found = Naming(captions=True)
    return found._replace(pictures=found.pictures or table.name in METADATA_FILES)


def naming_in(table: DataPath, records: Iterable[Record], columns: Columns = KNOWN) -> Naming:
    """Return what rows of a text file say of pictures."""
    rows = [record for record in records if isinstance(record, dict)]
    names = names_in(rows)
    first = {name: next((row[name] for row in rows if row.get(name)), None) for name in names}
    paths = PATH_COLUMNS if columns.image is None else (columns.image.lower(),)
    pictures = any(name.strip() in paths and not is_url(cell) for name, cell in first.items())
    found = Naming(pictures, _has_captions(table, names, columns), tuple(names))
    may_be_unknown = columns.image is None and not _known(table, names, columns)
    return _with_unknown(found, table, first) if may_be_unknown else found


def _naming_of_columnar(shard: ColumnarShard, columns: Columns) -> Naming:
    names = shard.schema.names
    texts = [field.name for field in shard.schema if is_text_type(field.type)]
    image = next(iter(_known(shard.file, names, columns)), None)
    read = [name for name in (texts if image is None else [image]) if names.count(name) == 1]
    batch = next(iter(shard.batches(read)), None) if read else None
    first = {} if batch is None else {name: path_in(batch[name][0]) for name in read if len(batch)}
    paths = PATH_COLUMNS if columns.image is None else (columns.image.lower(),)
    cell = None if image is None else first.get(image)
    is_path = (image in texts or isinstance(cell, str)) and not is_url(cell)
    pictures = image is not None and image.strip().lower() in paths and is_path
    found = Naming(pictures, _has_captions(shard.file, names, columns), tuple(names))
    return _with_unknown(found, shard.file, first) if columns.image is None and image is None else found


def _known(table: DataPath, names: list[str], columns: Columns) -> list[str]:
    """Return the columns that may hold pictures; none where the named one is missing."""
    try:
        return columns.images(table, names)
    except ColumnError:
        return []


def _has_captions(table: DataPath, names: list[str], columns: Columns) -> bool:
    try:
        return bool(columns.texts(table, names))
    except ColumnError:
        return False


def _with_unknown(found: Naming, table: DataPath, first: Mapping[str, Any]) -> Naming:
    """Return `found` with the first column whose first filled cell names a picture, beside the table or elsewhere."""
    named = {name: cell for name, cell in first.items() if isinstance(cell, str) and _may_be_one(cell)}
    unknown = next((name for name, cell in named.items() if _is_one(table.parent, cell)), None)
    elsewhere = next(iter(named.items()), None) if found.captions and unknown is None else None
    return found._replace(unknown=unknown, elsewhere=elsewhere)


def _may_be_one(cell: str) -> bool:
    return is_picture(cell) and not is_url(cell)


def _is_one(folder: DataPath, cell: str) -> bool:
    try:
        return is_there(folder, spelled(folder, cell))
    except ConnectionError:
        raise
    except (OSError, ValueError):  # not a valid file name
        return False
