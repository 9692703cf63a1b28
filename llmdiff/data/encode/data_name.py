"""The name by which a store knows a data set."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from llmdiff.data.remote import is_remote, shown
from llmdiff.data.sources import Columns
from llmdiff.data.sources.columns import CAPTION_OPTION, IMAGE_OPTION, KNOWN, LINES_OPTION


def data_name(data: str, columns: Columns = KNOWN) -> str:
    """Return a data set's name in a store: one for all spellings of its address, another for other columns.

    Args:
        data: file, folder or address, as it was given.
        columns: the chosen ones. A picture may have another caption in each, and one edits no row of another.

    Returns:
        An absolute path, or an address without its secrets; then the options that chose columns, where some did.
    """
    where = _address(data) if is_remote(data) else str(Path(data).resolve())
    return shlex.join([where, *options]) if (options := _options(columns)) else where


def _address(data: str) -> str:
    """Return the normal spelling of an address: the scheme in small letters, no slash at the end."""
    if data.startswith("hf:") and not data.startswith("hf://"):
        repository = data.removeprefix("hf:")
        return data if ":" in repository else f"hf://datasets/{repository}"  # a split's name is kept, as it is no path
    lower = re.sub(r"^\w+://", lambda found: found[0].lower(), shown(data))
    several = lower.split() if lower.startswith("http") else [lower]
    return " ".join(each.rstrip("/") for each in several)


def _options(columns: Columns) -> list[str]:
    """Return the options of the command line that choose columns; the case of names does not matter."""
    chosen = [part for name in columns.captions for part in (CAPTION_OPTION, name.lower())]
    chosen += [IMAGE_OPTION, columns.image.lower()] if columns.image is not None else []
    chosen += ["--every-caption"] * (columns.every and bool(chosen))
    return [*chosen, *[LINES_OPTION] * columns.lines]
