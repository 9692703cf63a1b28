"""What a path holds: the files and folders that shards are cut from, and what is passed over, with the reason.

Only names are looked at, and of tables the columns: a table that names pictures has their captions, too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from llmdiff.data.rejects import printable
from llmdiff.data.remote import DataPath, RemotePath, data_path
from llmdiff.data.sources.arrow import ArrowShard
from llmdiff.data.sources.columnar import text_columns
from llmdiff.data.sources.columns import KNOWN, Columns
from llmdiff.data.sources.img2dataset import is_list
from llmdiff.data.sources.kinds import METADATA_FILES, TARS, is_picture, is_text, kind_of
from llmdiff.data.sources.leftovers import Leftovers
from llmdiff.data.sources.parquet import ParquetShard
from llmdiff.data.sources.readiness import TEMPORARY
from llmdiff.data.sources.records import columns_of, names_in, read_records
from llmdiff.data.sources.row_index import INDEX_NAMES
from llmdiff.data.sources.rows import PATH_COLUMNS, column
from llmdiff.data.sources.sidecars import captions_by_stem

NOT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", *INDEX_NAMES)
"""JSON files that tools leave beside data: descriptions and counts."""
STORE = "store.json"
"""What makes a folder an encoding store, whose own tables are no data."""
EXPECTED = (
    "a file of .parquet, .arrow, .tar, .jsonl, .csv, .tsv, .txt or .json (text and tar also as .gz, .zst or .bz2), "
    "a folder of such files, or a folder of pictures with captions beside them"
)


class Listing(NamedTuple):
    """What was found below a path; names are relative to it."""

    files: list[tuple[DataPath, str]]
    """Files of data, and folders whose pictures have their captions beside them, in the order of their names."""
    passed_over: dict[str, str]
    """What looks like data and is not read, and why."""
    root: DataPath
    """What was listed; of another place, it keeps what the listing said."""
    pictures: dict[DataPath, list[str]] = {}
    """Names of the pictures of folders whose pictures a table names."""


@dataclass
class _Found:
    """A walk's findings so far."""

    columns: Columns
    data: list[tuple[DataPath, str]] = field(default_factory=list)
    texts: list[tuple[DataPath, str]] = field(default_factory=list)
    """Text files in folders without pictures: captions where there is no other data."""
    passed_over: dict[str, str] = field(default_factory=dict)
    leftovers: Leftovers = field(default_factory=Leftovers)
    pictures: dict[DataPath, list[str]] = field(default_factory=dict)


def list_data(path: str | DataPath, may_be_empty: bool = False, columns: Columns = KNOWN) -> Listing:
    """List a file, or what a folder holds.

    A folder that is linked is followed. Hidden folders, `TEMPORARY` ones and encoding stores are no data.

    Args:
        path: of this machine, or of another place: see `llmdiff.data.remote.data_path`.
        may_be_empty: whether no data are no error.
        columns: that are chosen; the named one of pictures may hold paths.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the file is of no known kind; or the folder is an encoding store, or holds no data, unless that may
            be.
        ConnectionError: another place does not answer, or refuses.
    """
    root = check_data(path, may_be_empty)
    if root.is_file():
        return Listing([(root, printable(root.name))], {}, root)
    if root.holds(STORE) if isinstance(root, RemotePath) else (root / STORE).is_file():
        raise ValueError(f"{root}: expected {EXPECTED}, found an encoding store ({STORE})")
    found = _Found(columns)
    _walk(root, "", (), None, found)
    if found.data:
        why = "a text file beside other data; name it itself to have its lines as captions"
        found.passed_over |= {name: why for _, name in found.texts}
    found.passed_over |= found.leftovers.lines()
    files = sorted(found.data or found.texts, key=lambda item: item[1])
    if not files and not may_be_empty:
        passed_over = "".join(f"; {name}: {why}" for name, why in list(found.passed_over.items())[:3])
        raise ValueError(f"{root}: expected {EXPECTED}, found none in it{passed_over}")
    return Listing(files, dict(sorted(found.passed_over.items())), root, found.pictures)


