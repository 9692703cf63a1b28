"""`llmdiff train` as a process: ended, killed, run again; and what a cancelled deployment leaves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from PIL import Image

from infra.launch.hostfile import Topology
from infra.tracking.hub_cache import hub_revision
from infra.tracking.run import client, end_left_over
from llmdiff.training import TrainConfig
from llmdiff.training.config import TrainSettings
from llmdiff.training.loop import train
from llmdiff.training.resolve import pinned_version
from pipelines.flows.train import keep_samples, resolve_config
from pipelines.requests.encode import EncodeRequest
from pipelines.requests.train import TrainRequest
from storage import EncodingStore, ShardWriter, caption_hash
from storage.maintenance.verify import verify
from tests.data.pictures import encoded, picture, write_parquet
from tests.pipelines.conftest import ROOT, TRAINING, Deployed, Server, World
from tests.training.run_folder import last_step, saved_step
from tests.waiting import wait_until

STEPS, SAMPLES = 120, 20
"""Enough that a machine that is busy does not come to the end between two looks at a run."""
SETTINGS = [f"steps={STEPS}", "batch_size=4", "warmup=1", "log_every=1", "threads=1", "checkpoint_every=100"]
SETTINGS += [f"sample_every={SAMPLES}", "validation_prompts=['', '']", "validation_steps=1"]


@pytest.fixture
def own_store(world: World, in_process: Server, tmp_path: Path) -> str:
    from pipelines.flows.encode import encode_flow

    store = str(tmp_path / "store")
    encode_flow(EncodeRequest(data=world.data, store=store, diffusion=world.diffusion, encoder="base"))
    return store


def grow(path: str) -> int:
    """Adds a caption to a store; the version before."""
    store = EncodingStore.open(path)
    before = store.version
    fingerprint = next(key for key, about in store.fingerprints().items() if about["kind"] == "base")
    with ShardWriter(store, "more", fingerprint=fingerprint) as writer:
        writer.add_encoding(caption_hash("one more"), store.encoding(fingerprint, caption_hash("")))
    assert EncodingStore.open(path).version > before
    return before


def start(server: Server, home: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("llmdiff")), "train", *arguments]
    env = {**server.env, "LLMDIFF_HOME": str(home), "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db"}
    env["OMP_NUM_THREADS"] = "1"
    return subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def workers(run: Path) -> list[int]:
    """The training processes that write to a run."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if str(run / "config.json") in line and any("--local_rank" in part for part in line):
            found.append(process.pid)
    return found


def test_ended_or_killed_the_same_command_goes_on(server: Server, world: World, own_store: str, tmp_path: Path) -> None:
    arguments = ["--store", own_store, "--diffusion", world.diffusion, "--encoder", "base", "--llm", world.llm]
    arguments += [*(part for setting in SETTINGS for part in ("--set", setting))]
    home = tmp_path / "home"

    def run_folders() -> list[Path]:
        return list((home / "train").glob("*"))

    first = start(server, home, *arguments)
    wait_until(lambda: bool(run_folders()) and last_step(run_folders()[0]) >= 6, child=first)
    (run,) = run_folders()
    first.terminate()
    printed, _ = first.communicate(timeout=90)
    assert first.returncode == 143, printed
    assert "stopped by SIGTERM: the same command goes on" in printed
    ended = last_step(run)
    assert saved_step(run) == ended
    assert workers(run) == []

    began = grow(own_store)

    second = start(server, home, *arguments)
    wait_until(lambda: last_step(run) >= ended + 6, child=second)
    at_work = workers(run)
    second.kill()
    second.communicate()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in at_work), 60)
    assert saved_step(run) == last_step(run) > ended

    third = start(server, home, *arguments)
    printed, _ = third.communicate(timeout=300)
    assert third.returncode == 0, printed
    assert run_folders() == [run]
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert (config["store_version"], config["llm"]) == (began, world.llm)
    assert re.findall(r"registered: llmdiff-adapter version (\d+)", printed) == ["1"]

    (run_id,) = re.findall(r"MLflow run: (\w+)", printed)
    api = MlflowClient(f"sqlite:///{home}/mlflow.db")
    assert grids(Path(api.download_artifacts(run_id, "samples"))) == uninterrupted_grids(run, api, tmp_path)


def grids(folder: Path) -> dict[str, bytes]:
    """The pixels of each PNG."""
    return {path.name: Image.open(path).tobytes() for path in folder.glob("*.png")}


