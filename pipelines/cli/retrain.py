"""The commands for data that grow: ``llmdiff retrain`` and ``llmdiff announce``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.bootstrap import encoder_config, end_well_on_sigterm, start_engine
from pipelines.cli.console import print_json
from pipelines.cli.registry import MODEL, Json, Metric, Name, Prompts, Wording

retrain_app = typer.Typer()
PLACES = "--data shards/ --store runs/store --diffusion <SD 1.5> --llm microsoft/phi-1_5"
EXAMPLES = f"""Example: llmdiff retrain {PLACES} --set steps=2000

Example: llmdiff retrain {PLACES} --start scratch --wait-for-success --margin 0.02 --json
"""

Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="One training setting, over --config.")]
EncoderSet = Annotated[
    list[str], typer.Option("--encoder-set", metavar="KEY=VALUE", help="One encoder setting, over --encoder-config.")
]


@retrain_app.command(epilog=EXAMPLES)
def retrain(
    data: Annotated[Path, typer.Option(help="What grows: a file or folder as `encode` takes it.")],
    store: Annotated[str, typer.Option(help="Folder of the encoding store, or s3://bucket/prefix.")],
    diffusion: Annotated[str, typer.Option(help="Folder or name of the Stable Diffusion model.")],
    llm: Annotated[str | None, typer.Option(help="Folder or name of the decoder-only LLM.")] = None,
    encoder: Annotated[Literal["llm", "base"], typer.Option(help="Whose encodings; base is the control.")] = "llm",
    name: Name = MODEL,
    processes: Annotated[int, typer.Option(min=1, help="Processes of training on this machine, one a GPU.")] = 1,
    ray: Annotated[str | None, typer.Option(help="Encode on a Ray cluster: local, auto or host:6379.")] = None,
    start: Annotated[
        Literal["champion", "scratch"], typer.Option(help="Train on from the champion's weights, or from scratch.")
    ] = "champion",
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds for which a file must not have changed to count as whole.")
    ] = 10.0,
    wait_for_success: Annotated[
        bool,
        typer.Option("--wait-for-success", help="Take files of folders with a _SUCCESS alone, as Spark leaves it."),
    ] = False,
    metric: Metric = "binding",
    prompts: Prompts = None,
    wording: Wording = "natural",
    margin: Annotated[float, typer.Option(min=0, help="How much better than the champion it must be.")] = 0.0,
    scenes: Annotated[int, typer.Option(min=1, help="Held-out scenes, each a prompt of promotion.")] = 200,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for another retrain on the store to end.")] = 0.0,
    config: Annotated[Path | None, typer.Option(help="YAML or JSON file of training settings.")] = None,
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
    from pipelines.cli.config_files import checked, read_settings

    ended = end_well_on_sigterm()
    given, of_encoder = (
        read_settings(config, set_),
        encoder_config(encoder_file, read_settings(encoder_file, encoder_set)),
    )
    start_engine()
    from llmdiff.data.sources import ReadinessPolicy
    from llmdiff.training.config import TrainSettings
    from pipelines.flows.retrain import retrain_flow
    from pipelines.runtime.promotion_policy import PromotionPolicy

    if ended:  # the exit may have been swallowed by an import
        sys.exit(0)
    settings = checked(given, TrainSettings, "training settings")
    growing = ReadinessPolicy(settle=settle, wait_for_success=wait_for_success)
    given_rule = {"prompts": prompts, "metric": metric, "wording": wording, "margin": margin, "scenes": scenes}
    rule = checked(given_rule, PromotionPolicy, "promotion rule")
    places = (str(data), store, diffusion, llm, encoder, name, processes)
    result = retrain_flow(*places, of_encoder, settings, ray, start, growing, rule, wait)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    print(f"{result.outcome}: {result.reason.removeprefix('nothing to do: ')}")
    if result.found is not None:
        for file, why in {**result.found.unfinished, **result.found.broken}.items():
            print(f"{file}: {why}", file=sys.stderr)


@retrain_app.command(epilog="Example: llmdiff announce shards/day-12.parquet")
def announce(
    data: Annotated[Path, typer.Argument(help="The new file, or the folder that has one.")],
) -> None:
    """Tell Prefect's server that data are new, which starts a run of the deployment retrain/default there."""
    from llmdiff.data.sources import source_files

    files = source_files(data)
    from infra.service.events import announce_data

    server = announce_data(data.resolve(), len(files))
    print(f"announced to {server}: {data}, {len(files)} file{'s' * (len(files) != 1)}")
