"""The commands for data that grow: ``llmdiff retrain`` and ``llmdiff announce``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from infra.ending import exit_if_ending
from llmdiff.data.sources.readiness import ReadinessPolicy
from llmdiff.extras import require
from llmdiff.training.config import TrainSettings
from pipelines.cli.bootstrap import encoder_config, start_engine
from pipelines.cli.console import print_json
from pipelines.cli.options import Config, Json, OneDataSet, options_of
from pipelines.requests.base import CommandLine, checked
from pipelines.requests.promote import PromotionPolicy
from pipelines.requests.retrain import RetrainRequest

if TYPE_CHECKING:
    from pipelines.flows.retrain import RetrainResult

retrain_app = typer.Typer()
PLACES = "--data shards/ --store runs/store --diffusion <SD 1.5> --llm microsoft/phi-1_5"
EXAMPLES = f"""Example: llmdiff retrain {PLACES} --set steps=2000

Example: llmdiff retrain {PLACES} --start scratch --wait-for-success --margin 0.02 --json
"""
NESTED: dict[str, type[BaseModel]] = {"readiness": ReadinessPolicy, "policy": PromotionPolicy}
"""Groups of a request whose fields are options of their own."""
TITLES = {"readiness": "readiness policy", "policy": "promotion policy"}
LEFT = ("readiness", "policy", "encoder_settings", "settings", "seed", "steps", "guidance")
"""Fields that are written in another way, or not at all: a retraining's policy draws as `promote` does by default."""

Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="One training setting, over --config.")]
EncoderSet = Annotated[
    list[str], typer.Option("--encoder-set", metavar="KEY=VALUE", help="One encoder setting, over --encoder-config.")
]


@retrain_app.command(cls=OneDataSet, epilog=EXAMPLES)
@options_of(
    RetrainRequest,
    ReadinessPolicy,
    PromotionPolicy,
    without=LEFT,
    written={"wait_for_success": CommandLine(flag="--wait-for-success")},
)
def retrain(
    given: dict[str, Any],
    config: Config = None,
    set_: Set = [],  # noqa: B006 typer copies it
    encoder_file: Annotated[
        Path | None, typer.Option("--encoder-config", help="YAML or JSON file of encoder settings.")
    ] = None,
    encoder_set: EncoderSet = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Encode new data, train where no version has seen some of it, and promote the result if it is better.

    Nothing new: it ends in seconds. Files that are still being written are left for the next time. Cut short, the same
    command goes on.
    """
    require("prefect")
    from pipelines.cli.config_files import read_settings

    settings = read_settings(config, set_)
    of_encoder = encoder_config(encoder_file, read_settings(encoder_file, encoder_set))
    asked = {**grouped(given), "encoder_settings": of_encoder}
    asked["settings"] = checked(settings, TrainSettings, "training settings")
    request = checked(asked, RetrainRequest, "retrain")
    start_engine()
    from pipelines.flows.retrain import retrain_flow

    exit_if_ending()
    print_result(retrain_flow(request), as_json)


def grouped(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options with those of each group in a model of its own."""
    asked = dict(given)
    for name, model in NESTED.items():
        values = {field: asked.pop(field) for field in model.model_fields if field in asked}
        asked[name] = checked(values, model, TITLES[name])
    return asked


def print_result(result: RetrainResult, as_json: bool) -> None:
    """Print what a retrain did, and on standard error the files that it left."""
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    print(f"{result.outcome}: {result.reason.removeprefix('nothing to do: ')}")
    if result.found is not None:
        for file, why in {**result.found.unfinished, **result.found.broken}.items():
            print(f"{file}: {why}", file=sys.stderr)


@retrain_app.command(epilog="Example: llmdiff announce shards/day-12.parquet")
def announce(
    data: Annotated[str, typer.Argument(help="The new file, or the folder that has one, as retrain takes its data.")],
) -> None:
    """Tell Prefect's server that data are new, which starts a run of the deployment retrain/default there."""
    require("prefect")
    from llmdiff.data.sources import list_data

    listed = list_data(data)
    from infra.service.events import announce_data

    count = len(listed.files)
    server = announce_data(str(listed.root.resolve()), listed.root.name, count)
    print(f"announced to {server}: {listed.root}, {count} file{'s' * (count != 1)}")
