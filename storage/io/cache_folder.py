"""The folder where a machine keeps what it derives from stores, so as not to derive it again."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "LLMDIFF_CACHE"


def cache_folder() -> Path:
    """Return the folder of derived files: ``LLMDIFF_CACHE``, or ``llmdiff`` in the user's cache folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmdiff"
