"""PostgreSQL, S3 and logins under both servers; no secret lies about."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator

import boto3
import httpx
import pytest

from infra.servers import check_servers
from tests.infra.service import LOGIN, MLFLOW, PASSWORDS, STORE_SECRET, Service, answer
from tests.infra.training_process import Survivor
from tests.object_store import BUCKET


def objects(service: Service) -> dict[str, bytes]:
    """Everything in the object store, by key."""
    keys = {"aws_access_key_id": service.env["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": STORE_SECRET}
    bucket = boto3.resource("s3", "us-east-1", endpoint_url=service.env["AWS_ENDPOINT_URL"], **keys).Bucket(BUCKET)
    return {item.key: item.get()["Body"].read() for item in bucket.objects.all()}


def test_records_are_in_postgresql_and_artifacts_in_s3(service: Service, survivor: Survivor) -> None:
    names = "SELECT name FROM deployment UNION SELECT state_name FROM flow_run WHERE id = '{}'"
    found = service.database.query("prefect", names.format(survivor.runs[0]))
    assert sorted(found) == [("Completed",), ("default",)]
    run = service.runs_of()[0]["info"]["run_id"]
    assert service.database.query("mlflow", f"SELECT status FROM runs WHERE run_uuid = '{run}'") == [("FINISHED",)]
    (steps,) = service.database.query("mlflow", f"SELECT max(step) FROM metrics WHERE run_uuid = '{run}'")
    assert steps[0] > 0
    assert {key.rpartition(f"{run}/artifacts/")[2] for key in objects(service) if run in key} >= {"config.json"}
    assert [path.name for path in service.home.rglob("*.db")] == ["mlflow-users.db"]
    assert not (service.home / "serve" / "mlartifacts").exists()


def test_neither_server_answers_without_a_login(service: Service) -> None:
    addresses = (f"{service.prefect}/api/flows/filter", f"{service.mlflow}/api/2.0/mlflow/experiments/search")
    for address in addresses:
        for login in (None, "admin:guess", "engineer:guess"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                answer(address, login, {"max_results": 1} if "mlflow" in address else {})
            assert refused.value.code == 401
    assert answer(addresses[1], MLFLOW, {"max_results": 1})["experiments"]


def test_a_command_says_at_once_which_login_is_missing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{service.prefect}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", service.mlflow)
    refused = "refuses the login: expected it in"
    with pytest.raises(ConnectionError, match=f"Prefect's server .* {refused} PREFECT_API_AUTH_STRING"):
        check_servers(tracking=True)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", LOGIN)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    with pytest.raises(ConnectionError, match=f"MLflow's server .* {refused} MLFLOW_TRACKING_USERNAME and"):
        check_servers(tracking=True)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", MLFLOW.partition(":")[2])
    check_servers(tracking=True)


FOREIGN = {"Host": "attacker.example:4200", "Origin": "http://attacker.example:4200"}
"""Headers of a page that had its own name lead to this machine: DNS rebinding."""
SHELL_STEP = {"name": "foreign", "flow_id": "", "pull_steps": [{"prefect.deployments.steps.run_shell_script": {}}]}


@pytest.mark.parametrize("headers", [FOREIGN, {"Host": FOREIGN["Host"]}, {"Origin": FOREIGN["Origin"]}])
@pytest.mark.parametrize("logged_in", [False, True])
def test_a_page_in_the_browser_makes_no_deployment(service: Service, headers: dict[str, str], logged_in: bool) -> None:
    """The request fails even with the login, which a browser may know."""
    flow = service.ask("flows/filter", {"limit": 1})[0]["id"]
    for url, login, body in (
        (f"{service.prefect}/api/deployments/", LOGIN, {**SHELL_STEP, "flow_id": flow}),
        (f"{service.mlflow}/api/2.0/mlflow/experiments/create", MLFLOW, {"name": "foreign"}),
    ):
        answered = httpx.post(url, json=body, headers=headers, auth=tuple(login.split(":")) if logged_in else None)
        assert answered.status_code == 403, answered.text
    asked = {"Access-Control-Request-Method": "POST", **headers}
    assert httpx.options(f"{service.prefect}/api/deployments/", headers=asked).status_code == 403
    assert "foreign" not in {deployment["name"] for deployment in service.ask("deployments/filter", {})}
    experiments = answer(f"{service.mlflow}/api/2.0/mlflow/experiments/search", MLFLOW, {"max_results": 100})
    assert "foreign" not in {experiment["name"] for experiment in experiments["experiments"]}


def test_both_listen_on_loopback_alone(service: Service) -> None:
    listening = {
        connection.laddr[:2]
        for name in ("prefect", "mlflow", "worker")
        for process in service.process(name).family()
        for connection in process.net_connections(kind="inet")
        if connection.status == "LISTEN"
    }
    ports = {int(service.env["PREFECT_PORT"]), int(service.env["MLFLOW_PORT"])}
    assert ports <= {port for _, port in listening}
    assert {address for address, _ in listening} == {"127.0.0.1"}


def places(service: Service) -> Iterator[tuple[str, bytes]]:
    """Everywhere that a secret must not be: command lines, files, both databases, the object store."""
    for name in ("prefect", "mlflow", "worker"):
        for process in service.process(name).family():
            yield f"the command line of {name}", "\0".join(process.cmdline()).encode()
    for path in service.home.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
    for database in ("prefect", "mlflow"):
        yield f"the database of {database}", service.database.dump(database)
    yield from objects(service).items()


def test_no_secret_of_the_environment_lies_about(service: Service, survivor: Survivor) -> None:
    printed = service.command("status") + service.command("start")
    found = [("what start and status print", printed.encode()), *places(service)]
    assert len(found) > 20
    leaks = {place: secret for place, content in found for secret in PASSWORDS if secret.encode() in content}
    assert leaks == {}
