"""A command whose extra is missing says which to install; the table of them is pyproject.toml's."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

from llmdiff.extras import PACKAGES, missing_extra, require
from pipelines.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def listed(extra: str) -> set[str]:
    return {re.split(r"[^a-z0-9.-]", line.lower())[0] for line in EXTRAS[extra]}


def test_each_package_is_in_the_extra_that_the_table_names() -> None:
    names = importlib.metadata.packages_distributions()
    for package, (_, extra) in PACKAGES.items():
        distributions = {name.lower().replace("_", "-") for name in names.get(package, [package])}  # not all are here
        assert listed(extra) & distributions, package


def test_what_no_extra_brings_is_left_to_python() -> None:
    assert missing_extra(ModuleNotFoundError("No module named 'zarr.nothing'", name="zarr.nothing")) is None
    assert missing_extra(ModuleNotFoundError("No module named 'torch'", name="torch")) is None


def test_require_asks_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torchmetrics", raising=False)
    require("torchmetrics")
    assert "torchmetrics" not in sys.modules
    monkeypatch.setitem(sys.modules, "torchmetrics", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match="torchmetrics") as error:
        require("torchmetrics")
    assert missing_extra(error.value) == "this needs TorchMetrics: pip install 'llmdiff[pipelines]'"


@pytest.mark.parametrize(
    "command",
    [
        ["demo"],
        ["encode", "--data", "x", "--store", "x"],
        ["train", "--store", "x", "--diffusion", "x"],
        ["generate", "--prompt", "x"],
    ],
)
def test_a_command_says_which_extra_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "prefect", None)  # as if it were not installed
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: this needs Prefect: pip install 'llmdiff[pipelines]'\n"
