"""The command line. Each command imports what it needs when it runs, so that help answers at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from infra.ending import well_ended
from infra.environment import isolate_process
from llmdiff.spared_imports import spare_imports
from llmdiff.startup import collect_seldom, wait_without_spinning
from pipelines.cli.app import app_app
from pipelines.cli.demo import demo_app
from pipelines.cli.doctor import doctor_app
from pipelines.cli.encode import encode_app
from pipelines.cli.evaluate import evaluate_app
from pipelines.cli.generate import generate_app
from pipelines.cli.probe import probe_app
from pipelines.cli.push import push_app
from pipelines.cli.registry import registry_app
from pipelines.cli.retrain import retrain_app
from pipelines.cli.store import store_app
from pipelines.cli.store_drop import drop_app
from pipelines.cli.store_optimize import optimize_app
from pipelines.cli.study import study_app
from pipelines.cli.train import train_app
from pipelines.runtime.error_line import error_line

RESUMED = ("demo", "encode", "retrain", "study", "train")
"""Commands that go on where they were cut short."""

app = typer.Typer(
    help="A decoder-only LLM as the text encoder of a latent diffusion model: from captions to pictures.",
    epilog="Start with: llmdiff demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for group in (
    demo_app,
    probe_app,
    encode_app,
    train_app,
    generate_app,
    app_app,
    evaluate_app,
    retrain_app,
    registry_app,
    push_app,
    doctor_app,
):
    app.add_typer(group)
store_app.add_typer(drop_app)
store_app.add_typer(optimize_app)
app.add_typer(store_app, name="store")
app.add_typer(study_app, name="study")


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option(help="Show tracebacks and all logs.")] = False,
) -> None:
    """Run before every command."""
    context.obj = debug


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the console script: an error is one line and exit code 1; ``--debug`` shows where it came from."""
    if arguments is None:
        collect_seldom()
        wait_without_spinning()
        spare_imports()
        isolate_process()
        with well_ended(advice(sys.argv[1:])):
            run(sys.argv[1:])
    else:
        run(arguments)


def run(arguments: Sequence[str]) -> None:
    """Run a command; exit where it fails."""
    given = list(arguments)
    debug = "--debug" in given
    given = ["--debug", *(a for a in given if a != "--debug")] if debug else given  # wherever it was written
    try:
        app(given)
    except Exception as error:
        if debug:
            raise
        print(f"error: {error_line(error)}", file=sys.stderr)
        sys.exit(1)


def advice(arguments: Sequence[str]) -> str:
    """Return how to go on with a command that is ended."""
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    return "the same command goes on" if command in RESUMED else "run the same command again"
