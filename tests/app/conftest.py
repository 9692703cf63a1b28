"""What `llmdiff demo` leaves, in small: data, a store, an adapter in the registry, and a training run that goes on."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

MARKUP = "<img src=x onerror=window.hacked=1>"
"""A caption, a prompt and a name that a page must show as text."""
ODD = f"odd {MARKUP}.parquet"
"""A file's name that holds the same markup."""


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory, empty_tracking: Path) -> Iterator[Path]:
    """A folder of runs on the shapes benchmark: `demo/data`, `demo/store`, `demo/adapter`, `mlflow.db`."""
    from llmdiff.data.encode.data_set import note_sources
    from llmdiff.data.encode.encoder_set import prepare
    from llmdiff.data.encode.shard import encode_shard
    from llmdiff.data.sources import open_source
    from llmdiff.diffusion.latents import LatentEncoder
    from llmdiff.encoder import Encoder
    from llmdiff.shapes import DIFFUSION, LLAMA
    from llmdiff.shapes.shards import write_shards
    from pipelines.runtime.shapes_benchmark import ENCODER
    from storage import EncodingStore

    home = tmp_path_factory.mktemp("demo")
    data = home / "demo" / "data"
    write_shards(data, 20)
    write_odd(data / ODD)
    store = EncodingStore.create(home / "demo" / "store")
    encoder = Encoder.from_pretrained(LLAMA, ENCODER)
    encoders = prepare(store, encoder, LatentEncoder.from_pretrained(str(DIFFUSION)), 64, 16)
    shards = open_source(str(data))
    for shard in shards:
        encode_shard(store, shard, encoders)
    names = {shard.content_hash: shard.name for shard in shards}
    note_sources(store, str(data), encoders.fingerprint, names)
    facts = {
        "encoder": "llm",
        "encoding_dim": encoder.hidden_size,
        "encoder_fingerprint": encoders.fingerprint,
        "encoder_description": encoder.describe(),
        "base_model": str(DIFFUSION),
        "store": str(home / "demo" / "store"),
    }
    folder = make_adapter(home / "demo" / "adapter" / "adapter", str(DIFFUSION), facts)
    shutil.copy(empty_tracking, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LLMDIFF_HOME", str(home))
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        track(home, folder, str(DIFFUSION), str(LLAMA))
        yield home


@pytest.fixture
def at_demo(demo_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demonstration's folder, set as the folder of runs."""
    monkeypatch.setenv("LLMDIFF_HOME", str(demo_home))
    return demo_home


def write_odd(path: Path) -> None:
    """A caption that is markup, a picture too small to use, and one that is cut short."""
    rows = [(64, MARKUP, 0), (8, "too small", 0), (64, "cut short", 60)]
    images = []
    for side, _, cut in rows:
        file = io.BytesIO()
        Image.new("RGB", (side, side), "navy").save(file, "PNG")
        images.append({"bytes": file.getvalue()[: cut or None], "path": None})
    pq.write_table(pa.table({"image": images, "text": [text for _, text, _ in rows]}), path)


def make_adapter(folder: Path, base: str, facts: dict[str, Any]) -> Path:
    """An untrained adapter that does something: its new path starts as a copy, its projection at random."""
    from diffusers import UNet2DConditionModel

    from llmdiff.adapter import AdapterSettings, LLMAdapter

    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    torch.manual_seed(0)
    LLMAdapter.for_unet(unet, AdapterSettings(new_weight=1.0), **facts).save(folder)
    return folder


def track(home: Path, adapter: Path, base: str, llm: str) -> None:
    """A run of two rows in MLflow with one file of validation samples, and the adapter as a version of it."""
    from safetensors.torch import save_file

    from infra.tracking.registry_names import MODEL
    from infra.tracking.run import client, tracked_run

    output = home / "demo" / "adapter"
    (output / "samples").mkdir()
    latents = {"latents": torch.randn(1, 4, 8, 8)}
    save_file(latents, output / "samples" / "step-00000010.safetensors", {"prompts": f'["{MARKUP}"]'})
    layers = ("up_blocks.1.attn2", "down_blocks.0.attn2")
    rows = [
        {
            "step": step,
            "loss": 1 / step,
            "grad_norm": 0.5,
            "data_wait_share": 0.25,
            "loss_by_timestep": [0.4, 0.3, 0.2, None],
            "weights": [{"layer": layer, "original": 1.0, "new": 0.1 * step} for layer in layers],
        }
        for step in (5, 10)
    ]
    with tracked_run(f"train {MARKUP}", {"output": str(output), "base": base, "steps": 20}, {}) as run:
        run.follow(rows)
    api = client()
    api.create_registered_model(MODEL)
    api.create_model_version(MODEL, adapter.as_uri(), run.run_id, tags={"llm": llm})
    api.set_registered_model_alias(MODEL, "candidate", "1")
