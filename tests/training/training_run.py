"""A tiny store, a tiny base and runs on them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infra.launch.hostfile import Topology
from infra.launch.local import launch_command
from llmdiff.process.tcp_ports import free_port
from llmdiff.training import TrainConfig
from llmdiff.training.checkpoints.state import complete
from llmdiff.training.resolve import resolve
from llmdiff.training.worker import main
from storage import EncodingStore, Sample, ShardWriter, caption_hash
from tests.adapter import tiny
from tests.python_path import python_path
from tests.waiting import wait_until

SAMPLES, TOKENS = 24, 7  # of the store; the longest encoding of it
TIMING = {"samples_per_second", "data_wait_share"}
PATHS = {"store": "s", "fingerprint": "f", "base": "b", "output": "o"}  # of a run that is never started
DRAWING = {"sample_every": 3, "validation_prompts": ("caption 1", "caption 2"), "validation_steps": 2}


def save_base(folder: Path, prediction_type: str = "v_prediction") -> Path:
    """What training reads of a base, and nothing else: no autoencoder, no text encoder."""
    tiny.unet().save_pretrained(folder / "unet")
    tiny.schedule(prediction_type).save_pretrained(folder / "scheduler")
    return folder


def make_store(folder: Path, bands: int = 1, broken: bool = False, **description: Any) -> tuple[str, str]:
    """A store of `SAMPLES` captions under an LLM's and the base's fingerprint; returns both."""
    rng = np.random.default_rng(0)
    store = EncodingStore.create(folder)
    llm = store.register_fingerprint({"kind": "llm", "bands": bands, **description})
    base = store.register_fingerprint({"kind": "base"})
    with ShardWriter(store, "shard-0", fingerprint=llm) as writer:
        for row in range(-1, SAMPLES):
            caption = "" if row < 0 else f"caption {row}"
            key = caption_hash(caption)
            length = 1 if row < 0 else 1 + row % TOKENS
            writer.add_encoding(key, bits(rng.standard_normal((length, bands * tiny.HIDDEN))))
            writer.add_encoding(key, bits(rng.standard_normal((tiny.TOKENS, tiny.WIDTH))), fingerprint=base)
            if row < 0:
                continue
            latent = rng.standard_normal((4, 8, 8)).astype(np.float16)
            writer.add_latent(f"latent-{row}", np.full_like(latent, np.inf) if broken and row == 3 else latent)
            sample = {"caption": caption, "caption_hash": key, "source": "made-up", "source_hash": "0", "row": row}
            for fingerprint in (llm, base):
                writer.add_sample(Sample(**sample, fingerprint=fingerprint, latent_key=f"latent-{row}"))
    return str(llm), str(base)


def own_store(root: Path, **options: Any) -> None:
    """Puts a store of a test's own in the place of the shared one."""
    for name in ("store", "fingerprints.json"):
        (root / name).unlink()
    llm, base = make_store(root / "store", **options)
    (root / "fingerprints.json").write_text(json.dumps({"llm": llm, "base": base}))


def bits(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()


def config(root: Path, output: str = "run", **changes: Any) -> TrainConfig:
    """A run of twelve steps on `root`'s store and base."""
    fingerprints = json.loads((root / "fingerprints.json").read_text())
    settings = {
        "store": str(root / "store"),
        "fingerprint": fingerprints["llm"],
        "base": str(root / "base"),
        "output": str(root / output),
        "steps": 12,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup": 3,
        "threads": 1,
        "log_every": 1,
        "checkpoint_every": 4,
    }
    return TrainConfig(**{**settings, **changes})


def resolved(run: TrainConfig, processes: int = 1) -> TrainConfig:
    """The run as its processes read it, in the file where they do."""
    config = resolve(run.model_copy(update={"processes": processes}))
    config.write(config.path)
    return config


def rows(run: TrainConfig) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    lines = (Path(run.output) / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMING} for line in lines]


def losses(run: TrainConfig) -> list[float]:
    return [row["loss"] for row in rows(run)]


WORKER = ("-m", "llmdiff.training.worker")


def start_worker(
    run: TrainConfig, processes: int = 0, command: Sequence[str] = WORKER, arguments: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """The worker in a process of its own; under DeepSpeed's launcher where `processes` is not 0."""
    path = resolved(run, processes or 1).path
    if processes:
        command = launch_command("llmdiff.training.worker", [], Topology(processes=processes))[1:]
    return start_python(*command, "--config", str(path), *arguments)


RANKS = """
import os, sys
from llmdiff.process.startup import start_lightly
from llmdiff.training.worker import leave_out_unused, main

start_lightly()
leave_out_unused()  # as the worker's own program does
import deepspeed  # once for all
from llmdiff.training import loop

ranks = []
for rank in range(int(os.environ["WORLD_SIZE"])):
    if (child := os.fork()) == 0:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        os._exit(main(["--config", sys.argv[1]]))
    ranks.append(child)
sys.exit(any([os.waitpid(rank, 0)[1] for rank in ranks]))
"""


def run_ranks(run: TrainConfig, processes: int) -> str:
    """A run on several processes without the launcher, all out of one that has imported what they need; its output."""
    path = resolved(run, processes).path
    place = {"WORLD_SIZE": str(processes), "LOCAL_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    started = start_python("-c", RANKS, str(path), **place, MASTER_PORT=str(free_port()))
    printed, _ = started.communicate(timeout=200)
    assert started.returncode == 0, printed
    return printed


def start_python(*arguments: str, enter: Sequence[str] = (), **variables: str) -> subprocess.Popen[str]:
    """Python in a process of its own; on the host that the command `enter` is in, if any."""
    root = Path(__file__).resolve().parents[2]
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    environment |= {"PYTHONPATH": python_path(root), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [*enter, sys.executable, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


# What a run in this process leaves in the environment, and a new one must not inherit.
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


def train(config: TrainConfig) -> Path | None:
    """The run in this process; returns its adapter's folder, or None where it was asked to end."""
    from llmdiff.training.loop import train

    return train(resolved(config))


def damaged(run: TrainConfig, output: Path, *names: str) -> TrainConfig:
    """A copy of a run without its result, with a flipped byte in a file of each of its newest checkpoints."""
    shutil.copytree(run.output, output)
    shutil.rmtree(output / "adapter")
    for name, path in zip(names, reversed(complete(output / "checkpoints")), strict=False):
        data = bytearray((path / name).read_bytes())
        data[-2] ^= 1
        (path / name).write_bytes(data)
    return run.model_copy(update={"output": str(output)})


def from_step_8(run: TrainConfig, output: Path) -> TrainConfig:
    """A copy of a run that was killed after eight steps."""
    shutil.copytree(run.output, output)
    shutil.rmtree(output / "adapter")
    shutil.rmtree(output / "checkpoints" / "step-00000012")
    return run.model_copy(update={"output": str(output)})


def refusal(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the training process fails with."""
    assert main(["--config", str(path)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def wait_for(path: Path, worker: subprocess.Popen[str], lines: int = 0, seconds: float = 120) -> None:
    """Wait until a worker has written so many lines to a file."""
    wait_until(lambda: path.exists() and path.read_text().count("\n") >= lines, seconds, worker, interval=0.01)
