"""The deployments of ``infra/prefect.yaml`` on a real server, run by a real worker."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from infra.tracking import client
from storage import EncodingStore
from tests.pipelines.conftest import BROKEN, EMPTY, FINE, TRAINING, Deployed, Server

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect"), pytest.mark.timeout(900)]


def test_encode_and_train_run_to_completed(deployed: Deployed, in_process: Server) -> None:
    assert "finished successfully in 'Completed'" in deployed.runs["encode"]
    assert "finished successfully in 'Completed'" in deployed.runs["train"]
    store = EncodingStore.open(deployed.store)
    assert len(store.samples()) == FINE
    assert len(store.rejects()) == BROKEN + EMPTY
    rows = [json.loads(line) for line in (deployed.output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert (deployed.output / "adapter" / "adapter.safetensors").exists()


def test_mlflow_has_the_run_with_its_settings_metrics_and_sample_sheet(deployed: Deployed, in_process: Server) -> None:
    (run,) = [r for r in client().search_runs(["1"]) if r.info.run_name == "train run"]
    assert run.info.status == "FINISHED"
    assert run.data.params["steps"] == str(TRAINING["steps"])
    assert run.data.tags["store_version"] == str(EncodingStore.open(deployed.store).version)
    losses = [point.value for point in client().get_metric_history(run.info.run_id, "loss")]
    rows = (deployed.output / "metrics.jsonl").read_text().splitlines()
    assert losses == [json.loads(row)["loss"] for row in rows]
    assert [file.path for file in client().list_artifacts(run.info.run_id, "samples")] == ["samples/step-00000004.png"]


def test_retrain_is_on_a_schedule(deployed: Deployed, server: Server) -> None:
    assert "'cron': '0 3 * * *'" in server.run("deployment", "inspect", "retrain/default")
    deadline = time.monotonic() + 120
    listing = ("flow-run", "ls", "--flow-name", "retrain", "--state", "Scheduled", "--output", "json")
    while len(json.loads(server.run(*listing))) < 3:
        assert time.monotonic() < deadline, "the server schedules no run"
        time.sleep(2)


def test_the_flows_of_each_stage_are_deployed(deployed: Deployed, server: Server) -> None:
    listed = server.run("deployment", "ls")
    assert not [
        flow
        for flow in ("encode", "train", "evaluate", "register", "promote", "retrain")
        if f"{flow}/default" not in listed
    ]


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ("processes=many", "'many' is not of type 'integer'"),
        ("encoder=clip", "'clip' is not one of ['llm', 'base']"),
        ("step=10", "not found on the deployment: 'step'"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_starts(
    deployed: Deployed, server: Server, parameter: str, reason: str
) -> None:
    runs = server.run("flow-run", "ls", "--output", "json")
    line = server.command("deployment", "run", "train/default", "--param", parameter)
    refused = subprocess.run(line, env=server.env, capture_output=True, text=True)
    assert refused.returncode == 1
    assert reason in " ".join((refused.stdout + refused.stderr).split())
    assert server.run("flow-run", "ls", "--output", "json") == runs
