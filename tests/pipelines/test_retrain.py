"""Retraining on the shapes benchmark: waves of shards, broken and empty ones, a crash, an event, two at once.

What it reads of the LLM is not what is read where nothing is set, so each step, from encoding on, must be told of it.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from infra.tracking.registry import adapter_tags, fetch_adapter, find_alias
from infra.tracking.run import client
from llmdiff.adapter.files import check_adapter
from llmdiff.data.sources import ReadinessPolicy
from llmdiff.encoder import EncoderConfig
from llmdiff.shapes import DIFFUSION, LLAMA
from llmdiff.shapes.captions import PROMPT
from llmdiff.shapes.shards import write_shards
from llmdiff.training.config import TrainSettings
from pipelines.cli.main import main
from pipelines.flows import retrain
from pipelines.flows.evaluate import evaluate_flow
from pipelines.flows.promote import Decision, recorded
from pipelines.flows.retrain import RetrainResult, retrain_flow
from pipelines.reports.lineage import chain
from pipelines.requests.evaluate import EvaluateRequest
from pipelines.requests.promote import PromotionPolicy
from pipelines.requests.retrain import RetrainRequest
from storage import EncodingStore
from storage.locks.mutex import job_mutex
from tests.pipelines.conftest import ROOT, Deployed, Server
from tests.waiting import wait_until

NAME = "grown"
ROWS = 32
READING = {"reading": "norm_mean", "template_keep": "caption"}
TRAINING = {"steps": 6, "batch_size": 8, "learning_rate": 2.5e-3, "warmup": 1, "log_every": 1, "threads": 1}


def arguments(root: Path, **changes: Any) -> dict[str, Any]:
    """Return a deployment's parameters of retraining, as JSON."""
    given = {
        "data": str(root / "data"),
        "store": str(root / "store"),
        "diffusion": str(DIFFUSION),
        "llm": str(LLAMA),
        "name": NAME,
        "encoder_settings": {"template": PROMPT, "dtype": "float32", **READING},
        "settings": {**TRAINING, "ema_decay": 0.5, "adapter": {"new_weight": 1.0}},
        "readiness": {"settle": 0.2},
        "policy": {"metric": "colour", "scenes": 6, "steps": 3},
    }
    return {**given, **changes}


def run(root: Path, **changes: Any) -> RetrainResult:
    given = arguments(root, **changes)
    given["encoder_settings"] = EncoderConfig.from_dict(given["encoder_settings"])
    given["settings"] = TrainSettings(**given["settings"])
    given["readiness"], given["policy"] = ReadinessPolicy(**given["readiness"]), PromotionPolicy(**given["policy"])
    return retrain_flow(RetrainRequest(**given))


def wave(root: Path, number: int) -> Path:
    """A shard of its own."""
    (shard,) = write_shards(root / "data" / f"wave-{number}", ROWS, seed=number)
    return shard


def trained_on(version: int) -> dict[str, tuple[str, int]]:
    """Hash and rows of the files behind a version, by name."""
    files = chain(f"models:/{NAME}/{version}")["data"]["files"]
    return {file["source"]: (file["hash"], file["rows"]) for file in files}


def expected(root: Path, *shards: Path) -> dict[str, tuple[str, int]]:
    return {
        shard.relative_to(root / "data").as_posix(): (hashlib.sha256(shard.read_bytes()).hexdigest(), ROWS)
        for shard in shards
    }


KILLED = """
import json, os, signal, sys
from pipelines.flows import retrain
from tests.pipelines import test_retrain
retrain.train_on = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
test_retrain.run(test_retrain.Path(sys.argv[1]))
"""


def killed_before_training(root: Path, server: Server) -> int:
    """The exit code of a process that retrains and is killed when all is encoded."""
    command = [sys.executable, "-c", KILLED, str(root)]
    env = {**server.env, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, cwd=ROOT, timeout=300).returncode


@pytest.fixture
def deployment(deployed: Deployed, in_process: Server, tmp_path: Path) -> Iterator[None]:
    """The deployment retrain/default, with the test's own parameters for as long as it lasts."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate

    with get_client(sync_client=True) as api:
        found = api.read_deployment_by_name("retrain/default")
        api.update_deployment(found.id, DeploymentUpdate(parameters=arguments(tmp_path)))
        yield
        api.update_deployment(found.id, DeploymentUpdate(parameters=found.parameters))


def runs_of_events() -> list[Any]:
    """Flow runs that an automation started."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as api:
        return [each for each in api.read_flow_runs() if each.created_by and each.created_by.type == "AUTOMATION"]


