"""The training processes' own error among all that they and their launchers printed."""

from __future__ import annotations

from pathlib import Path

ECHOES = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "NCCL", "failed to recv")
"""Texts in errors of a process that has lost another one, whose own error is the one to tell."""


class LaunchError(RuntimeError):
    """Training processes that ended with an error; the message is the failed rank's own."""


def error_of(output: str, code: int, log: Path) -> str:
    """Return what to tell of processes that printed `output` into `log` and ended with `code`."""
    errors = errors_in(output, log)
    found = [error for error in errors if not is_echo(error)] or errors
    return found[-1] if found else f"the training processes ended with exit code {code}; their output is in {log}"


def is_echo(error: str) -> bool:
    """Return whether an error says no more than that another process has gone."""
    return any(echo in error for echo in ECHOES)


def errors_in(output: str, log: Path) -> list[str]:
    """Return the errors that processes printed: those of tracebacks first, then those in a line of their own."""
    lines = [line.strip() for line in output.splitlines()]
    traced = []
    for number, line in enumerate(lines):
        if line.startswith("Traceback (most recent call last)") or "]: Traceback (most" in line:
            errors = [line for line in lines[number + 1 :] if _names_an_error(line)]
            if errors and "CalledProcessError" not in errors[0]:
                traced.append(f"{errors[0]} (whole output: {log})")
    return traced + [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


def _names_an_error(line: str) -> bool:
    name, found, _ = line.split("]: ")[-1].partition(":")
    last = name.rsplit(".", 1)[-1]
    return bool(found) and last.isidentifier() and last.endswith(("Error", "Exception", "Interrupt"))
