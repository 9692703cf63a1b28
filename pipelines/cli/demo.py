"""The commands ``llmdiff demo`` and ``llmdiff shapes``: the whole path, and data for a first try of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.bootstrap import start_engine

demo_app = typer.Typer()


@demo_app.command(epilog="Example: llmdiff demo --out runs/demo\n\nExample: llmdiff demo --quick")
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("runs/demo"),
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Show the path in under 3 minutes, with tiny sizes: the figures prove nothing."),
    ] = False,
) -> None:
    """Run the whole path on the synthetic shapes benchmark: encode, train, register, evaluate, report."""
    start_engine()
    from pipelines.demo import FULL, QUICK, run_demo

    run_demo(out, QUICK if quick else FULL)


@demo_app.command(epilog="Example: llmdiff shapes runs/first/data --pictures 3000 --retrain runs/first/retrain.json")
def shapes(
    folder: Annotated[Path, typer.Argument(help="Folder of the Parquet shards; made if it is missing.")],
    pictures: Annotated[int, typer.Option(min=1, help="Number of pictures to draw.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes and their captions.")] = 0,
    retrain: Annotated[
        Path | None, typer.Option(help="File for the parameters of a first retraining on them, of some minutes.")
    ] = None,
) -> None:
    """Draw captioned pictures of the synthetic shapes benchmark: data for a first try of the other commands."""
    from llmdiff.shapes import DIFFUSION, LLAMA
    from llmdiff.shapes.shards import write_shards

    for shard in write_shards(folder, pictures, seed):
        print(shard)
    print(f"its models: --llm {LLAMA} --diffusion {DIFFUSION}")
    if retrain is not None:
        from pipelines.runtime.shapes_benchmark import retraining

        retrain.parent.mkdir(parents=True, exist_ok=True)
        retrain.write_text(json.dumps(retraining(folder), indent=2) + "\n")
        print(f"parameters of retrain/default: {retrain}")
