"""The command line, called in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cli.main import main


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line that a command fails with."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 1
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, printed.err
    assert "Traceback" not in printed.err
    return errors[0].removeprefix("error: ")


def succeeds(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return printed.out
