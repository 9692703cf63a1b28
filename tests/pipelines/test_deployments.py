"""The deployments of ``infra/prefect.yaml`` on a real server, run by a real worker."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from infra.launch.errors import LaunchError
from infra.service.config import ServiceConfig
from infra.service.deployments import DEPLOYMENTS, unregistered
from infra.service.processes import Background
from infra.tracking.run import client
from llmdiff.training.config import TrainSettings
from pipelines.requests.train import TrainRequest
from storage import EncodingStore
from tests.pipelines.conftest import BROKEN, EMPTY, FINE, TRAINING, Deployed, Server, World
from tests.waiting import wait_until


def test_encode_and_train_run_to_completed(deployed: Deployed, in_process: Server) -> None:
    assert "finished successfully in 'Completed'" in deployed.runs["encode"]
    assert "finished successfully in 'Completed'" in deployed.runs["train"]
    store = EncodingStore.open(deployed.store)
    assert len(store.samples()) == FINE
    assert len(store.rejects()) == BROKEN + EMPTY
    rows = [json.loads(line) for line in (deployed.output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert (deployed.output / "adapter" / "adapter.safetensors").exists()


def test_mlflow_has_the_run_with_its_settings_metrics_and_sample_grid(deployed: Deployed, in_process: Server) -> None:
    (run,) = [r for r in client().search_runs(["1"]) if r.info.run_name == "train run"]
    assert run.info.status == "FINISHED"
    assert run.data.params["steps"] == str(TRAINING["steps"])
    assert run.data.tags["store_version"] == str(EncodingStore.open(deployed.store).version)
    losses = [point.value for point in client().get_metric_history(run.info.run_id, "loss")]
    rows = (deployed.output / "metrics.jsonl").read_text().splitlines()
    assert losses == [json.loads(row)["loss"] for row in rows]
    assert [file.path for file in client().list_artifacts(run.info.run_id, "samples")] == ["samples/step-00000004.png"]


def test_retrain_is_on_a_schedule(deployed: Deployed, server: Server) -> None:
    (entry,) = server.ask("GET", "/deployments/name/retrain/default").json()["schedules"]
    assert entry["schedule"]["cron"] == "0 3 * * *"
    scheduled = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    wait_until(lambda: runs_of(server, "retrain", flow_runs=scheduled) >= 3)


def test_the_flows_of_each_stage_are_deployed(deployed: Deployed, server: Server) -> None:
    for flow in ("encode", "train", "evaluate", "register", "promote", "retrain", "study"):
        assert server.ask("GET", f"/deployments/name/{flow}/default").is_success


def test_a_wrong_parameter_is_refused_before_anything_starts(deployed: Deployed, server: Server) -> None:
    runs = runs_of(server, "train")
    refused = server.run("deployment", "run", "train/default", "--param", "step=10", code=1)
    assert "not found on the deployment: 'step'" in " ".join(refused.split())
    assert runs_of(server, "train") == runs


def runs_of(server: Server, flow: str, **wanted: Any) -> int:
    """The number of a flow's runs that the server knows."""
    answer = server.ask("POST", "/flow_runs/count", json={"flows": {"name": {"any_": [flow]}}, **wanted})
    return int(answer.raise_for_status().text)


def test_flows_are_loaded_as_parts_of_their_package_so_that_a_ray_worker_finds_their_tasks() -> None:
    from prefect.flows import load_flow_from_entrypoint

    entrypoints = [item["entrypoint"] for item in yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]]
    assert len(entrypoints) == 7
    for entrypoint in entrypoints:
        found = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False).fn
        assert found.__module__.startswith(("pipelines.flows.", "pipelines.studies."))
        assert found.__name__ == entrypoint.rpartition(".")[2]


