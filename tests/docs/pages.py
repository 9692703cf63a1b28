"""The pages of the docs as the tests read them: links, headings, code blocks, commands, inline code."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "integrations/comfyui/README.md")
PAGES = [ROOT / name for name in TOP] + sorted(DOCS.rglob("*.md"))
HISTORY = ROOT / "CHANGELOG.md"
"""The changelog, which names what is gone, too."""

BLOCK = re.compile(r"^(```+)([\w-]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
PLACEHOLDER = re.compile(r"<[^<>]*>|\$\w+")
ASSIGNMENT = re.compile(r"\w+=.*")


class Shown(NamedTuple):
    """Something that a page shows, and the page that shows it."""

    page: str
    text: str


def name_of(page: Path) -> str:
    """Return the page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return BLOCK.sub("", page.read_text())


def links(page: Path) -> list[str]:
    """Return where the links and pictures of a page lead."""
    return LINK.findall(SPAN.sub("", prose(page)))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as mkdocs and GitHub make them."""
    return {slug(heading) for heading in HEADING.findall(prose(page))}


def slug(heading: str) -> str:
    """Return a heading in lower case, without punctuation, with hyphens for spaces."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """Yield the code blocks of a page in some languages; "" is a block that names none."""
    for _, language, text in BLOCK.findall(page.read_text()):
        if language in languages:
            yield text


def spans(page: Path) -> list[str]:
    """Return the inline code of a page."""
    return SPAN.findall(prose(page))


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the commands of a shell block as words, with 1 for each placeholder and variable, and without comments."""
    joined = PLACEHOLDER.sub("1", text.replace("\\\n", " "))
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if set(word) <= set("|;&"):
                yield words
                words = []
            else:
                words.append(word)
        yield words


def llmdiff_commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of ``llmdiff`` in a shell block, quoted scripts included."""
    for words in command_lines(text):
        own = list(itertools.dropwhile(ASSIGNMENT.fullmatch, words))
        if own and own[0].rpartition("/")[2] == "llmdiff":
            yield own[1:]
        for script in words[1:]:
            if re.search(r"(^|/)llmdiff ", script):
                yield from llmdiff_commands(script)
