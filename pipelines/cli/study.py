"""The commands ``llmdiff study …``: the paper's open questions, answered on the synthetic shapes benchmark.

Each imports what it needs when it runs, as in `pipelines.cli.commands`.
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
from pipelines.requests.study import ON_ANY_LLM, SIZES, Sizes, StudyName, StudyRequest
from pipelines.studies.catalogue import CATALOGUE, EXPERIMENTS

study_app = typer.Typer(help="Studies of the paper's open questions. Example: llmdiff study list", no_args_is_help=True)

Output = Annotated[Path | None, typer.Option(help=help_of(StudyRequest.model_fields["output"]))]
SIZE_OPTIONS = ("steps", "scenes", "seeds", "pictures")
"""Sizes of a study that are options of the command."""
OF_LLMS = {"llm", "template"}
"""Names of options of the studies that take any LLM."""


@study_app.command("list", epilog="Example: llmdiff study list")
def list_studies() -> None:
    """List the studies, what each asks, and about how long it takes."""
    width = max(map(len, CATALOGUE))
    for name, entry in CATALOGUE.items():
        print(f"{name:{width}}  {entry.question} About {entry.minutes} min on two cores.")


def add_command(name: str, studies: Sequence[StudyName], text: str, *examples: str, with_page: bool = False) -> None:
    """Make a command that runs some studies in turn, and writes the page of the paper's experiments if asked to."""
    of_others = set() if set(studies) <= set(ON_ANY_LLM) else OF_LLMS

    @options_of(
        StudyRequest,
        SIZES.get(studies[0], Sizes),
        without={"name", "sizes", *Sizes.model_fields, *of_others} - set(SIZE_OPTIONS),
        written={"quick": CommandLine(flag="--quick"), "llm": CommandLine(metavar="FOLDER_OR_NAME")},
        optional=SIZE_OPTIONS,
    )
    def run(given: dict[str, Any]) -> None:
        run_studies(studies, study_request(given))
        if with_page:
            from pipelines.studies.folder import studies_folder
            from pipelines.studies.page import write_paper

            print(f"page: {write_paper(studies_folder(given['output']))}")

    epilog = "\n\n".join(f"Example: llmdiff study {name} {example}" for example in examples)
    study_app.command(name, help=text, epilog=epilog)(run)


for study_name in CATALOGUE:
    on_another = ["--llm models/SmolLM2-135M-Instruct"] if study_name in ON_ANY_LLM else []
    add_command(
        study_name, [study_name], CATALOGUE[study_name].question, "--output runs/studies --seeds 2", *on_another
    )
add_command(
    "all",
    tuple(name for name, entry in CATALOGUE.items() if not entry.alone),
    "Every study of the embedded LLM in turn; a second call goes on where the first was cut short.",
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
    from pipelines.studies.folder import studies_folder
    from pipelines.studies.page import write_docs

    print(write_docs(studies_folder(None if output is None else str(output)), docs))


def study_request(given: dict[str, Any]) -> dict[str, Any]:
    """Return the request of all studies, with the sizes that were given in a model of their own."""
    sizes = {size: given[size] for size in SIZE_OPTIONS if given[size] is not None}
    others = {name: value for name, value in given.items() if name not in SIZE_OPTIONS}
    return {**others, "sizes": checked(sizes, Sizes, "sizes")}


def run_studies(names: Sequence[StudyName], asked: dict[str, Any]) -> None:
    """Run studies one after the other, and print what each found."""
    start_engine()
    from pipelines.studies.flow import study_flow

    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}: {CATALOGUE[name].question}", flush=True)
        done = study_flow(checked({**asked, "name": name}, StudyRequest, "study"))
        print(f"{done['finding']}\n{done['folder']}", flush=True)
