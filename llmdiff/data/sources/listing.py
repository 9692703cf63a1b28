"""List what a path holds: the files and folders that shards are cut from, and what is passed over, with the reason.

Only names are looked at, and of tables the columns: a table that names pictures has their captions, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from llmdiff.data.lfs import check_fetched
from llmdiff.data.rejects import printable
from llmdiff.data.remote import DataPath, RemotePath, data_path
from llmdiff.data.sources.columns import KNOWN, Columns
from llmdiff.data.sources.folders.entries import entries_of, is_folder, is_special, why_no_data
from llmdiff.data.sources.folders.sidecars import caption_stems, samples_of
from llmdiff.data.sources.kinds import is_picture, is_text, kind_of
from llmdiff.data.sources.tables.ignored_tables import INFO, STATE, ignored_tables
from llmdiff.data.sources.tables.naming import Naming, naming_in, naming_of
from llmdiff.data.sources.tables.records import read_records
from llmdiff.data.sources.tars.row_index import INDEX_NAMES
from llmdiff.data.sources.unread_files import UnreadFiles

NOT_DATA = (INFO, "dataset_infos.json", "dataset_dict.json", STATE, *INDEX_NAMES)
"""JSON files that tools leave beside data: descriptions and counts."""
STORE = "store.json"
"""File whose presence makes a folder an encoding store; a store's own tables are no data."""
LOG = "_delta_log"
OF_DELTA = f"a Delta table, of whose files some may be out of use, as {LOG} says: write its rows out as Parquet"
EXPECTED = (
    "a file of .parquet, .arrow, .tar, .jsonl, .csv, .tsv, .txt or .json (text and tar also as .gz, .zst or .bz2), "
    "a folder of such files, or a folder of pictures with captions beside them"
)


BEATEN = "another caption of the same name goes before"
OTHER_TEXT = "a text file beside other data; name it itself to have its lines as captions"


class Listing(NamedTuple):
    """Everything that was found below a path; names are relative to it."""

    files: list[tuple[DataPath, str]]
    """Files of data, and folders whose pictures have their captions beside them, in the order of their names."""
    passed_over: dict[str, str]
    """Names of what looks like data and is not read, with the reason."""
    root: DataPath
    """The path that was listed; a remote one keeps what the listing said."""
    pictures: dict[DataPath, list[str]] = {}
    """Names of pictures by folder, of folders whose pictures a table names."""


class NamedBy(NamedTuple):
    """A table whose rows name the pictures of its folder and of those below."""

    name: str
    captions: bool
    """Whether the table has the pictures' captions."""
    why_not: str
    """Why the table is not read where the captions lie beside the pictures."""


@dataclass
class _Found:
    """A walk's findings so far."""

    columns: Columns
    data: list[tuple[DataPath, str]] = field(default_factory=list)
    if_alone: list[tuple[DataPath, str, str]] = field(default_factory=list)
    """Files that are data only where there is no other data, and why they are not read beside other data."""
    passed_over: dict[str, str] = field(default_factory=dict)
    unread_files: UnreadFiles = field(default_factory=UnreadFiles)
    pictures: dict[DataPath, list[str]] = field(default_factory=dict)
    folders: list[tuple[DataPath, str]] = field(default_factory=list)
    """Folders that hold pictures, with their names."""
    without_pictures: list[tuple[DataPath, str, Naming | None]] = field(default_factory=list)
    """Tables whose captions may be of pictures in another folder; None in place of a `Naming` not yet made."""

    def set_aside(self, table: NamedBy) -> None:
        """Take a table out of the data, and note why."""
        if table.name not in self.passed_over:
            self.data = [each for each in self.data if each[1] != table.name]
            self.passed_over[table.name] = table.why_not

    def look_elsewhere(self) -> None:
        """Set aside the tables whose captions are of pictures in another folder."""
        for table, name, naming in self.without_pictures if self.folders else ():
            named = naming_of(table, self.columns) if naming is None else naming
            if (why := named.why_not_beside(self.folders)) is not None:
                self.set_aside(NamedBy(name, named.captions, why))


