"""One page of studies in Markdown: `docs/studies.md`, and the page of the paper's three first experiments."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import jinja2

from pipelines.requests.study import StudyName
from pipelines.studies.catalogue import CATALOGUE, EXPERIMENTS
from pipelines.studies.outcome import BY_LLM, FINDING, PLOT, SUMMARY, TABLE, read_result

TEMPLATES = {"docs": "studies.md.jinja", "paper": "paper.md.jinja"}


def write_docs(output: Path, docs: Path) -> Path:
    """Write ``studies.md`` and ``studies/*.png`` below a folder from what the studies left."""
    return write_page("docs", output, CATALOGUE, docs / "studies.md", docs / "studies")


def write_paper(output: Path) -> Path:
    """Write ``paper/page.md`` with its pictures into the folder of studies."""
    return write_page("paper", output, EXPERIMENTS, output / "paper" / "page.md", output / "paper")


def write_page(template: str, output: Path, names: Iterable[StudyName], page: Path, pictures: Path) -> Path:
    """Fill a template, and copy the pictures that it links; ValueError where no study has run."""
    studies = {name: read_studies(output, name) for name in names}
    if not any(studies.values()):
        raise ValueError(f"{output}: expected results of some study, found none: run `llmdiff study list`")
    pictures.mkdir(parents=True, exist_ok=True)
    for study in chain.from_iterable(studies.values()):
        shutil.copyfile(study["folder"] / PLOT, pictures / f"{study['slug']}.png")
    folder = pictures.relative_to(page.parent).as_posix()
    source = Path(__file__).with_name(TEMPLATES[template]).read_text()
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)

    def section(name: StudyName) -> str:
        """Return a study's finding, picture and table; below them, those on other LLMs."""
        found = [text_of(study, "" if folder == "." else f"{folder}/") for study in studies[name]]
        if not found or ("llm" in studies[name][0] and not CATALOGUE[name].alone):
            found.insert(0, f"Not run yet: `llmdiff study {name}`.\n")
        return "\n".join(found)

    filled = environment.from_string(source).render(studies=studies, catalogue=CATALOGUE, section=section)
    page.write_text(f"{filled.rstrip()}\n")
    return page


def read_studies(output: Path, name: str) -> list[dict[str, Any]]:
    """Return what a study left: with the embedded LLM, then with others, by name."""
    folders = [output / name, *sorted((output / BY_LLM).glob(f"*/{name}"))]
    return [found for folder in folders if (found := read_study(folder)) is not None]


def read_study(folder: Path) -> dict[str, Any] | None:
    """Return what a study left in a folder, its tables and finding as texts; None where it has not run."""
    result = read_result(folder)
    if result is None:
        return None
    files = {"table": TABLE, "summary": SUMMARY, "finding_text": FINDING}
    if not (folder / SUMMARY).exists():
        raise ValueError(f"{folder}: expected {SUMMARY}, found none: `llmdiff study {result['study']}` writes it anew")
    texts = {key: (folder / file).read_text() for key, file in files.items()}
    title = f"{result['study']} on {result['llm']['name']}" if "llm" in result else result["study"]
    return {**result, **texts, "folder": folder, "title": title, "slug": slug(title)}


def slug(title: str) -> str:
    """Return a title as the name of its picture, and as pages make it the link to it."""
    return re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")


def text_of(study: dict[str, Any], folder: str) -> str:
    """Return a study's finding, tables and picture in Markdown; on another LLM than the embedded one, with a heading.

    The table of all figures is folded up.
    """
    picture = f"![{study['title']}]({folder}{study['slug']}.png)"
    text = "\n".join([study["finding_text"], study["summary"], picture, "", folded(study["table"])])
    if "llm" not in study:
        return text
    sizes, template = study["sizes"], study["llm"]["template"]
    about = f"`{template}` as template, {sizes['pictures']} pictures, {sizes['steps']} steps, {sizes['scenes']} scenes."
    return f"### {study['title']}\n\nWith {about}\n\n{text}"


def folded(table: str) -> str:
    """Return a table as HTML within Markdown that shows it when it is asked for."""
    return f"<details markdown>\n<summary>All figures</summary>\n\n{table}\n</details>\n"
