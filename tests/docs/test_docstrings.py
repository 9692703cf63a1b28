"""Docstrings can be read without the code, and files and classes keep to the sizes that CONTRIBUTING.md states."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.pages import ROOT

PACKAGES = ("llmdiff", "kernels", ".ci", "storage", "infra", "pipelines", "integrations", "benchmarks", "tests")
"""Packages whose docstrings are checked."""
RIDDLES = ("Of", "As", "By", "The same", "Do the same", "The other way")
"""Beginnings of docstrings that leave out what they speak of."""
SIZED = ("llmdiff", "kernels", ".ci", "storage", "infra", "pipelines", "integrations", "benchmarks")
"""Packages whose files and classes are measured."""


def modules(packages: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of every module of some packages."""
    for path in sorted(path for package in packages for path in (ROOT / package).rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), path.read_text()


def riddles(text: str) -> list[tuple[int, str]]:
    """Return the line and the first line of text of each docstring that begins as a riddle does.

    The docstrings of modules, classes, functions, constants and attributes are the strings that begin a line.
    """
    begins = re.compile(rf'^[ \t]*r?"""[ \t]*((?:{"|".join(RIDDLES)})\b.*)', re.MULTILINE)
    return [(text.count("\n", 0, found.start()) + 1, found[1]) for found in begins.finditer(text)]


def test_no_docstring_begins_with_what_it_leaves_out() -> None:
    found = [f"{name}:{line}: {first}" for name, text in modules(PACKAGES) for line, first in riddles(text)]
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
    assert len(riddles(code)) == 1


def test_words_that_only_begin_alike_are_no_riddles() -> None:
    assert riddles('"""Assign ranks."""\nBYTES = 1\n"""Bytes of a block."""\nB = 2\n"""Offsets."""') == []


def limits() -> tuple[int, int]:
    """Return the most lines of a file and of a class, as CONTRIBUTING.md states them."""
    found = re.search(r"A file has at most (\d+) lines, a class at most (\d+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert found is not None
    return int(found[1]), int(found[2])


def classes(text: str) -> Iterator[tuple[str, int]]:
    """Yield the name of every class and its number of lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_files_and_classes_keep_to_the_stated_sizes() -> None:
    of_file, of_class = limits()
    long = []
    for name, text in modules(SIZED):
        if (lines := len(text.splitlines())) > of_file:
            long.append(f"{name}: {lines} lines")
        if lines > of_class:
            long += [f"{name}: class {each}: {size} lines" for each, size in classes(text) if size > of_class]
    assert long == []
