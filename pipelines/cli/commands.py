"""All commands. Each imports what it needs when it runs, so that help answers at once."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import typer

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


@functools.cache
def program() -> Any:
    """Return the program that parses and runs all commands, made once: reading their signatures takes a while."""
    return typer.main.get_command(app)
