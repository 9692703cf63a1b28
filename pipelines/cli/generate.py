"""The command ``llmdiff generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from infra.tracking.registry_names import SCHEME
from pipelines.cli.bootstrap import read_lines, start_engine
from pipelines.cli.options import options_of
from pipelines.requests.base import checked
from pipelines.requests.generate import GenerateRequest

generate_app = typer.Typer()


@generate_app.command(epilog='Example: llmdiff generate --prompt "a red circle to the left of a blue square"')
@options_of(GenerateRequest, without=("prompts",))
def generate(
    given: dict[str, Any],
    prompt: Annotated[list[str], typer.Option(help="What to draw; may be given several times.")] = [],  # noqa: B006
    prompts: Annotated[Path | None, typer.Option(help="Text file of prompts, one a line.")] = None,
) -> None:
    """Draw prompts with and without the adapter, from the same seeds; each PNG holds its settings."""
    texts = [*prompt, *(read_lines(prompts) if prompts is not None else [])]
    request = checked({**given, "prompts": texts}, GenerateRequest, "generate")
    start_engine(tracking=request.adapter.startswith(SCHEME))
    from pipelines.flows.generate import generate_flow

    result = generate_flow(request)
    print(f"{result.prompts} prompts with and without the adapter: {result.grid} ({result.seconds:.0f} s)")