def check_data(path: str | DataPath, may_be_empty: bool = False) -> DataPath:
    """Return the path of data that are there, without a look into folders; errors as of `list_data`."""
    root = data_path(path)
    if isinstance(root, RemotePath):
        there = (may_be_empty and not kind_of(root)) or root.facts is not None or root.is_dir()
    else:
        there = root.exists()
    if not there:
        raise FileNotFoundError(f"{root}: no such file or folder; expected {EXPECTED}")
    if root.is_file() and not kind_of(root):
        raise ValueError(f"{root}: expected {EXPECTED}")
    return root


def _walk(folder: DataPath, name: str, above: tuple[DataPath, ...], named_by: str | None, found: _Found) -> None:
    """Add what a folder holds; `named_by` is a table above it whose rows name pictures."""
    here = printable(f"{name}/") if name else ""
    try:
        entries = sorted(_entries(folder), key=lambda entry: entry.name)
    except ConnectionError:
        raise
    except OSError as error:
        found.passed_over[here or "."] = f"cannot be read: {error.strerror}"
        return
    names = {entry.name for entry in entries}
    folders, files = [], []
    for entry in entries:
        if _is_folder(entry):
            folders.append(entry)
        elif entry.name[0] == ".":
            found.leftovers.hidden(entry.name)
        elif _is_special(entry):
            found.passed_over[here + printable(entry.name)] = "a pipe, a socket or a device, and no file"
        else:
            files.append(folder / entry.name)
    if name and STORE in names:
        found.passed_over[here] = "an encoding store"
        return
    named_by = _add_files(folder, here, files, names, named_by, found, bool(folders))
    for entry in folders:
        inner = folder / entry.name
        if (why := _is_no_data(inner, (*above, folder.resolve()))) is not None:
            found.passed_over[f"{here}{printable(entry.name)}/"] = why
        else:
            _walk(inner, f"{here}{entry.name}", (*above, folder.resolve()), named_by, found)


def _entries(folder: DataPath) -> Iterable[os.DirEntry[str] | RemotePath]:
    return folder.iterdir() if isinstance(folder, RemotePath) else os.scandir(folder)


def _is_folder(entry: os.DirEntry[str] | RemotePath) -> bool:
    """Return whether an entry is a folder or leads to one; only links cost a look of their own."""
    if isinstance(entry, RemotePath):
        return entry.is_dir()
    return _mode(entry, stat.S_ISDIR) if entry.is_symlink() else entry.is_dir()


def _is_special(entry: os.DirEntry[str] | RemotePath) -> bool:
    """Return whether an entry is there and no file: reading a pipe would never end. A link to nowhere is a file."""
    if isinstance(entry, RemotePath):
        return False
    return not entry.is_file(follow_symlinks=False) and _mode(entry, lambda mode: not stat.S_ISREG(mode))


def _mode(entry: os.DirEntry[str], test: Callable[[int], bool]) -> bool:
    """Return what a test says of the mode of what an entry is or leads to; False where that is nothing."""
    try:
        return test(entry.stat().st_mode)
    except OSError:
        return False


def _is_no_data(folder: DataPath, above: tuple[DataPath, ...]) -> str | None:
    """Return why a folder is not looked into; None where it is."""
    if folder.name.startswith("."):
        return "a hidden folder"
    if folder.name == TEMPORARY:
        return "the work of a job that has not ended"
    if folder.resolve() in above:
        return f"a link that leads back to {folder.resolve()}"
    return None