def wait_for_event_run() -> Any:
    wait_until(lambda: any(each.state.is_final() for each in runs_of_events()), 300, interval=0.5)
    (only,) = [each for each in runs_of_events() if each.state.is_final()]
    return only


def test_three_waves_a_crash_and_an_event(
    tmp_path: Path, deployment: None, in_process: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = wave(tmp_path, 1)
    began = run(tmp_path)
    assert (began.outcome, began.version, began.parent) == ("promoted", 1, None)
    assert began.found is not None
    assert (began.found.samples, began.unseen) == (ROWS, ["wave-1/shapes-00000-of-00001.parquet"])
    assert "trained from scratch; version 1 is the first champion" in began.reason

    with monkeypatch.context() as patch:
        patch.setattr(retrain, "encode_flow", None)  # no model is loaded
        again = run(tmp_path)
        assert again.outcome == "nothing to do"
        assert again.reason.startswith("nothing to do: every sample in version ")
        with pytest.raises(ValueError, match="can't start from it: trained with reading 'norm_mean', found 'score'"):
            run(tmp_path, encoder_settings={"template": PROMPT, "dtype": "float32"})

    second, third = wave(tmp_path, 2), wave(tmp_path, 3)
    data = second.parent
    (data / "broken.parquet").write_bytes(b"not Parquet at all, and never will be")
    pq.write_table(pq.read_table(second).slice(0, 0), data / "empty.parquet")
    whole = third.read_bytes()
    third.write_bytes(whole[: len(whole) // 2])
    assert killed_before_training(tmp_path, in_process) == -signal.SIGKILL
    assert find_alias("candidate", NAME).version == 1
    assert len(EncodingStore.open(tmp_path / "store").samples()) == 2 * ROWS

    after = run(tmp_path)
    assert after.found is not None
    assert (after.found.samples, after.version, after.parent) == (0, 2, f"models:/{NAME}/1")
    assert after.unseen == ["wave-2/shapes-00000-of-00001.parquet"]
    assert list(after.found.broken) == ["wave-2/broken.parquet"]
    assert "no footer yet" in after.found.unfinished["wave-3/shapes-00000-of-00001.parquet"]
    assert trained_on(2) == expected(tmp_path, first, second)

    third.write_bytes(whole)
    champion = find_alias("champion", NAME).version
    with pytest.raises(SystemExit) as told:
        main(["announce", str(third)])
    assert told.value.code == 0
    assert wait_for_event_run().state.is_completed()
    assert trained_on(3) == expected(tmp_path, first, second, third)
    assert adapter_tags(f"models:/{NAME}/3")["parent"] == f"models:/{NAME}/{champion}"
    assert chain(f"models:/{NAME}/3")["parent"]["data"]["rows"] == int(champion) * ROWS

    decisions = decided()
    shares = {version: decision.candidate_score for version, decision in decisions.items()}
    assert list(shares) == [1, 2, 3]
    assert find_alias("champion", NAME).version == max(shares, key=lambda version: (shares[version], -version))
    for decision in decisions.values():
        assert decision.champion is None or decision.champion_score == shares[decision.champion]
    ends = run(tmp_path)
    assert ends.outcome == "nothing to do"
    assert ends.reason.endswith("broken: wave-2/broken.parquet")

    source = f"models:/{NAME}@champion"
    described = check_adapter(fetch_adapter(source)).encoder_description
    assert {name: described[name] for name in READING} == READING
    request = EvaluateRequest(adapter=source, output=str(tmp_path / "evaluated"), scenes=2, steps=1)
    evaluated = evaluate_flow(request)
    assert evaluated.report["pictures"] == 6


def decided() -> dict[int, Decision]:
    """What was decided about each version, in their order."""
    found = {int(version.version): recorded(version) for version in client().search_model_versions(f"name='{NAME}'")}
    return {version: decision for version in sorted(found) if (decision := found[version]) is not None}


def test_a_second_one_ends_as_busy_and_makes_nothing(in_process: Server, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with job_mutex(EncodingStore.create(tmp_path / "store").path, "retrain"):
        busy = run(tmp_path, wait=0.1)
    assert (busy.outcome, busy.found) == ("busy", None)
    assert "another retrain is at work: process " in busy.reason
    assert EncodingStore.open(tmp_path / "store").fingerprints() == {}


def test_what_can_be_refused_is_refused_before_anything_is_made(in_process: Server, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data: no such file or folder"):
        run(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match=r"settings.start_from: expected none, for it follows from start"):
        run(tmp_path, settings={"start_from": "somewhere"})
    assert not (tmp_path / "store").exists()
