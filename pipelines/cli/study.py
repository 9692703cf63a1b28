"""The commands ``llmdiff study …``: the paper's open questions, answered on the embedded world.

Each imports what it needs when it runs, as in `pipelines.cli.main`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.bootstrap import start_engine
from pipelines.studies.catalogue import CATALOGUE, EXPERIMENTS, StudyName

study_app = typer.Typer(help="Studies of the paper's open questions. Example: llmdiff study list", no_args_is_help=True)

Output = Annotated[Path | None, typer.Option(help="Folder of all studies; default: runs/studies.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Of training each adapter; default: 200.")]
Scenes = Annotated[int | None, typer.Option(min=1, help="Held-out scenes, each in every wording; default: 80.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Trainings of each variant; default: 2.")]
Pictures = Annotated[int | None, typer.Option(min=8, help="Drawn for training; default: 3000.")]
Quick = Annotated[bool, typer.Option("--quick", help="A trial of the command with tiny sizes: nothing is learned.")]

Llms = Annotated[
    Path | None, typer.Option(help="YAML file of LLMs for `scale`, as infra/recipes/scale.yaml; default: the embedded.")
]


@study_app.command("list", epilog="Example: llmdiff study list")
def list_studies() -> None:
    """The studies, what each asks, and about how long it takes."""
    width = max(map(len, CATALOGUE))
    for name, entry in CATALOGUE.items():
        print(f"{name:{width}}  {entry.question} About {entry.minutes} min on two cores.")


def add_command(name: str, studies: Sequence[StudyName], text: str, example: str, with_page: bool = False) -> None:
    """Makes a command that runs some studies in turn, and writes the page of the paper's experiments if asked to."""

    def run(
        output: Output = None,
        steps: Steps = None,
        scenes: Scenes = None,
        seeds: Seeds = None,
        pictures: Pictures = None,
        quick: Quick = False,
        llms: Llms = None,
    ) -> None:
        sizes = {"steps": steps, "scenes": scenes, "seeds": seeds, "pictures": pictures}
        given = {size: value for size, value in sizes.items() if value is not None}
        run_studies(studies, output, given, quick, llms)
        if with_page:
            from pipelines.flows.study import studies_folder
            from pipelines.studies.page import write_paper

            print(f"page: {write_paper(studies_folder(text_of(output)))}")

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
    from pipelines.flows.study import studies_folder
    from pipelines.studies.page import write_docs

    print(write_docs(studies_folder(text_of(output)), docs))


def run_studies(
    names: Sequence[StudyName], output: Path | None, sizes: dict[str, Any], quick: bool, llms: Path | None
) -> None:
    """Runs studies one after the other, and prints what each found."""
    start_engine()
    from pipelines.flows.study import study_flow
    from pipelines.studies.lab import Sizes

    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}: {CATALOGUE[name].question}", flush=True)
        done = study_flow(name, text_of(output), Sizes(**sizes), quick, text_of(llms))
        print(f"{done['finding']}\n{done['folder']}", flush=True)


def text_of(path: Path | None) -> str | None:
    """A path as flows take it."""
    return None if path is None else str(path)