def _add_files(
    folder: DataPath,
    here: str,
    files: list[DataPath],
    names: set[str],
    named_by: str | None,
    found: _Found,
    has_folders: bool,
) -> str | None:
    """Add a folder's own files; return the table that names its pictures and those below it, if there is one."""
    pictures = [file for file in files if is_picture(file)]
    stems = {picture.stem for picture in pictures}
    found.leftovers.unknown(files)
    tables = [file for file in files if kind_of(file) and not (is_text(file) or file.suffix.lower() == ".json")]
    for table in tables:
        name = here + printable(table.name)
        if (why := _is_list_of(table, names)) is not None:
            found.passed_over[name] = why
            continue
        found.data.append((table, name))
        if (pictures or has_folders) and names_pictures(table, found.columns):
            named_by = name
    jsons = [file for file in files if file.suffix.lower() == ".json"]
    for file in jsons:
        if file.stem not in stems:
            named_by = _add_json(file, here + printable(file.name), found) or named_by
    texts = [file for file in files if is_text(file)]
    beside = [file for file in (*texts, *jsons) if file.stem in stems]
    alone = [file for file in texts if file.stem not in stems]
    if pictures and named_by is None:
        found.data.append((folder, here.removesuffix("/") or "."))
        if not found.columns.captions:
            by_stem = captions_by_stem(file.name for file in (*alone, *beside))
            second = {name for names in by_stem.values() for name in names[1:]}
            beaten = [file for file in (*alone, *beside) if file.name in second]
            found.leftovers.add(beaten, "another caption of the same name goes before")
        return None
    if pictures:
        found.pictures[folder] = [picture.name for picture in pictures]
    found.leftovers.add(beside, f"{named_by} names the pictures; their captions are read there")
    found.leftovers.add([file for file in alone if not kind_of(file)], "a caption without a picture beside it")
    found.texts += [(file, here + printable(file.name)) for file in alone if kind_of(file)]
    return named_by


def _is_list_of(table: DataPath, names: set[str]) -> str | None:
    """Return why a table is the list that img2dataset leaves with a shard, and no data; None where it is data."""
    if table.suffix.lower() != ".parquet":
        return None
    shard = next((f"{table.stem}{ending}" for ending in TARS if f"{table.stem}{ending}" in names), None)
    if shard is None and table.stem in names and any(map(is_picture, _names_in(table.with_suffix("")))):
        shard = f"{table.stem}/"
    if shard is None:
        return None
    if is_list(table):
        return f"the list that img2dataset left with {shard}: its failed rows are read from it"
    return None if shard.endswith("/") else f"a table of the same name as {shard}; name it itself to have its rows"


def _names_in(folder: DataPath) -> Iterator[str]:
    if folder.is_dir():
        yield from (entry.name for entry in _entries(folder))


def _add_json(file: DataPath, name: str, found: _Found) -> str | None:
    """Add a JSON file that is a table; return its name where it names pictures."""
    if file.name in NOT_DATA or file.name.endswith("_stats.json"):
        return None
    try:
        records = read_records(file)
    except ValueError as error:
        found.passed_over[name] = f"no table: {error}"
        return None
    if not any(isinstance(record, dict) for record in records):
        found.passed_over[name] = "no table: expected rows with captions, found none"
        return None
    found.data.append((file, name))
    return name if column(names_in(records), _path_columns(found.columns)) is not None else None


def names_pictures(table: DataPath, columns: Columns = KNOWN) -> bool:
    """Return whether a table has a column of pictures' paths; False where it cannot be read."""
    if table.name in METADATA_FILES:
        return True
    if kind_of(table) in TARS:
        return False
    columnar = {".parquet": ParquetShard, ".arrow": ArrowShard}.get(table.suffix.lower())
    try:
        names = columns_of(table) if columnar is None else text_columns(columnar(table, table.name))
        return column(names, _path_columns(columns)) is not None
    except ConnectionError:
        raise
    except (ValueError, OSError):
        return False


def _path_columns(columns: Columns) -> tuple[str, ...]:
    """The columns that may hold pictures' paths."""
    return PATH_COLUMNS if columns.image is None else (columns.image.lower(),)
