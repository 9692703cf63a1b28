"""The reference says what the code says: generated pages, reasons, metrics, imports, the version."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import yaml

from llmdiff.data.rejects import Reason
from llmdiff.evaluation.distances import DISTANCES
from llmdiff.evaluation.metrics import METRICS
from tests.docs.deployments import DEPLOYMENTS
from tests.docs.pages import DOCS, PAGES, ROOT, blocks, name_of

REFUSALS = ("BadRow", "BadCaption")
OWN = ("llmdiff", "storage", "kernels", "infra", "pipelines")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_generate"] = module
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_those_of_the_code(generate: ModuleType) -> None:
    stale = [name_of(path) for path, text in generate.pages().items() if path.read_text() != text]
    assert stale == [], "run `make docs`"


def test_every_deployment_has_its_section() -> None:
    page = (DOCS / "reference" / "deployments.md").read_text()
    assert [line.removeprefix("## ") for line in page.splitlines() if "/default" in line and line[:2] == "##"] == [
        *DEPLOYMENTS
    ]


def first_cells(page: Path) -> list[str]:
    """Return the code in the first cells of a page's tables."""
    rows = [line.split("|")[1].strip() for line in page.read_text().splitlines() if line.startswith("| `")]
    return [cell.strip("`") for cell in rows]


def test_every_reject_reason_is_explained_and_every_explained_one_is_given() -> None:
    given = {reason for file in (ROOT / "llmdiff").rglob("*.py") for reason in reasons_in(ast.parse(file.read_text()))}
    assert {"no_answer", "not_finite", "too_small"} <= given
    assert set(first_cells(DOCS / "reference" / "reject-reasons.md")) == given == set(get_args(Reason))


def reasons_in(tree: ast.Module) -> set[str]:
    """Return the reasons that some code refuses rows with: first arguments of refusals, names looked up in the file."""
    values: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values.setdefault(node.targets[0].id, set()).update(texts_in(node.value))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REFUSALS and node.args:
            reason = node.args[0]
            found |= values.get(reason.id, set()) if isinstance(reason, ast.Name) else texts_in(reason)
    return found


def texts_in(node: ast.expr) -> set[str]:
    """Return a text, or either of two."""
    if isinstance(node, ast.IfExp):
        return texts_in(node.body) | texts_in(node.orelse)
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def test_every_metric_is_explained() -> None:
    rows = first_cells(DOCS / "reference" / "metrics.md")
    assert set(rows[: len(METRICS) + len(DISTANCES)]) == {*METRICS, *DISTANCES}


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=name_of)
def test_every_name_that_a_page_imports_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OWN:
                module = importlib.import_module(node.module or "")
                assert [one.name for one in node.names if not hasattr(module, one.name)] == []
            if isinstance(node, ast.Import):
                assert [one.name for one in node.names if importlib.util.find_spec(one.name) is None] == []


def test_the_api_pages_name_what_there_is() -> None:
    shown = [pair for page in (DOCS / "reference" / "api").glob("*.md") for pair in shown_objects(page.read_text())]
    assert any(members for _, members in shown)
    for name, members in shown:
        there = find_object(name)
        assert [member for member in members if not hasattr(there, member)] == [], name


def shown_objects(page: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each object that a page shows, and the members that it chooses."""
    for name, options in re.findall(r"^::: (\S+)\n((?: +\S.*\n)*)", f"{page}\n", re.MULTILINE):
        found = yaml.safe_load(options) or {}
        members = found.get("options", {}).get("members", [])
        yield name, members if isinstance(members, list) else []


def find_object(name: str) -> Any:
    """Return a module, or an attribute of one."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


def test_the_citation_names_the_software_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["title"], citation["license"]) == ("llmdiff", "Apache-2.0")
    assert citation["preferred-citation"]["title"] in (ROOT / "README.md").read_text().replace("\n", " ")
