"""Find files by the names that tables give them, which may be spelled otherwise."""

from __future__ import annotations

import unicodedata
from typing import Any, TypeGuard

from llmdiff.data.remote import DataPath, RemotePath


def is_url(cell: Any) -> TypeGuard[str]:
    """Return whether a cell of a table is an address, and no file's name."""
    return isinstance(cell, str) and "://" in cell


def is_there(folder: DataPath, name: str) -> bool:
    """Return whether there is such a file; for a remote one, whether a listing has it."""
    if isinstance(folder, RemotePath):
        file = folder.listed(name)
        return file.parent.holds(file.name)
    return (folder / name).is_file()


def spelled(folder: DataPath, name: str) -> str:
    """Return a name as the file below a folder spells it; the name as given where there is no such file.

    Windows writes ``a\\1.png``, and of letters with accents macOS makes two characters where others have one. There may
    be blanks around it, after a comma.
    """
    if name.isascii() and "\\" not in name and name == name.strip():
        return name
    path = name.strip().replace("\\", "/")
    forms = (name, path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD")))
    try:
        return next((each for each in dict.fromkeys(forms) if is_there(folder, each)), name)
    except ConnectionError:
        raise
    except (OSError, ValueError):  # not a valid file name
        return name
