"""`llmdiff push`: what is uploaded, what stays private, and that it loads by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from llmdiff.adapter.config import CONFIG, WEIGHTS, read_config
from pipelines.cli.main import main
from tests.hub_models import REPO, ModelHub
from tests.infra.tiny_adapter import make_adapter, make_base, make_store


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter of a run with validation samples, whose configuration is full of paths."""
    base = make_base(tmp_path / "sd")
    fingerprint, version = make_store(tmp_path / "store", {"secret-name.parquet": 4})
    training = {"output": str(tmp_path), "store": str(tmp_path / "store"), "steps": 7, "hosts": ["gpu1.internal"]}
    training |= {"deepspeed": str(tmp_path / "ds.json"), "validation_prompts": ["a secret"], "llm": "~/llm"}
    store = {"store": str(tmp_path / "store"), "store_version": version, "encoder_fingerprint": fingerprint}
    folder = make_adapter(tmp_path / "run" / "adapter", base, **store, training=training)
    (tmp_path / "run" / "samples").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "run" / "samples" / "step-00000004.png")
    return folder


def push(*arguments: str) -> Any:
    """The exit code of the command."""
    with pytest.raises(SystemExit) as ended:
        main(["push", *arguments])
    return ended.value.code


def report(folder: Path) -> Path:
    scores = {"siglip": {"adapter": {"mean": 0.5}, "base": {"mean": 0.25}}, "clip-iqa": {"adapter": {"mean": 0.75}}}
    path = folder / "report.json"
    path.write_text(json.dumps({"scores": scores}))
    return path


def test_what_is_uploaded_loads_by_its_name_and_holds_nothing_private(
    adapter: Path, hub: ModelHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmdiff import LLMDiffPipeline

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    options = ["--license", "apache-2.0", "--evaluation", str(report(tmp_path)), "--diffusion", "ada/tiny-sd"]
    assert push(str(adapter), REPO, *options) == 0
    assert f"it loads as {REPO}" in capsys.readouterr().out
    (files,) = hub.commits
    assert sorted(files) == ["README.md", WEIGHTS, CONFIG, "manifest.json", "samples.png"]
    assert files[WEIGHTS] == (adapter / WEIGHTS).read_bytes()
    for name in ("README.md", CONFIG):
        for private in (str(tmp_path), "secret", "gpu1", "~/llm"):
            assert private not in files[name].decode()
    _, front, body = files["README.md"].decode().split("---\n", 2)
    about = yaml.safe_load(front)
    assert (about["license"], about["base_model"]) == ("apache-2.0", "ada/tiny-sd")
    assert "| model | siglip | clip-iqa |\n| --- | --- | --- |\n| adapter | 0.5 | 0.75 |\n| base | 0.25 |  |" in body
    assert "- data files: 1\n- rows: 3\n" in body
    assert f'from_pretrained("ada/tiny-sd", "{REPO}")' in body

    def drawn(name: str) -> Any:
        pipe = LLMDiffPipeline.from_pretrained(tmp_path / "sd", name, safety_checker=None)
        return pipe("a", num_inference_steps=2, generator=torch.manual_seed(0), output_type="np").images

    assert (drawn(REPO) == drawn(str(adapter))).all()


def test_a_dry_run_writes_the_folder_alone(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert push(str(adapter), REPO, "--dry-run", "--output", str(tmp_path / "shared")) == 0
    assert capsys.readouterr().out == f"written: {tmp_path / 'shared'}\n"
    assert (tmp_path / "shared" / "samples.png").is_file()
    (tmp_path / "run" / "samples" / "step-00000004.png").unlink()
    assert push(str(adapter), REPO, "--dry-run", "--output", str(tmp_path / "shared")) == 0
    capsys.readouterr()
    assert not (tmp_path / "shared" / "samples.png").exists(), "no picture of an earlier call is shared"
    shared, own = read_config(tmp_path / "shared"), read_config(adapter)
    assert (shared.store, shared.base_model, shared.training["steps"]) == ("", "", 7)
    assert shared.encoder_description == own.encoder_description
    assert push(str(adapter), "no-owner", "--dry-run") == 1
    assert capsys.readouterr().err == "error: repository: expected owner/name, found 'no-owner'\n"
