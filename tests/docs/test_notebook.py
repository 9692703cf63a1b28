"""The notebook of the docs: its cells run one after the other, with fewer steps, and at the end there are pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.process
def test_the_notebook_runs_from_ten_pictures_to_the_first_drawn_ones(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())
    code = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert "steps=40," in code
    code = code.replace("steps=40,", "steps=3, threads=1,")
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "10 rows, 0 rejected" in done.stdout
    grid = np.asarray(Image.open(tmp_path / "tutorial" / "first.png"))
    assert len(np.unique(grid.reshape(-1, 3), axis=0)) > 100