def test_a_run_fails_with_the_error_of_its_rank(
    deployed: Deployed, in_process: Server, world: World, own_home: Path
) -> None:
    from pipelines.flows.train import train_flow

    store = Path(shutil.copytree(deployed.store, own_home / "damaged"))
    for chunk in store.glob("shards/*/encodings/**/c/**/*"):
        if chunk.is_file():
            os.truncate(chunk, chunk.stat().st_size // 2)
    with pytest.raises(LaunchError, match="the checksum is invalid"):
        train_flow(TrainRequest(store=str(store), diffusion=world.diffusion, settings=TrainSettings(**TRAINING)))
    newest = {"sort": "START_TIME_DESC", "limit": 1, "flows": {"name": {"any_": ["train"]}}}
    (run,) = in_process.post("/flow_runs/filter", **newest)
    assert run["state"]["type"] == "FAILED"
    found = run["state"]["message"]
    assert re.search(rf"LaunchError: {store}/shards/.*: rows \d+ to \d+: the checksum is invalid", found)


def artifacts(server: Server, watched: str, key: str) -> list[dict[str, Any]]:
    """Return the artifacts of a key that a run made, which was watched in a terminal."""
    run = re.search(r"UUID: ([0-9a-f-]{36})", watched)
    assert run is not None
    wanted = {"artifacts": {"key": {"any_": [key]}, "flow_run_id": {"any_": [run[1]]}}}
    found: list[dict[str, Any]] = server.ask("POST", "/artifacts/filter", json=wanted).json()
    return found


def test_progress_is_watched_and_kept(deployed: Deployed, server: Server) -> None:
    rows = f"encode: {FINE + BROKEN + EMPTY} of {FINE + BROKEN + EMPTY} rows (100 %)"
    assert rows in " ".join(deployed.runs["encode"].split())
    assert "train: 4 of 4 steps (100 %)" in " ".join(deployed.runs["train"].split())
    ((encoded,), (trained,)) = (artifacts(server, deployed.runs[f], f"{f}-progress") for f in ("encode", "train"))
    assert (encoded["type"], encoded["data"]) == (trained["type"], trained["data"]) == ("progress", 100)
    assert encoded["description"].startswith(rows)
    assert re.search(r"train: 4 of 4 steps \(100 %\).*, loss \d", trained["description"])


def test_the_page_shows_shards_with_their_rejects_and_the_samples(deployed: Deployed, server: Server) -> None:
    (table,) = artifacts(server, deployed.runs["encode"], "encode-shards")
    assert json.loads(table["data"])[0] == {
        "shard": "a.parquet",
        "rows": 12,
        "known": 0,
        "new": 10,
        "rejected": f"{EMPTY} empty_caption, {BROKEN} truncated_image",
    }
    (samples,) = artifacts(server, deployed.runs["train"], "train-samples")
    jpeg = re.search(r"!\[step-00000004]\(data:image/jpeg;base64,([^)]+)\)", samples["data"])
    assert jpeg is not None
    shown = Image.open(io.BytesIO(base64.b64decode(jpeg[1])))
    with Image.open(deployed.output / "samples" / "step-00000004.png") as grid:
        assert (shown.format, shown.size) == ("JPEG", grid.size)
    assert artifacts(server, deployed.runs["train"], "train-mlflow-run") == []  # MLflow has no server here
    run_id = (deployed.output / "mlflow-run").read_text().strip()
    (summary,) = artifacts(server, deployed.runs["train"], "train-run")
    assert f"MLflow run `{run_id}`" in summary["data"]


def test_a_deployment_of_an_earlier_version_is_registered_anew(deployed: Deployed, server: Server) -> None:
    """Its flow was in another module then; `make serve` sees that, and the schedule is there once and active."""
    before = server.ask("GET", "/deployments/name/retrain/default").json()
    server.update("retrain", entrypoint="pipelines.retrain.retrain_flow")
    assert unregistered(service(server)) == {before["entrypoint"]}
    server.run("deploy", "--all", "--prefect-file", "infra/prefect.yaml")  # as `make serve` does
    assert unregistered(service(server)) == set()
    after = server.ask("GET", "/deployments/name/retrain/default").json()
    assert (after["id"], after["entrypoint"]) == (before["id"], before["entrypoint"])
    assert [(each["schedule"]["cron"], each["active"]) for each in after["schedules"]] == [("0 3 * * *", True)]


def service(server: Server) -> ServiceConfig:
    """The session's server as `make serve` would know it."""
    processes = {name: Background(server.home, name) for name in ("prefect", "mlflow", "worker")}
    port = int(server.url.split(":")[2].split("/")[0])
    return ServiceConfig(host="127.0.0.1", prefect_port=port, mlflow_port=port, **processes)


def form(server: Server, flow: str) -> dict[str, Any]:
    """What the page draws a deployment's form from."""
    schema: dict[str, Any] = server.ask("GET", f"/deployments/name/{flow}/default").json()["parameter_openapi_schema"]
    return schema


def test_training_settings_are_a_form_with_descriptions_defaults_and_bounds(deployed: Deployed, server: Server) -> None:
    schema = form(server, "train")
    assert schema["properties"]["settings"]["$ref"] == "#/definitions/TrainSettings"
    assert schema["properties"]["processes"]["minimum"] == 1
    settings = schema["definitions"]["TrainSettings"]
    assert settings["additionalProperties"] is False
    assert not {"store", "fingerprint", "base", "output", "llm"} & settings["properties"].keys()
    steps = settings["properties"]["steps"]
    assert steps["description"].startswith("Optimiser steps; or set `epochs`.")
    assert steps["anyOf"] == [{"exclusiveMinimum": 0, "type": "integer"}, {"type": "null"}]
    rate = settings["properties"]["learning_rate"]
    assert (rate["type"], rate["default"], rate["exclusiveMinimum"]) == ("number", 1e-4, 0)
    assert settings["properties"]["precision"]["enum"] == ["fp32", "bf16", "fp16"]
    paths = schema["definitions"]["AdapterSettings"]["properties"]["paths"]
    assert (paths["enum"], paths["description"][:9]) == (["both", "original", "new"], "Ablations")


@pytest.mark.parametrize(("flow", "parameter"), [("encode", "settings"), ("retrain", "encoder_settings")])
def test_the_encoders_settings_are_a_form(deployed: Deployed, server: Server, flow: str, parameter: str) -> None:
    schema = form(server, flow)
    assert schema["properties"][parameter]["$ref"] == "#/definitions/EncoderConfig"
    assert schema["properties"][parameter]["default"]["max_tokens"] == 120
    settings = schema["definitions"]["EncoderConfig"]
    assert settings["additionalProperties"] is False
    bands = settings["properties"]["bands"]
    assert (bands["type"], bands["default"], bands["minimum"]) == ("integer", 1, 1)
    assert bands["description"].startswith("Sums over this many depth bands")
    assert settings["properties"]["word_path"]["enum"] == ["block", "isolated"]


@pytest.mark.parametrize(
    ("flow", "parameters", "reason"),
    [
        ("train", {"processes": "many"}, "'many' is not of type 'integer'"),
        ("train", {"encoder": "clip"}, "'clip' is not one of ['llm', 'base']"),
        ("train", {"settings": {"stepz": 10}}, "Additional properties are not allowed ('stepz' was unexpected)"),
        ("train", {"settings": {"batch_size": 0}}, "0 is less than or equal to the minimum of 0"),
        ("train", {"settings": {"adapter": {"paths": "all"}}}, "'all' is not one of ['both', 'original', 'new']"),
        ("train", {"settings": {"steps": "many"}}, "'many' is not valid under any of the given schemas"),
        ("encode", {"data": "d", "settings": {"max_tokens": 0}}, "0 is less than the minimum of 1"),
        ("encode", {"data": "d", "settings": {"word_pth": "block"}}, "('word_pth' was unexpected)"),
    ],
)
def test_a_wrong_value_is_refused_by_the_server(
    deployed: Deployed, server: Server, flow: str, parameters: dict[str, Any], reason: str
) -> None:
    deployment = server.ask("GET", f"/deployments/name/{flow}/default").json()
    answer = server.ask("POST", f"/deployments/{deployment['id']}/create_flow_run", json={"parameters": parameters})
    assert answer.status_code == 409, answer.text
    assert reason in answer.json()["detail"]
