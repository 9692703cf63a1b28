"""The package `kernels` of the Python package index beside ours: an error that says what to do, whichever is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process
ROOT = Path(__file__).resolve().parents[2]
BARE = [sys.executable, "-S", "-c"]  # without the environment's own packages, our editable install among them
PACKAGES = next(path for path in sys.path if path.endswith("site-packages"))


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder that holds another distribution of the name."""
    folder = tmp_path / "theirs"
    (folder / "kernels").mkdir(parents=True)
    (folder / "kernels" / "__init__.py").write_text("def get_kernel(): ...\n")
    (folder / "kernels-0.18.2.dist-info").mkdir()
    (folder / "kernels-0.18.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n"
    )
    return folder


def last_line(code: str, *path: Path | str) -> str:
    """What a program says at its end that finds packages on a path alone."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run([*BARE, code], env=env, capture_output=True, text=True, cwd="/")
    return (done.stdout + done.stderr).strip().splitlines()[-1]


@pytest.mark.parametrize("code", ["import kernels", "import kernels.langevin", "import llmdiff.encoder"])
def test_ours_refuses_to_hide_the_other(theirs: Path, code: str) -> None:
    line = last_line(code, ROOT, theirs, PACKAGES)
    assert line.startswith("ImportError: expected llmdiff's own kernels alone, found the package `kernels` 0.18.2")
    assert "pip uninstall kernels" in line


def test_transformers_would_take_ours_for_the_other_and_is_stopped(theirs: Path) -> None:
    line = last_line("import transformers.modeling_utils", ROOT, theirs, PACKAGES)
    assert "pip uninstall kernels" in line


@pytest.mark.parametrize("name", ["Encoder", "EncoderConfig"])
def test_ours_hidden_by_the_other_is_told(theirs: Path, name: str) -> None:
    line = last_line(f"from llmdiff import {name}", theirs, ROOT, PACKAGES)
    assert line.startswith("ImportError: expected llmdiff's own kernels, found another package of the name")
    assert "No module named 'kernels.langevin'" in line
    assert "pip uninstall kernels" in line


def test_the_other_installed_over_ours_is_told(theirs: Path, tmp_path: Path) -> None:
    both = tmp_path / "site"
    for name in ("kernels", "llmdiff"):
        shutil.copytree(ROOT / name, both / name, ignore=shutil.ignore_patterns("weights"))
    shutil.copytree(theirs, both, dirs_exist_ok=True)
    assert "found the package `kernels` 0.18.2" in last_line("import llmdiff.encoder", both, PACKAGES)


@pytest.mark.parametrize("ours_first", [True, False])
def test_doctor_tells_both_orders(theirs: Path, ours_first: bool) -> None:
    code = "from pipelines.cli.doctor import kernels; print(*kernels())"
    order = (ROOT, theirs) if ours_first else (theirs, ROOT)
    line = last_line(code, *order, PACKAGES)
    found = " alone, found the package `kernels` 0.18.2" if ours_first else ", found another package of the name"
    assert line.startswith(f"kernels False expected llmdiff's own kernels{found}")
    assert "pip uninstall kernels" in line


def test_alone_nothing_is_said() -> None:
    code = "import kernels.langevin; from pipelines.cli.doctor import kernels; print(*kernels())"
    assert last_line(code, ROOT, PACKAGES) == "kernels True no other package of that name"
