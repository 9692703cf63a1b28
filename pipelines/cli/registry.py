"""The commands on the registry: ``llmdiff lineage``, ``promote``, ``rollback``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pipelines.cli.bootstrap import start_engine
from pipelines.cli.console import print_json

registry_app = typer.Typer()
MODEL = "llmdiff-adapter"

Name = Annotated[str, typer.Option(help="Registered model.")]
Metric = Annotated[
    str,
    typer.Option(
        help="What counts: colour, binding, relation, count; with --prompts siglip, siglip2, clip, clip-iqa, or one of "
        "these with another model, as siglip=<folder or name>."
    ),
]
Prompts = Annotated[str | None, typer.Option(help="File or folder of prompts; default: the embedded world's.")]
Wording = Annotated[
    Literal["template", "natural", "unseen_wording"], typer.Option(help="Of the embedded world's prompts.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@registry_app.command(epilog="Example: llmdiff lineage champion --json")
def lineage(
    version: Annotated[str, typer.Argument(help="Number, alias, or models:/ address of a version.")],
    name: Name = MODEL,
    as_json: Json = False,
) -> None:
    """What a version came from: code, models, encoder, store, and every data file."""
    from pipelines.reports.lineage import address, chain, print_chain

    found = chain(address(version, name))
    if as_json:
        print_json(found)
    else:
        print_chain(found)


@registry_app.command(
    epilog="Example: llmdiff promote --margin 0.02\n\nExample: llmdiff promote --prompts parti.tsv --metric siglip"
)
def promote(
    name: Name = MODEL,
    metric: Metric = "binding",
    prompts: Prompts = None,
    wording: Wording = "natural",
    margin: Annotated[float, typer.Option(min=0, help="How much better it must be; with 0, better at all.")] = 0.0,
    scenes: Annotated[int, typer.Option(min=1, help="Held-out scenes, each a prompt.")] = 200,
    seed: Annotated[int, typer.Option(help="Of scenes, captions and noise.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale.")] = 3.0,
    llm: Annotated[str | None, typer.Option(help="Folder or name of the LLM; default: as registered.")] = None,
    diffusion: Annotated[
        str | None, typer.Option(help="Folder or name of the base model; default: the one trained on.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the candidate the champion if it is better on the same prompts and seeds, or if there is none yet."""
    start_engine()
    from pipelines.flows.promote import promote_flow

    decision = promote_flow(name, metric, prompts, wording, margin, scenes, seed, steps, guidance, llm, diffusion)
    if as_json:
        print_json(decision.model_dump())
    else:
        print(f"{'promoted' if decision.promoted else 'not promoted'}: {decision.reason}")


@registry_app.command(epilog="Example: llmdiff rollback")
def rollback(name: Name = MODEL, as_json: Json = False) -> None:
    """Make the champion before this one the champion again."""
    from infra.tracking.registry import rollback as go_back

    left, back = go_back(name)
    if as_json:
        print_json({"name": name, "from": left, "to": back})
    else:
        print(f"champion: version {back}, before: version {left}")
