"""The stages as flows of Prefect: what the deployments of ``infra/prefect.yaml`` name. Each is imported when asked for.

In the stages' own modules they are stages, which need no Prefect; see `pipelines.runtime.stage`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from llmdiff.process.startup import collect_seldom

collect_seldom()  # a process of a deployment's run comes here first

HOMES = {
    "encode_flow": "pipelines.flows.encode",
    "evaluate_flow": "pipelines.flows.evaluate",
    "promote_flow": "pipelines.flows.promote",
    "register_flow": "pipelines.flows.register",
    "retrain_flow": "pipelines.flows.retrain",
    "study_flow": "pipelines.studies.flow",
    "train_flow": "pipelines.flows.train",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name).flow
