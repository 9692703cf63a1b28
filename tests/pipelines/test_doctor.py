"""What `llmdiff doctor` says of this machine."""

from __future__ import annotations

import sys

import pytest

from pipelines.cli.doctor import python, tar_fix
from pipelines.cli.main import main
from tests.pipelines.command_line import succeeds


def test_doctor_says_what_this_machine_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    text = succeeds(capsys, "doctor")
    for name in ("python", "packages", "kernels", "cpu", "gpu", "triton", "deepspeed", "disk", "prefect", "mlflow"):
        assert f" {name} " in text


@pytest.mark.parametrize(
    ("version", "safe"),
    [((3, 11, 13), False), ((3, 11, 14), True), ((3, 12, 11), False), ((3, 13, 6), True), ((3, 14, 0), True)],
)
def test_doctor_says_which_python_refuses_hostile_tars(version: tuple[int, int, int], safe: bool) -> None:
    text = tar_fix(*version)
    assert text.startswith("its tarfile refuses hostile tars" if safe else "its tarfile hangs on hostile tars")
    assert ("update to 3.11.14 " in text) == (version == (3, 11, 13))


def test_doctor_finds_a_server_that_does_not_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 1
    assert "BAD  prefect        http://127.0.0.1:9/api does not answer" in capsys.readouterr().out


@pytest.mark.parametrize(("version", "fine"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)])
def test_doctor_compares_python_with_both_bounds(
    version: tuple[int, int], fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 20))
    assert python().fine is fine
