"""What ``infra/cluster`` has for machines that are not here, as far as it can be checked without them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli.commands import program
from tests.pipelines.conftest import ROOT, Server

CLUSTER = ROOT / "infra" / "cluster"
COMPOSE = [CLUSTER / "compose.yaml", CLUSTER / "s3.yaml"]
SCRIPTS = sorted(CLUSTER.glob("*.sbatch"))
GIVEN = {"POSTGRES_PASSWORD": "p", "PREFECT_LOGIN": "u:p", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
NEEDED = set(GIVEN)


def services() -> dict[str, dict[str, Any]]:
    return {name: service for file in COMPOSE for name, service in yaml.safe_load(file.read_text())["services"].items()}


def test_servers_listen_on_loopback_unless_told_otherwise() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("${BIND:-127.0.0.1}:") for port in ports)


def test_no_password_is_written_down() -> None:
    secret = re.compile(r"PASSWORD|AUTH|LOGIN|SECRET|KEY|DATABASE|STORE_URI")
    values = [
        (name, value)
        for service in services().values()
        for name, value in service["environment"].items()
        if secret.search(name)
    ]
    assert len(values) >= 7
    assert [name for name, value in values if not re.search(r"\$\{(" + "|".join(NEEDED) + r"):[?-]", value)] == []
    assert [name for name, value in values if re.search(r"//\w+:\w+@", value)] == []


def test_what_is_mounted_and_built_is_there() -> None:
    files = [mount.split(":")[0] for service in services().values() for mount in service.get("volumes", [])]
    assert [file for file in files if file.startswith(".") and not (CLUSTER / file).is_file()] == []
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    builds = [service["build"] for service in services().values() if "build" in service]
    assert {build["target"] for build in builds} <= set(stages)
    assert {(CLUSTER / build["context"]).resolve() for build in builds} == {ROOT}
    assert {(ROOT / build["dockerfile"]) for build in builds} == {CLUSTER / "Dockerfile"}


@pytest.mark.process
@pytest.mark.parametrize("missing", [None, *sorted(NEEDED)])
def test_compose_reads_the_files_and_asks_for_what_it_needs(missing: str | None) -> None:
    command = compose_command()
    given = {name: value for name, value in GIVEN.items() if name != missing}
    others = {name: value for name, value in os.environ.items() if name not in GIVEN}
    files = [argument for file in COMPOSE for argument in ("-f", str(file))]
    done = subprocess.run([*command, *files, "config"], env={**others, **given}, capture_output=True, text=True)
    assert (done.returncode == 0) == (missing is None), done.stderr
    assert missing is None or missing in done.stderr


def compose_command() -> list[str]:
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return ["docker", "compose"]
    pytest.skip("neither docker-compose nor docker's compose plugin is installed")


@pytest.mark.process
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_slurm_scripts_are_bash_and_use_options_that_exist(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    lines = script.read_text().splitlines()
    code = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    assert all(number < code[0] for number, line in enumerate(lines) if line.startswith("#SBATCH"))  # ignored after it
    commands = program().commands
    used = re.findall(r"llmdiff (\w+) (.*)", script.read_text())
    assert len(used) >= 1
    for name, arguments in used:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z][a-z-]+", arguments)) <= known


@pytest.mark.process
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_finds_nothing_in_slurm_scripts(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (Debian: apt install shellcheck)")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_kubernetes_pool_defines_what_its_job_uses() -> None:
    template = json.loads((CLUSTER / "kubernetes-pool.json").read_text())
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
    container = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
    assert container["envFrom"] == [{"secretRef": {"name": "{{ secret }}"}}]


def test_prefect_takes_the_kubernetes_pool_and_checks_what_is_asked_of_it(server: Server) -> None:
    file = CLUSTER / "kubernetes-pool.json"
    server.run("work-pool", "create", "gpus", "--type", "kubernetes", "--base-job-template", str(file))
    assert server.ask("GET", "/work_pools/gpus").json()["base_job_template"] == json.loads(file.read_text())
    flow = server.ask("POST", "/flows/", json={"name": "encode"}).json()["id"]
    deployment = {"name": "k8s", "flow_id": flow, "work_pool_name": "gpus"}
    answers = [
        server.ask("POST", "/deployments/", json={**deployment, "job_variables": {"image": "llmdiff", "gpus": gpus}})
        for gpus in (8, "many", -1)
    ]
    assert [answer.is_success for answer in answers] == [True, False, False]
    assert "gpus" in answers[1].text or "many" in answers[1].text
