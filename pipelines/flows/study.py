"""The flow of one study, of several, and of the paper's three first experiments."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from infra.environment import home
from pipelines.studies.catalogue import StudyName
from pipelines.studies.lab import QUICK, Lab, Sizes
from pipelines.studies.outcome import FINDING, TABLE, write_outcome

NORMAL = Sizes()


@flow(name="study", flow_run_name="study {name}")
def study_flow(
    name: StudyName,
    output: str | None = None,
    sizes: Sizes = NORMAL,
    quick: bool = False,
    llms: str | None = None,
) -> dict[str, str]:
    """Runs one study; what was encoded, trained and judged for any study is not done again.

    Args:
        name: of the study.
        output: folder of all studies; None is one below the folder of runs.
        sizes: of trainings and judgements.
        quick: the sizes of a trial, but for those that are given.
        llms: YAML file of LLMs for the study of their sizes; None is the embedded family.
    """
    start = time.perf_counter()
    if quick:
        sizes = QUICK.model_copy(update=sizes.model_dump(exclude_unset=True))
    lab = Lab(studies_folder(output), sizes, None if llms is None else Path(llms))
    outcome = import_module(f"pipelines.studies.{name}").study(lab)
    folder = write_outcome(lab, name, outcome, time.perf_counter() - start)
    text = (folder / FINDING).read_text()
    create_markdown_artifact(f"{text}\n{(folder / TABLE).read_text()}", key=f"study-{name}")
    return {"folder": str(folder), "finding": text}


def studies_folder(output: str | None) -> Path:
    """Where studies are, when nothing else is said: below the folder of runs."""
    return Path(output) if output is not None else home() / "studies"
