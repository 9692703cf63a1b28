"""The commands ``llmdiff study …``: the paper's open questions, answered on the synthetic shapes benchmark.

Each imports what it needs when it runs, as in `pipelines.cli.main`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from llmdiff.extras import require
from pipelines.cli.bootstrap import start_engine
from pipelines.cli.options import options_of
from pipelines.requests.base import CommandLine, checked, help_of
from pipelines.requests.study import Sizes, StudyName, StudyRequest
from pipelines.studies.catalogue import CATALOGUE, EXPERIMENTS

study_app = typer.Typer(help="Studies of the paper's open questions. Example: llmdiff study list", no_args_is_help=True)

Output = Annotated[Path | None, typer.Option(help=help_of(StudyRequest.model_fields["output"]))]
SIZES = ("steps", "scenes", "seeds", "pictures")
"""Those of the sizes that are options."""


@study_app.command("list", epilog="Example: llmdiff study list")
def list_studies() -> None:
    """List the studies, what each asks, and about how long it takes."""
    width = max(map(len, CATALOGUE))
    for name, entry in CATALOGUE.items():
        print(f"{name:{width}}  {entry.question} About {entry.minutes} min on two cores.")


def add_command(name: str, studies: Sequence[StudyName], text: str, example: str, with_page: bool = False) -> None:
    """Make a command that runs some studies in turn, and writes the page of the paper's experiments if asked to."""

    @options_of(
        StudyRequest,
        Sizes,
        without={"name", "sizes", *Sizes.model_fields} - set(SIZES),
        written={"quick": CommandLine(flag="--quick")},
        optional=SIZES,
    )
    def run(given: dict[str, Any]) -> None:
        run_studies(studies, study_request(given))
        if with_page:
            from pipelines.studies.flow import studies_folder
            from pipelines.studies.page import write_paper

            print(f"page: {write_paper(studies_folder(given['output']))}")

    study_app.command(name, help=text, epilog=f"Example: llmdiff study {name} {example}")(run)


for study_name in CATALOGUE:
    add_command(study_name, [study_name], CATALOGUE[study_name].question, "--output runs/studies --seeds 2")
add_command(
    "all",
    tuple(CATALOGUE),
    "Every study in turn; a second call goes on where the first was cut short.",
    "&& llmdiff study report",
)
add_command(
    "paper",
    EXPERIMENTS,
    "Three first experiments on one page: controlled prompts, weight ablation, LLM scale.",
    "--output runs/studies",
    with_page=True,
)


@study_app.command("report", epilog="Example: llmdiff study report --output runs/studies --docs docs")
def report(
    output: Output = None,
    docs: Annotated[Path, typer.Option(help="Folder that gets studies.md and studies/*.png.")] = Path("docs"),
) -> None:
    """Write docs/studies.md with its pictures from what the studies left; a study that has not run is named as such."""
    require("prefect")
    from pipelines.studies.flow import studies_folder
    from pipelines.studies.page import write_docs

    print(write_docs(studies_folder(None if output is None else str(output)), docs))


def study_request(given: dict[str, Any]) -> dict[str, Any]:
    """Return what every study is asked for, with the sizes that were given in a model of their own."""
    sizes = {size: given[size] for size in SIZES if given[size] is not None}
    others = {name: value for name, value in given.items() if name not in SIZES}
    return {**others, "sizes": checked(sizes, Sizes, "sizes")}


def run_studies(names: Sequence[StudyName], asked: dict[str, Any]) -> None:
    """Run studies one after the other, and print what each found."""
    start_engine()
    from pipelines.studies.flow import study_flow

    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}: {CATALOGUE[name].question}", flush=True)
        done = study_flow(**dict(checked({**asked, "name": name}, StudyRequest, "study")))
        print(f"{done['finding']}\n{done['folder']}", flush=True)