def uninterrupted_grids(run: Path, api: MlflowClient, folder: Path) -> dict[str, bytes]:
    """Those of the same training in one go, in this process."""
    config = TrainConfig.read(run / "config.json").model_copy(update={"output": str(folder / "whole")})
    train(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", api.tracking_uri)
        keep_samples.fn(config, api.create_run("0").info.run_id)
    found = grids(folder / "whole" / "samples")
    assert sorted(found) == [f"step-{step:08d}.png" for step in range(SAMPLES, STEPS + 1, SAMPLES)]
    return found


def shards_of(store: Path) -> set[str]:
    """Return the shards of pictures, also where they are only half-written."""
    return {path.name for path in store.glob("shards/*") if not path.name.startswith("captions-")}


def test_cancelled_deployments_end_their_processes_and_leave_all_clean(
    deployed: Deployed, world: World, in_process: Server, tmp_path: Path
) -> None:
    server, store, output = in_process, tmp_path / "store", tmp_path / "cancelled"
    image = encoded(picture())
    data = write_parquet(tmp_path / "a.parquet", [(image, f"a red circle {i}") for i in range(5000)])
    models = {"diffusion": world.diffusion, "llm": world.llm}
    encode = server.begin("encode", data=str(data), store=str(store), **models)
    settings = {**TRAINING, "steps": 100_000}
    train = server.begin("train", store=deployed.store, output=str(output), settings=settings, **models)

    wait_until(lambda: bool(shards_of(store)), 400)
    server.cancel(encode)
    wait_until(lambda: last_step(output) >= 2, 400)
    at_work = workers(output)
    assert at_work
    server.cancel(train)
    wait_until(lambda: {server.state(run)["type"] for run in (encode, train)} == {"CANCELLED"}, 400, interval=0.5)
    wait_until(lambda: not any(map(psutil.pid_exists, at_work)), 60)
    assert saved_step(output) == last_step(output) >= 2
    end_left_over(client(), "1")  # Prefect kills a flow that takes 30 s to end; then the next run says so for it
    (tracked,) = [run for run in client().search_runs(["1"]) if run.info.run_name == "train cancelled"]
    assert tracked.info.status == "KILLED"
    left = EncodingStore.open(store)
    assert (len(left.samples()), shards_of(store), verify(left)) == (0, set(), [])


def resolve(store: str, world: World, settings: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
    asked = {"encoder": "base", "settings": TrainSettings(steps=10, **(settings or {})), **changes}
    request = TrainRequest(store=store, diffusion=world.diffusion, **asked)
    return resolve_config.fn(request, Topology(processes=request.processes))


def test_a_runs_folder_follows_from_its_settings(
    deployed: Deployed, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLMDIFF_HOME", str(tmp_path))

    def folder(**changes: Any) -> str:
        return resolve(deployed.store, world, encoder="llm", **changes).output

    first = folder()
    assert Path(first).parent == tmp_path / "train"
    assert Path(first).name.startswith("store-llm-")
    assert folder(settings={"log_every": 3}) == folder(settings={"learning_rate": 1e-4}) == first
    assert (
        folder(settings={"batch_size": 4}, processes=2) == folder(settings={"batch_size": 2, "accumulate": 4}) == first
    )
    others = [folder(settings={"seed": 1}), folder(settings={"batch_size": 4}), folder(store_version=1), first]
    assert len(set(others)) == 4


def test_a_run_from_an_adapter_is_another_run_and_needs_the_same_encodings(
    deployed: Deployed, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLMDIFF_HOME", str(tmp_path))
    parent = deployed.output / "adapter"
    warm = resolve(deployed.store, world, encoder="llm", settings={"start_from": str(parent)})
    assert (warm.start_from, warm.parent) == (str(parent), "")
    assert warm.output != resolve(deployed.store, world, encoder="llm").output
    about = json.loads((parent / "adapter_config.json").read_text())
    other = shutil.copytree(parent, tmp_path / "other", ignore=shutil.ignore_patterns("manifest.json"))
    (other / "adapter_config.json").write_text(json.dumps({**about, "encoder_fingerprint": "f00"}))
    with pytest.raises(
        ValueError, match=r"other: can't start from it: expected encoder_fingerprint '\w+', .* found 'f00'"
    ):
        resolve(deployed.store, world, encoder="llm", settings={"start_from": str(other)})
    with pytest.raises(FileNotFoundError, match="gone: no such adapter folder"):
        resolve(deployed.store, world, encoder="llm", settings={"start_from": str(tmp_path / "gone")})


def test_a_run_keeps_its_version_of_the_store(world: World, own_store: str, tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    config = resolve(own_store, world, output=output)
    config.write(config.path)
    began = config.store_version
    assert grow(own_store) == began
    assert resolve(own_store, world, output=output) == config
    assert resolve(own_store, world, output=output, store_version=began) == config
    with pytest.raises(ValueError, match=f"began with store version {began}, found {began + 1}: leave the version out"):
        resolve(own_store, world, output=output, store_version=began + 1)
    (tmp_path / "run" / "notes.txt").touch()
    fresh = resolve(own_store, world, output=output, restart=True)
    assert fresh.store_version == EncodingStore.open(own_store).version > began
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"lock", "notes.txt"}
    assert pinned_version(tmp_path / "run", None) is None


def test_the_commit_of_a_cached_hub_model_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    model = tmp_path / "models--some--llm"
    (model / "snapshots" / "0123abc").mkdir(parents=True)
    (model / "snapshots" / "0123abc" / "config.json").touch()
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub_revision("some/llm") == "0123abc"
    assert hub_revision("some/other") == hub_revision(None) == hub_revision(str(tmp_path)) == ""
