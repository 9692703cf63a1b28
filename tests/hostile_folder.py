"""A user's folder with packages of the names of ours, which hide ours where Python looks for modules in it."""

from __future__ import annotations

from pathlib import Path


def hostile_folder(parent: Path) -> Path:
    """Make such a folder."""
    folder = parent / "project"
    for name in ("infra", "kernels", "llmdiff", "pipelines", "prefect", "storage"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise ImportError('not the package that was meant')\n")
    return folder
