"""Folders named as kohya's trainers read them: ``10_name/``, whose pictures are to come ten times an epoch.

A number before a name may as well be a size or a year, so nothing follows from it unless a setting of training says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

FOLDER = re.compile(r"(?:.*/)?(\d+)_[^/]*/(?:\[\d+:\d+\])?")
"""A source that is a folder of pictures, or a part of one: ``train/10_name/[0:4096]``."""


def folder_repeats(sources: Iterable[str]) -> dict[str, int]:
    """Return the number before the name of each source that is such a folder, by source."""
    found = {source: FOLDER.fullmatch(source) for source in sources}
    return {source: int(match[1]) for source, match in sorted(found.items()) if match}


def in_words(repeats: dict[str, int]) -> str:
    """Return the first few folders with their numbers, in words."""
    few = [f"{source} {times}" for source, times in list(repeats.items())[:5]]
    return ", ".join([*few, *[f"{len(repeats) - 5} more"] * (len(repeats) > 5)])