def list_data(path: str | DataPath, may_be_empty: bool = False, columns: Columns = KNOWN) -> Listing:
    """List a file, or what a folder holds.

    A folder that is linked is followed. Hidden folders, `TEMPORARY` ones and encoding stores are no data.

    Args:
        path: a path of this machine, or a remote address: see `llmdiff.data.remote.data_path`.
        may_be_empty: whether a folder without data is allowed.
        columns: the chosen ones; the named column of pictures may hold paths.

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
    found.look_elsewhere()
    if found.data:
        found.passed_over |= {name: why for _, name, why in found.if_alone}
    found.passed_over |= found.unread_files.lines()
    files = sorted(found.data or [(file, name) for file, name, _ in found.if_alone], key=lambda item: item[1])
    passed_over = {name: printable(why) for name, why in sorted(found.passed_over.items())}
    if not files and not may_be_empty:
        few = "".join(f"; {name}: {why}" for name, why in list(passed_over.items())[:3])
        raise ValueError(f"{root}: expected {EXPECTED}, found none in it{few}")
    return Listing(files, passed_over, root, found.pictures)


def check_data(path: str | DataPath, may_be_empty: bool = False) -> DataPath:
    """Return the path of data, if it exists, without looking into folders; errors as of `list_data`."""
    root = data_path(path)
    if isinstance(root, RemotePath):
        there = (may_be_empty and not kind_of(root)) or root.facts is not None or root.is_dir()
    else:
        there = root.exists()
    if not there:
        is_pattern = any(sign in str(root) for sign in "*?{")
        pattern = "; no pattern but those of https:// is read: name the folder" if is_pattern else ""
        raise FileNotFoundError(f"{root}: no such file or folder; expected {EXPECTED}{pattern}")
    if root.is_file() and not kind_of(root):
        raise ValueError(f"{root}: expected {EXPECTED}")
    return root


def _walk(folder: DataPath, name: str, above: tuple[DataPath, ...], named_by: NamedBy | None, found: _Found) -> None:
    """Add what a folder holds; `named_by` is a table above it whose rows name pictures."""
    here = printable(f"{name}/") if name else ""
    try:
        entries = sorted(entries_of(folder), key=lambda entry: entry.name)
    except ConnectionError:
        raise
    except OSError as error:
        found.passed_over[here or "."] = f"cannot be read: {error.strerror}"
        return
    names = {entry.name for entry in entries}
    folders, files = [], []
    for entry in entries:
        if is_folder(entry):
            folders.append(entry)
        elif entry.name[0] == ".":
            found.unread_files.hidden(entry.name)
        elif is_special(entry):
            found.passed_over[here + printable(entry.name)] = "a pipe, a socket or a device, and no file"
        else:
            files.append(folder / entry.name)
    if (name and STORE in names) or LOG in names:
        found.passed_over[here or "."] = "an encoding store" if STORE in names else OF_DELTA
        return
    named_by = _add_files(folder, here, files, names, named_by, found, bool(folders))
    for entry in folders:
        inner = folder / entry.name
        if (why := why_no_data(inner, (*above, folder.resolve()))) is not None:
            found.passed_over[f"{here}{printable(entry.name)}/"] = why
        else:
            _walk(inner, f"{here}{entry.name}", (*above, folder.resolve()), named_by, found)


def _add_files(
    folder: DataPath,
    here: str,
    files: list[DataPath],
    names: set[str],
    named_by: NamedBy | None,
    found: _Found,
    has_folders: bool,
) -> NamedBy | None:
    """Add a folder's own files; return the table that names its pictures and those below it, if there is one."""
    files = _chosen(files, found)
    pictures = [file.name for file in files if is_picture(file)]
    found.folders += [(folder, here or "./")] if pictures else []
    stems = caption_stems(pictures)
    found.unread_files.unknown(files)
    texts = [file for file in files if is_text(file)]
    jsons = [file for file in files if file.suffix.lower() == ".json"]
    beside = [file for file in (*texts, *jsons) if file.stem in stems]
    alone = [file for file in texts if file.stem not in stems]
    tables = _tables(folder, here, files, names, bool(pictures or has_folders), found)
    tables += _json_tables(here, [file for file in jsons if file.stem not in stems], found)
    by_table = named_by is not None and named_by.captions
    by_table = by_table or any(naming is not None and naming.pictures and naming.captions for _, _, naming in tables)
    for table, name, naming in tables:
        named_by = _add_table(table, name, naming, bool(beside) or by_table, found) or named_by
    if named_by is not None and not named_by.captions and beside:
        found.set_aside(named_by)
        named_by = None
    if pictures and named_by is None:
        found.data.append((folder, here.removesuffix("/") or "."))
        samples = samples_of(file.name for file in files)
        used = {name for picture, of in samples for name in (found.columns.read_beside(of) if picture else of[:1])}
        others = [file for file in (*alone, *beside) if file.name not in used]
        beaten = "not of the captions that are named" if found.columns.captions else BEATEN
        found.unread_files.add(others, beaten)
        return None
    if pictures:
        found.pictures[folder] = pictures
    if named_by is not None:
        found.unread_files.add(beside, f"{named_by.name} names the pictures; their captions are read there")
    found.unread_files.add([file for file in alone if not kind_of(file)], "a caption without a picture beside it")
    found.if_alone += [(file, here + printable(file.name), OTHER_TEXT) for file in alone if kind_of(file)]
    return named_by


