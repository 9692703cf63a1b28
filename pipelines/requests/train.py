"""The request of the train stage."""

from __future__ import annotations

from pydantic import Field

from infra.launch.hostfile import MASTER_PORT
from llmdiff.training.config import TrainSettings
from pipelines.requests.base import EncoderKind, OptionalPathText, Request


class TrainRequest(Request):
    """Train an adapter on a store's encodings."""

    store: str
    """Folder of the encoding store, or s3://bucket/prefix."""
    diffusion: str
    """Folder, name or single file of the Stable Diffusion model, which stays frozen."""
    output: OptionalPathText = None
    """Folder of the run; default: one for these settings. An unfinished one goes on."""
    restart: bool = False
    """Remove what the run left, and begin again."""
    encoder: EncoderKind = "llm"
    """Whose encodings to train on; base is the control."""
    fingerprint: str | None = None
    """Which encodings, where the store has several of that kind."""
    store_version: int | None = None
    """Snapshot of the store; default: the one that the run began with, or the newest."""
    processes: int = Field(default=1, ge=1)
    """Processes on this machine, one a GPU; with a hostfile, its slots count."""
    settings: TrainSettings = TrainSettings()
    """Settings of training: steps, batch size, learning rate, ..."""
    llm: str | None = None
    """Folder, GGUF file or name of the LLM behind the encodings, recorded with the adapter for `generate` to find."""
    llm_revision: str | None = None
    """The LLM's commit on the hub; default: the cached one."""
    hostfile: OptionalPathText = None
    """Hosts, lines such as 'worker-1 slots=8', that ssh reaches from here; a slot is a process. The run's folder is on
    a path that all of them share."""
    ssh: bool = True
    """Whether the hosts are reached from here; else this is the first one, and `llmdiff train --node-rank` runs on each
    of the others."""
    master_port: int = Field(default=MASTER_PORT, ge=1, le=65535)
    """Port on the first host of the hostfile, where the processes find one another."""
