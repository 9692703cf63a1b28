"""The deployments of `infra/prefect.yaml` and their flows, imported before any test, for some libraries try sockets."""

from __future__ import annotations

from typing import Any

import yaml
from prefect.utilities.importtools import import_object

from tests.docs.pages import ROOT

_FLOWS = [
    (import_object(one["entrypoint"]), one["name"])
    for one in yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]
]
DEPLOYMENTS: dict[str, Any] = {f"{flow.name}/{name}": flow for flow, name in _FLOWS}
"""The flow of each deployment by its full name."""
