"""What the environment must hold, and must not."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import kernels
import llmdiff

ROOT = Path(__file__).resolve().parents[2]


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (name for extra in project["optional-dependencies"].values() for name in extra)
    return [*project["dependencies"], *(name for name in extras if not name.startswith("llmdiff["))]


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")


def test_no_other_package_is_named_kernels() -> None:
    assert Path(kernels.__file__).is_relative_to(ROOT)
    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    assert "kernels" not in installed
    import diffusers  # noqa: F401 runs without that package
    import transformers  # noqa: F401


def test_every_requirement_is_pinned_and_installed_as_pinned() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = {name_of(line): line.split("==")[1] for line in lines}
    installed = {name_of(distribution.metadata["Name"]) for distribution in importlib.metadata.distributions()}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for requirement in requirements():
        name = name_of(requirement)
        if requirement in extras["quantized"] and name not in installed:
            assert name in pins  # the one extra that `make` does not install: its tests skip without it
            continue
        assert importlib.metadata.version(name).split("+")[0] == pins[name]


def test_the_version_has_one_source() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "llmdiff.__version__"}
    assert importlib.metadata.version("llmdiff") == llmdiff.__version__


def test_packages_know_their_own_data() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package, patterns in data.items():
        folder = ROOT / package.replace(".", "/")
        kept = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
        other = {path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".md")}
        assert other <= kept
