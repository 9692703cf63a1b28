"""Arrays that are derived from a store once a machine, and mapped into the memory of all processes that read it.

They lie below ``LLMDIFF_CACHE``, or in the user's cache folder. What is there was made whole, for a folder gets its
name once it is finished. Its checksums are compared when it is first opened after the machine was started, and
whenever a file was written to since; what is damaged is made again.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from storage.hashing import canonical_json, checksum, content_hash
from storage.io.cache_folder import VARIABLE, cache_folder
from storage.io.files import locked

logger = logging.getLogger(__name__)
CONTENTS = "contents.json"
PART = 8 * 1024 * 1024
"""Bytes of a part that has a checksum of its own: several are compared at once."""
UNUSED_DAYS = 30
"""Days after which what nobody has opened is removed, when something is made."""


@dataclass(frozen=True)
class CachedArrays:
    """Arrays that all processes of a machine share, and what is known of them."""

    arrays: Mapping[str, np.ndarray]
    """Read-only, mapped from their files."""
    facts: Mapping[str, Any]
    """Plain JSON values."""


Make = Callable[[Path], dict[str, Any]]
"""Function that writes arrays into a folder, each made by `new_array`, and returns the facts."""
UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
"""Errors of a folder that may not be written to, or where files can't be locked."""


def cached(kind: str, key: Mapping[str, Any], make: Make) -> CachedArrays:
    """Return what was derived under a key, after making it if need be: in one process, while others wait for it.

    Args:
        kind: name of the folder that such things lie in.
        key: plain JSON values that decide the content.
        make: see `Make`.

    Raises:
        OSError: there is no room for it.
    """
    folder = _folder(kind, key)
    if (found := _open(folder)) is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f"{folder.name}.lock")):
            return _open(folder) or _make(folder, make)
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        logger.warning("%s; each process makes its own in %s", error, tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="llmdiff-") as own:  # the mapped files live on without their names
        return _make(Path(own) / kind, make)


def is_cached(kind: str, key: Mapping[str, Any]) -> bool:
    """Return whether something was derived under a key; `cached` says whether it is whole."""
    return (_folder(kind, key) / CONTENTS).exists()


def forget(kind: str, key: Mapping[str, Any]) -> None:
    """Remove what was derived under a key, where it is there; who has it open keeps it."""
    shutil.rmtree(_folder(kind, key), ignore_errors=True)


def new_array(folder: Path, name: str, count: int, dtype: DTypeLike) -> np.ndarray:
    """Return a new array of so many zeros, mapped from ``<name>.npy``; OSError where there is no room for it.

    Its blocks are taken at once: a disk that is full later would end the process without a word.
    """
    path = folder / f"{name}.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=(count,))
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(1, path.stat().st_size))
        except OSError as error:
            found = f"{error.strerror}: an index of {path.stat().st_size} bytes; {VARIABLE} names another folder"
            raise OSError(error.errno, found, str(path)) from error
    return np.asarray(array)


def _folder(kind: str, key: Mapping[str, Any]) -> Path:
    return cache_folder() / kind / content_hash(canonical_json(key).encode())


def _make(folder: Path, make: Make) -> CachedArrays:
    _remove_unused(folder.parent)
    new = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.new")
    new.mkdir()
    try:
        facts = make(new)
        contents: dict[str, Any] = {
            "facts": facts,
            "parts": {path.name: _checksums(path) for path in sorted(new.glob("*.npy"))},
        }
        contents["crc32c"] = checksum(canonical_json(contents).encode())
        (new / CONTENTS).write_text(json.dumps(contents))
        with suppress(OSError):
            (new / _stamp()).write_text(_facts(new, contents["parts"]))
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    if (made := _open(folder)) is None:
        raise OSError(f"{folder}: expected what was written there a moment ago, found other bytes")
    return made


def _open(folder: Path) -> CachedArrays | None:
    """Return the arrays in a folder; None where they are not there, or not as they were made."""
    try:
        contents = json.loads((folder / CONTENTS).read_bytes())
        expected = contents.pop("crc32c")
        parts = contents["parts"]
        if checksum(canonical_json(contents).encode()) == expected and _is_whole(folder, parts):
            arrays = {Path(name).stem: _mapped(folder / name) for name in parts}
            with suppress(OSError):
                os.utime(folder / CONTENTS)
            return CachedArrays(arrays, contents["facts"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError):
        pass
    logger.warning("%s: not as it was made; it is made again", folder)
    return None


def _is_whole(folder: Path, parts: Mapping[str, list[int]]) -> bool:
    """Return whether files are as they were made: compared since the machine was started, and not written to since."""
    stamp, facts = folder / _stamp(), _facts(folder, parts)
    with suppress(OSError):
        if stamp.read_text() == facts:
            return True
    whole = all(_checksums(folder / name) == found for name, found in parts.items())
    if whole:
        with suppress(OSError):
            stamp.write_text(facts)
    return whole


def _facts(folder: Path, names: Iterable[str]) -> str:
    """Return facts that change where a file was written to, cut, or put in another's place."""
    found = {name: (folder / name).stat() for name in sorted(names)}
    return json.dumps({name: [each.st_size, each.st_mtime_ns, each.st_ino] for name, each in found.items()})


def _stamp() -> str:
    """Return the name of the file that says what was compared on this machine since it was started."""
    return f"checked-{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"


def _mapped(path: Path) -> np.ndarray:
    return np.asarray(np.lib.format.open_memmap(path, mode="r"))


def _checksums(path: Path) -> list[int]:
    """Return the CRC-32C of each part of a file."""
    starts = range(0, path.stat().st_size, PART)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda start: _checksum(path, start), starts))


def _checksum(path: Path, start: int) -> int:
    with path.open("rb") as file:
        file.seek(start)
        return checksum(file.read(PART))


def _remove_unused(parent: Path) -> None:
    """Remove what nobody has opened for long, and what was left half-made: living readers keep their mapped files."""
    for path in parent.iterdir() if parent.is_dir() else ():
        with suppress(OSError):
            seen = (path / CONTENTS if (path / CONTENTS).exists() else path).stat().st_mtime
            if path.is_dir() and time.time() - seen > UNUSED_DAYS * 86400:
                shutil.rmtree(path)
