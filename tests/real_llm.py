"""The real LLM of the tests: SmolLM2-135M-Instruct, a Llama of 30 blocks and width 576, as a folder of safetensors."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "LLMDIFF_SMOLLM2"


def location() -> Path:
    """Return the folder where it is looked for: ``$LLMDIFF_SMOLLM2``, else ``~/.cache/llmdiff/smollm2``."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path.home() / ".cache/llmdiff/smollm2"
