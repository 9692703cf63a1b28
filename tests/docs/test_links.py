"""Every link of README, CONTRIBUTING, CHANGELOG and docs leads to a file and a heading that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import DOCS, HISTORY, PAGES, ROOT, anchors, links, name_of, slug, spans

FOLDERS = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
CODE = ("kernels", "storage", "llmdiff", "infra", "pipelines", "integrations", "benchmarks")
LEFT_BY_RUNS = ("runs/", "site/")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_internal_link_resolves(page: Path) -> None:
    lost = []
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            lost.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target):
            lost.append(f"{link}: no such heading; expected one of {', '.join(sorted(anchors(target)))}")
        elif DOCS in page.parents and DOCS not in target.parents:
            lost.append(f"{link}: not below docs, so the site has no such page")
    assert lost == []


def test_anchors_are_those_of_mkdocs() -> None:
    from markdown.extensions.toc import slugify

    for heading in ("Words of the store", "Ray and clusters", "encode/default", "What follows", "`x` and 2 * y: a, b"):
        assert slug(heading) == slugify(heading, "-")


def test_the_menu_has_every_page_once() -> None:
    listed: list[str] = []

    def walk(node: object) -> None:
        if isinstance(node, str):
            listed.append(node)
        elif isinstance(node, list):
            for one in node:
                walk(one)
        elif isinstance(node, dict):
            for one in node.values():
                walk(one)

    walk(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=name_of)
def test_every_path_of_the_repository_exists(page: Path) -> None:
    named = {span.split()[0].rstrip(":") for span in spans(page) if span.startswith(FOLDERS)}
    paths = [path for path in named if not path.startswith(LEFT_BY_RUNS) and "*" not in path]
    assert [path for path in sorted(paths) if not (ROOT / path).exists() and not (DOCS / path).exists()] == []


def test_every_page_that_the_code_names_exists() -> None:
    named = {
        (file.relative_to(ROOT).as_posix(), name)
        for folder in CODE
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".yaml", ".json", ".jinja", ".sbatch") and "weights" not in file.parts
        for name in re.findall(r"\bdocs/[\w/.-]+\.md\b", file.read_text())
    }
    assert named
    assert sorted((file, name) for file, name in named if not (ROOT / name).exists()) == []


def test_the_readme_is_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
