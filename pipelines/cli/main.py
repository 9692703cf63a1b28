"""The command line: signals are heeded before anything is imported that takes long."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from infra.ending import well_ended
from infra.environment import isolate_process
from llmdiff.process.startup import start_lightly, wait_without_spinning
from pipelines.runtime.error_line import error_line

RESUMED = ("demo", "encode", "retrain", "study", "train")
"""Commands that go on where they were cut short."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the console script: an error is one line and exit code 1; ``--debug`` shows where it came from."""
    if arguments is None:
        wait_without_spinning()
        start_lightly()
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
        from pipelines.cli.commands import program

        program()(given)
    except Exception as error:
        if debug:
            raise
        print(f"error: {error_line(error)}", file=sys.stderr)
        sys.exit(1)


def advice(arguments: Sequence[str]) -> str:
    """Return how to go on with a command that is ended."""
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    return "the same command goes on" if command in RESUMED else "run the same command again"
