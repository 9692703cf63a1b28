"""Stores made for Stable Diffusion 1.5's U-Net, and real training processes on them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler

from common.models import SCHEDULE, make_unet
from infra.launch.hostfile import Topology
from infra.launch.local import launch_command, launch_environment
from llmdiff.training import TrainConfig
from llmdiff.training.resolve import resolve
from storage import EncodingStore, Sample, ShardWriter, caption_hash

WORKER = "llmdiff.training.worker"


def save_base(folder: Path, quick: bool) -> Path:
    """Save what training reads of a base: U-Net and schedule."""
    make_unet(quick, torch.float16, torch.device("cpu")).save_pretrained(folder / "unet")
    DDPMScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")
    return folder


def make_store(folder: Path, samples: int, side: int, width: int, tokens: Sequence[int]) -> str:
    """Make a store of random encodings, as long as `tokens` says in turn, and latents; return its fingerprint."""
    rng = np.random.default_rng(0)
    store = EncodingStore.create(folder)
    fingerprint = store.register_fingerprint({"kind": "llm", "bands": 1, "width": width})
    with ShardWriter(store, fingerprint=fingerprint) as writer:
        writer.add_encoding(caption_hash(""), random_bits(rng, 1, width))
        for row in range(samples):
            caption = f"caption {row}"
            writer.add_encoding(caption_hash(caption), random_bits(rng, tokens[row % len(tokens)], width))
            writer.add_latent(f"latent {row}", rng.standard_normal((4, side, side), np.float32).astype(np.float16))
            sample = {"caption": caption, "caption_hash": caption_hash(caption), "latent_key": f"latent {row}"}
            writer.add_sample(Sample(**sample, fingerprint=fingerprint, source="made", source_hash="0", row=row))
    return str(fingerprint)


def random_bits(rng: np.random.Generator, tokens: int, width: int) -> np.ndarray:
    """Return bfloat16 bits of normal numbers."""
    values = torch.from_numpy(rng.standard_normal((tokens, width), np.float32))
    return values.bfloat16().view(torch.uint16).numpy()


# Training processes


@dataclass
class Training:
    """A run of the real worker, watched from outside through its log and ``/proc``."""

    config: TrainConfig
    processes: int = 1
    child: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> Training:
        output = Path(self.config.output)
        config = resolve(self.config.model_copy(update={"processes": self.processes}))
        arguments = ["--config", str(config.write(config.path))]
        topology = Topology(processes=self.processes)
        command = launch_command(WORKER, arguments, topology)
        environment = launch_environment(topology) | {"OMP_NUM_THREADS": str(self.config.threads)}
        with output.with_suffix(".log").open("wb") as log:
            self.child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the run, as a power cut would; its files stay."""
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def wait_until(self, ready: Callable[[], bool], seconds: float = 900) -> None:
        """Wait until `ready` returns True; RuntimeError where the run ends or time is up before."""
        deadline = time.monotonic() + seconds
        while not ready():
            ended = self.child.poll() is not None
            if (ended and not ready()) or time.monotonic() > deadline:
                log = Path(self.config.output).with_suffix(".log").read_text(errors="replace")
                raise RuntimeError(f"{self.config.output}: {'ended' if ended else 'too slow'}:\n{log[-3000:]}")
            time.sleep(0.02)

    def rows(self) -> list[dict[str, Any]]:
        """Return the log's complete rows."""
        path = Path(self.config.output) / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def step_seconds(self, row: dict[str, Any]) -> float:
        """Return how long each step of a row took."""
        samples = self.config.batch_size * self.config.accumulate * self.processes
        return samples / row["samples_per_second"]

    def reset_peak(self) -> None:
        """Reset the resident set's high-water mark."""
        Path(f"/proc/{self.child.pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """Return the most bytes resident since the reset."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        found = re.search(r"VmHWM:\s*(\d+) kB", status)
        assert found is not None
        return int(found.group(1)) * 1024
