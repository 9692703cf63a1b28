from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from infra.environment import tracking_uri
from infra.launch.local import end_group
from infra.tracking.registry import Registered, fetch_adapter, find_version, register_adapter, set_champion
from infra.tracking.run import client
from llmdiff.process.tcp_ports import free_port
from tests.adapter import tiny
from tests.damage import flip
from tests.infra.tiny_adapter import make_adapter, make_base

PROMPTS = ["a red circle", "a blue square"]


@pytest.fixture
def registered(tracking: Path, tmp_path: Path) -> Iterator[Registered]:
    """A champion, for MLflow's own functions too."""
    champion = register_adapter(make_adapter(tmp_path / "adapter", make_base(tmp_path / "sd")), tags={})
    set_champion(find_version(champion.uri))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking_uri())
    yield champion
    mlflow.set_tracking_uri(before)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.process
def test_the_champion_turns_prompts_into_the_pictures_that_the_pipeline_draws(registered: Registered) -> None:
    from llmdiff import LLMDiffPipeline

    model = mlflow.pyfunc.load_model("models:/llmdiff-adapter@champion")
    drawn = model.predict(PROMPTS, params={"seed": 5, "steps": 2, "guidance": 3.0})
    assert drawn[["prompt", "seed"]].values.tolist() == [[PROMPTS[0], 5], [PROMPTS[1], 6]]
    folder = fetch_adapter(registered.uri)
    base = json.loads((folder / "adapter_config.json").read_text())["base_model"]
    pipe = tiny.quiet(LLMDiffPipeline.from_pretrained(base, folder, safety_checker=None))
    for prompt, seed, png in drawn.itertuples(index=False):
        expected = (tiny.draw(pipe, prompt, seed)[0] * 255).round().astype(np.uint8)
        np.testing.assert_array_equal(pixels(png), expected)
    assert (pixels(drawn.image[0]) != pixels(drawn.image[1])).any()


@pytest.mark.process
def test_it_has_a_signature_an_example_no_pickle_and_checksums(registered: Registered) -> None:
    info = mlflow.models.get_model_info(registered.uri)
    assert [column.type.name for column in info.signature.inputs] == ["string"]
    assert [column.name for column in info.signature.outputs] == ["prompt", "seed", "image"]
    assert {param.name: param.default for param in info.signature.params} == {"seed": 0, "steps": 30, "guidance": 5.0}
    assert info.saved_input_example_info is not None
    source = client().get_model_version_download_uri(registered.name, str(registered.version))
    flip(Path(source.removeprefix("file://"), "artifacts", "adapter", "adapter.safetensors"))
    with pytest.raises(ValueError, match=r"adapter\.safetensors: damaged: expected CRC-32"):
        mlflow.pyfunc.load_model(registered.uri)
    root = Path(source.removeprefix("file://"))
    files = sorted(str(p.relative_to(root)) for p in root.rglob("*.*") if p.parent.name != "__pycache__")
    assert [f for f in files if f.startswith("artifacts/")] == [
        "artifacts/adapter/adapter.safetensors",
        "artifacts/adapter/adapter_config.json",
        "artifacts/adapter/manifest.json",
    ]
    assert {Path(file).suffix for file in files} <= {"", ".py", ".txt", ".yaml", ".json", ".safetensors"}


@pytest.mark.process
def test_it_asks_for_mlflow_and_the_light_core_alone(registered: Registered) -> None:
    file = mlflow.artifacts.download_artifacts(f"{registered.uri}/requirements.txt")
    names = {re.split(r"[^a-z0-9-]", line)[0] for line in Path(file).read_text().splitlines()}
    assert {"mlflow", "torch", "transformers", "diffusers", "safetensors", "pillow"} <= names
    assert not names & {"deepspeed", "deltalake", "llmdiff", "prefect", "pyarrow", "ray", "zarr"}


@pytest.mark.process
def test_an_llm_that_moved_is_named_at_loading(tracking: Path, tmp_path: Path) -> None:
    from llmdiff.encoder import Encoder
    from tests.encoder import tiny_models

    tiny_models.build("llama").save_pretrained(tmp_path / "llm")
    tiny_models.tokenizer().save_pretrained(tmp_path / "llm")
    encoder = Encoder.from_pretrained(str(tmp_path / "llm"))
    facts = {"encoder": "llm", "encoding_dim": encoder.hidden_size, "encoder_description": encoder.describe()}
    folder = make_adapter(tmp_path / "adapter", make_base(tmp_path / "sd"), **facts)
    version = register_adapter(folder, tags={"llm": str(tmp_path / "llm")})
    source = client().get_model_version_download_uri(version.name, str(version.version))
    drawn = mlflow.pyfunc.load_model(source).predict(PROMPTS[:1], params={"steps": 1})
    (tmp_path / "llm").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="llm"):
        mlflow.pyfunc.load_model(source)
    moved = mlflow.pyfunc.load_model(source, model_config={"llm": str(tmp_path / "moved")})
    assert moved.predict(PROMPTS[:1], params={"steps": 1}).image[0] == drawn.image[0]


def post(url: str, body: dict[str, object]) -> dict[str, list[dict[str, str]]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


@pytest.mark.service
def test_mlflow_serves_it_over_http(registered: Registered, tmp_path: Path) -> None:
    port, bin = free_port(), Path(sys.executable).parent
    command = [str(bin / "mlflow"), "models", "serve", "-m", "models:/llmdiff-adapter@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri(), "PATH": f"{bin}:{os.environ['PATH']}"}
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 200
            while True:
                assert server.poll() is None, (tmp_path / "serve.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "serve.log").read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.2)
            body = {"inputs": PROMPTS, "params": {"steps": 2, "seed": 5, "guidance": 3.0}}
            rows = post(f"http://127.0.0.1:{port}/invocations", body)["predictions"]
        finally:
            end_group(server, grace=10)
    here = mlflow.pyfunc.load_model(registered.uri).predict(PROMPTS, params=body["params"])
    assert [row["prompt"] for row in rows] == PROMPTS
    for row, png in zip(rows, here.image, strict=True):
        np.testing.assert_array_equal(pixels(base64.b64decode(row["image"])), pixels(png))
