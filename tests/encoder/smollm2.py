"""A real LLM, SmolLM2-135M-Instruct, where the machine has it: `LLMDIFF_SMOLLM2` names its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("LLMDIFF_SMOLLM2") or Path.home() / ".cache" / "llmdiff" / "smollm2")
needs_smollm2 = pytest.mark.skipif(
    not (FOLDER / "config.json").is_file(), reason=f"SmolLM2 is not in {FOLDER}: set LLMDIFF_SMOLLM2 to its folder"
)
