"""The command ``llmdiff train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.ending import exit_if_ending
from pipelines.cli.bootstrap import start_engine
from pipelines.cli.options import Config, Set, options_of
from pipelines.requests.base import checked
from pipelines.requests.train import TrainRequest

if TYPE_CHECKING:
    from pipelines.flows.train import TrainResult

train_app = typer.Typer()


@train_app.command(
    epilog="Example: llmdiff train --store runs/store --diffusion <SD 1.5> --llm microsoft/phi-1_5 --set steps=10000"
    "\n\nSeveral hosts: llmdiff train --hostfile hosts --store s3://bucket/store --diffusion <SD 1.5> --output /mnt/x"
    "\n\nCheckout, store, base and output are at the same paths on all hosts: docs/how-to/hosts.md"
)
@options_of(TrainRequest, without=("settings", "ssh"))
def train(
    given: dict[str, Any],
    node_rank: Annotated[
        int | None,
        typer.Option(min=0, help="Which host of --hostfile this is: without ssh, the command is started on each."),
    ] = None,
    register: Annotated[bool, typer.Option(help="Make it a version in the registry, alias candidate.")] = True,
    config: Config = None,
    set_: Set = [],  # noqa: B006 typer copies it
) -> None:
    """Train an adapter on the store's encodings, and register it; the same command goes on where it was cut short."""
    from pipelines.cli.config_files import read_settings

    settings = read_settings(config, set_)
    if joined(given, node_rank):
        return
    start_engine()
    from llmdiff.training.config import TrainSettings
    from pipelines.flows.train import train_flow

    exit_if_ending()
    asked = {**given, "settings": checked(settings, TrainSettings, "training settings"), "ssh": node_rank is None}
    request = checked(asked, TrainRequest, "train")
    result = train_flow(request)
    print_result(result)
    if register:
        register_result(result, request.llm)


def joined(given: dict[str, Any], node_rank: int | None) -> bool:
    """Take the part of a further host, where this is one; return whether it was."""
    from infra.launch.hostfile import topology_of

    topology = topology_of(given["processes"], given["hostfile"], node_rank, given["master_port"])
    if topology.rank is not None and given["output"] is None:
        raise ValueError("expected --output with --node-rank: the same folder on every host")
    if not topology.rank:
        return False
    from infra.launch.run import join_training

    join_training(Path(given["output"]), topology, given["restart"])
    return True


def print_result(result: TrainResult) -> None:
    """Print where the adapter is, and what it reached."""
    if result.before:
        print(f"finished before, on version {result.store_version} of the store; --restart begins again")
    print(f"adapter: {result.adapter} ({result.steps} steps, loss {result.loss:.4f}, {result.seconds:.0f} s)")
    print(f"MLflow run: {result.run_id}")


def register_result(result: TrainResult, llm: str | None) -> None:
    """Make the adapter a version in the registry, unless an earlier call did."""
    from pipelines.flows.train import registered_before

    if registered_before(result):
        return
    from pipelines.flows.register import register_flow
    from pipelines.requests.register import RegisterRequest

    registered = register_flow(RegisterRequest(adapter=result.adapter, run_id=result.run_id, llm=llm))
    print(f"registered: {registered.name} version {registered.version}, {registered.uri}")
