"""The flow of one study. It lies beside the studies, above the other flows, which studies run."""

from __future__ import annotations

from pipelines.requests.study import StudyRequest
from pipelines.runtime.stage import stage


@stage("study", run_name="study {name}")
def study_flow(request: StudyRequest) -> dict[str, str]:
    """Run one study; what was encoded, trained and evaluated for any study is not done again."""
    from pipelines.studies.run import run_study  # all that a study needs; the flow is deployed without

    return run_study(request)
