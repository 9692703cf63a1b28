"""Docstrings can be read without the code, and files and classes keep to the sizes that CONTRIBUTING.md states."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

PACKAGES = ("llmdiff", "kernels", ".ci", "storage", "infra", "pipelines", "integrations", "benchmarks", "tests")
"""Packages whose docstrings are checked."""
RIDDLES = ("Of", "As", "By", "The same", "Do the same", "The other way")
"""Beginnings of docstrings that leave out what they speak of."""
SIZED = ("llmdiff", "kernels", ".ci", "storage", "infra", "pipelines", "integrations", "benchmarks")
"""Packages whose files and classes are measured."""


def modules(packages: tuple[str, ...]) -> Iterator[tuple[str, ast.Module]]:
    """Yield the path and the syntax tree of every module of some packages."""
    for path in sorted(path for package in packages for path in (ROOT / package).rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), parsed(path)


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a module, which more than one test reads."""
    return ast.parse(path.read_text())


def docstrings(module: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every docstring: of modules, classes, functions, constants and attributes."""
    for node in ast.walk(module):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value.strip()


def riddles(module: ast.AST) -> list[tuple[int, str]]:
    """Return the line and the first line of text of each docstring that begins as a riddle does."""
    begins = re.compile(rf"({'|'.join(RIDDLES)})\b")
    return [(line, text.splitlines()[0]) for line, text in docstrings(module) if begins.match(text)]


def test_no_docstring_begins_with_what_it_leaves_out() -> None:
    found = [f"{name}:{line}: {text}" for name, module in modules(PACKAGES) for line, text in riddles(module)]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        '"""Of a run that begins."""',
        'LIMIT = 3\n"""As many as fit."""',
        'class A:\n    size: int = 0\n    """By shard."""',
        'def f():\n    """The same of a folder."""',
        'class A:\n    def f(self):\n        """Do the same for all."""',
        'async def f():\n    """The other way round."""',
    ],
)
def test_a_riddle_is_found_wherever_a_docstring_stands(code: str) -> None:
    assert len(riddles(ast.parse(code))) == 1


def test_words_that_only_begin_alike_are_no_riddles() -> None:
    assert riddles(ast.parse('"""Assign ranks."""\nBYTES = 1\n"""Bytes of a block."""\nB = 2\n"""Offsets."""')) == []


def limits() -> tuple[int, int]:
    """Return the most lines of a file and of a class, as CONTRIBUTING.md states them."""
    found = re.search(r"A file has at most (\d+) lines, a class at most (\d+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert found is not None
    return int(found[1]), int(found[2])


def classes(module: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the name of every class and its number of lines."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_files_and_classes_keep_to_the_stated_sizes() -> None:
    of_file, of_class = limits()
    long = []
    for name, module in modules(SIZED):
        if (lines := len((ROOT / name).read_text().splitlines())) > of_file:
            long.append(f"{name}: {lines} lines")
        long += [f"{name}: class {each}: {size} lines" for each, size in classes(module) if size > of_class]
    assert long == []
