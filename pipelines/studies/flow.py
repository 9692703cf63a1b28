"""The flow of one study. It lies beside the studies, above the other flows, which studies run."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from infra.environment import home
from pipelines.requests.study import StudyRequest
from pipelines.runtime.stage import stage
from pipelines.studies.outcome import FINDING, TABLE, write_outcome
from pipelines.studies.workspace import QUICK, Workspace


@stage("study", run_name="study {name}")
def study_flow(request: StudyRequest) -> dict[str, str]:
    """Run one study; what was encoded, trained and evaluated for any study is not done again."""
    start = time.perf_counter()
    sizes = request.sizes
    if request.quick:
        sizes = QUICK.model_copy(update=sizes.model_dump(exclude_unset=True))
    workspace = Workspace(studies_folder(request.output), sizes, None if request.llms is None else Path(request.llms))
    outcome = import_module(f"pipelines.studies.{request.name}").study(workspace)
    folder = write_outcome(workspace, request.name, outcome, time.perf_counter() - start)
    request.save(folder)
    text = (folder / FINDING).read_text()
    create_markdown_artifact(f"{text}\n{(folder / TABLE).read_text()}", key=f"study-{request.name}")
    return {"folder": str(folder), "finding": text}


def studies_folder(output: str | None) -> Path:
    """Return the folder of studies; when nothing else is said, one below the folder of runs."""
    return Path(output) if output is not None else home() / "studies"
