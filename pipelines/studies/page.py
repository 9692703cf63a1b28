"""One page of studies in Markdown: `docs/studies.md`, and the page of the paper's three first experiments."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2

from pipelines.studies.catalogue import CATALOGUE, EXPERIMENTS
from pipelines.studies.outcome import FINDING, PLOT, TABLE, read_result

TEMPLATES = {"docs": "studies.md.jinja", "paper": "paper.md.jinja"}


def write_docs(output: Path, docs: Path) -> Path:
    """Writes ``studies.md`` and ``studies/*.png`` below a folder from what the studies left."""
    return write_page("docs", output, CATALOGUE, docs / "studies.md", docs / "studies")


def write_paper(output: Path) -> Path:
    """Writes ``paper/page.md`` with its pictures into the folder of studies."""
    return write_page("paper", output, EXPERIMENTS, output / "paper" / "page.md", output / "paper")


def write_page(template: str, output: Path, names: Iterable[str], page: Path, pictures: Path) -> Path:
    """Fills a template; pictures are copied, and linked as they lie from the page. ValueError where nothing has run."""
    studies = {name: read_study(output, name) for name in names}
    if not any(studies.values()):
        raise ValueError(f"{output}: expected results of some study, found none: run `llmdiff study list`")
    pictures.mkdir(parents=True, exist_ok=True)
    for name, study in studies.items():
        if study is not None:
            shutil.copyfile(output / name / PLOT, pictures / f"{name}.png")
    folder = pictures.relative_to(page.parent).as_posix()
    source = Path(__file__).with_name(TEMPLATES[template]).read_text()
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)

    def section(name: str) -> str:
        """A study's finding, picture and table."""
        study = studies[name]
        if study is None:
            return f"Not run yet: `llmdiff study {name}`.\n"
        picture = f"{name}.png" if folder == "." else f"{folder}/{name}.png"
        return f"{study['finding_text']}\n![{name}]({picture})\n\n{study['table']}"

    filled = environment.from_string(source).render(studies=studies, catalogue=CATALOGUE, section=section)
    page.write_text(f"{filled.rstrip()}\n")
    return page


def read_study(output: Path, name: str) -> dict[str, Any] | None:
    """What a study left, its table and finding as texts; None where it has not run."""
    result = read_result(output, name)
    if result is None:
        return None
    texts = {key: (output / name / file).read_text() for key, file in (("table", TABLE), ("finding_text", FINDING))}
    return {**result, **texts}