def _chosen(files: list[DataPath], found: _Found) -> list[DataPath]:
    """Return a folder's files without pictures of another ending than the named one, and without their captions."""
    left_out = [file for file in files if found.columns.leaves_out(file)]
    if not left_out:
        return files
    found.unread_files.add(left_out, "pictures of another ending than the one that is named")
    read = [file for file in files if not found.columns.leaves_out(file)]
    if any(map(is_picture, read)):
        return read
    stems = caption_stems(file.name for file in left_out)
    beside = [file for file in read if file.stem in stems and (is_text(file) or file.suffix.lower() == ".json")]
    found.unread_files.add(beside, "captions of pictures that are not read")
    return [file for file in read if file not in beside]


def _tables(
    folder: DataPath, here: str, files: list[DataPath], names: set[str], may_name: bool, found: _Found
) -> list[tuple[DataPath, str, Naming | None]]:
    """Return a folder's tables, except JSON; with `may_name`, also what each says of pictures."""
    tables = [file for file in files if kind_of(file) and not (is_text(file) or file.suffix.lower() == ".json")]
    aside = ignored_tables(folder, tables, names)
    found.passed_over |= {here + printable(name): why for name, why in aside.items()}
    read = [table for table in tables if table.name not in aside]
    return [
        (table, here + printable(table.name), naming_of(table, found.columns) if may_name else None) for table in read
    ]


def _json_tables(here: str, files: list[DataPath], found: _Found) -> list[tuple[DataPath, str, Naming | None]]:
    """Return the JSON files that are tables, with what each says of pictures."""
    tables: list[tuple[DataPath, str, Naming | None]] = []
    for file in files:
        name = here + printable(file.name)
        if file.name in NOT_DATA or file.name.endswith("_stats.json"):
            continue
        try:
            check_fetched(file)
            records = read_records(file)
        except ValueError as error:
            found.passed_over[name] = f"no table: {error}"
            continue
        naming = naming_in(file, records, found.columns)
        if naming.captions or naming.pictures:
            tables.append((file, name, naming))
        elif naming.columns:
            found.if_alone.append(
                (file, name, f"no table: expected captions in its columns: {', '.join(naming.columns)}")
            )
        else:
            found.passed_over[name] = "no table: expected rows with captions, found none"
    return tables


def _add_table(table: DataPath, name: str, looked: Naming | None, has_captions: bool, found: _Found) -> NamedBy | None:
    """Add a table, unless its rows would lack their pictures, or the pictures have captions elsewhere."""
    naming = looked or Naming()
    if naming.pictures and not naming.captions and has_captions:
        found.passed_over[name] = naming.why_other_captions
    elif naming.unknown is not None and naming.captions:
        found.passed_over[name] = naming.why_named_first
    else:
        found.data.append((table, name))
        found.without_pictures += [] if naming.pictures else [(table, name, looked)]
        return NamedBy(name, naming.captions, naming.why_other_captions) if naming.pictures else None
    return None
