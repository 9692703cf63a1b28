"""The folder of SmolLM2-135M-Instruct, the small published LLM of studies and tests, if this machine has it."""

from __future__ import annotations

import os
from pathlib import Path

NAME = "SmolLM2-135M-Instruct"
VARIABLE = "LLMDIFF_SMOLLM2"
"""The environment variable that names its folder."""


def location() -> Path:
    """Return the folder where it is looked for: ``$LLMDIFF_SMOLLM2``, else ``~/.cache/llmdiff/smollm2``."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "llmdiff" / "smollm2")


def is_there(folder: Path) -> bool:
    """Return whether the folder holds an LLM."""
    return (folder / "config.json").is_file()
