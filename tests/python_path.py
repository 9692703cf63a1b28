"""The folder where the Python processes that tests start look for modules first."""

from __future__ import annotations

import os
from pathlib import Path

EVERY_PROCESS = str(Path(__file__).with_name("every_process"))
"""A folder whose `sitecustomize.py` each of those processes imports."""


def python_path(*folders: str | Path) -> str:
    """Return a PYTHONPATH of folders, with what every process of the tests imports."""
    return os.pathsep.join([*map(str, folders), EVERY_PROCESS])
