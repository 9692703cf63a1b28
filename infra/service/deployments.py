"""The deployments and automations of `make serve`, registered with Prefect's server."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from infra.service.commands import prefect_command
from infra.service.config import ServiceConfig, worker_environment
from infra.service.health import PATIENCE, ask_prefect
from infra.service.secrets import redacted

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = ROOT / "infra" / "prefect.yaml"
AUTOMATIONS = ROOT / "infra" / "automations.yaml"


def register(config: ServiceConfig) -> None:
    """Register deployments and automations; raise RuntimeError with what Prefect said where that fails.

    An automation that is there already stays as it is: it may have been changed on the page.
    """
    command = prefect_command("--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS.relative_to(ROOT)))
    done = subprocess.run(command, env=worker_environment(config), cwd=ROOT, capture_output=True, text=True)
    if done.returncode or unregistered(config):
        raise RuntimeError(f"the deployments were not registered:\n{redacted(done.stdout + done.stderr)}")
    if (found := ask_prefect(config, "automations/filter", {}, PATIENCE)) is None:
        raise RuntimeError("Prefect's server: expected the automations that it has, found no answer")
    known = {automation["name"] for automation in found}
    for automation in yaml.safe_load(AUTOMATIONS.read_text())["automations"]:
        if automation["name"] not in known and ask_prefect(config, "automations/", automation, PATIENCE) is None:
            raise RuntimeError(f"Prefect's server did not take the automation {automation['name']!r} of {AUTOMATIONS}")


def unregistered(config: ServiceConfig) -> set[str]:
    """Return the entry points of `DEPLOYMENTS` that the server has no deployment of."""
    wanted = {deployment["entrypoint"] for deployment in yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]}
    found = ask_prefect(config, "deployments/filter", {}, PATIENCE) or []
    return wanted - {deployment["entrypoint"] for deployment in found}
