"""The package's own front door."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import llmdiff


@pytest.mark.process
def test_importing_the_package_brings_nothing_heavy() -> None:
    code = "import sys, llmdiff; print(sorted({'torch', 'diffusers', 'transformers', 'storage'} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", llmdiff.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(llmdiff, name) is not None


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = llmdiff.colour
