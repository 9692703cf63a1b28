"""One study, from its request to the files it leaves."""

from __future__ import annotations

import re
import time
from importlib import import_module
from pathlib import Path

from pipelines.requests.study import SIZES, Sizes, StudyRequest
from pipelines.runtime.artifacts import show_text
from pipelines.studies.folder import studies_folder
from pipelines.studies.llm import EMBEDDED, StudyLLM, read_llm, some_llm
from pipelines.studies.outcome import FINDING, SUMMARY, TABLE, check_name, write_outcome
from pipelines.studies.workspace import QUICK, Workspace


def run_study(request: StudyRequest) -> dict[str, str]:
    """Run one study, write what it found, and return its folder and its finding."""
    start = time.perf_counter()
    workspace = workspace_of(request)
    check_name(workspace, request.name)
    outcome = import_module(f"pipelines.studies.{request.name}").study(workspace)
    folder = write_outcome(workspace, request.name, outcome, time.perf_counter() - start)
    request.save(folder)
    finding, *tables = [(folder / name).read_text() for name in (FINDING, SUMMARY, TABLE)]
    show_text("\n".join([finding, *tables]), key=artifact_key(workspace.llm, request.name))
    return {"folder": str(folder), "finding": finding}


def workspace_of(request: StudyRequest) -> Workspace:
    """Return the folder, the sizes and the LLM of a request; ValueError where there is no such LLM."""
    sizes = QUICK if request.quick else SIZES.get(request.name, Sizes)()
    return Workspace(
        output=studies_folder(request.output),
        sizes=sizes.model_copy(update=request.sizes.model_dump(exclude_unset=True)),
        llms=None if request.llms is None else Path(request.llms),
        llm=llm_of(request),
    )


def llm_of(request: StudyRequest) -> StudyLLM:
    """Return the LLM that the study is about."""
    if request.llm is None and request.name != "real":
        return EMBEDDED
    return read_llm(some_llm() if request.llm is None else request.llm, request.template)


def artifact_key(llm: StudyLLM, name: str) -> str:
    """Return the key of a study's page in Prefect: letters, digits and dashes."""
    words = ["study", name, *([] if llm.embedded else [llm.name])]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")
